//! The agent's API as code: messages, clients and servers of `goliath.agent.v1`.
//!
//! What a field means stands in the `.proto` files; generated code repeats it.

/// `goliath.agent.v1`, the API of one host's agent.
pub mod agent {
    /// Version 1.
    #[allow(clippy::all, clippy::pedantic, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("goliath.agent.v1");
    }
}

pub mod values;

/// The descriptors of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/goliath_descriptor.bin"));
