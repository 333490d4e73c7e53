//! The APIs as code: messages, clients and servers of `goliath.agent.v1` and `goliath.operator.v1`.
//!
//! What a field means stands in the `.proto` files; generated code repeats it.

/// `goliath.agent.v1`, the API of one host's agent.
pub mod agent {
    /// Version 1.
    #[allow(clippy::all, clippy::pedantic, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("goliath.agent.v1");
    }

    /// The descriptors of its files, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent_descriptor.bin"));
}

/// `goliath.operator.v1`, the API of the operator of many hosts.
pub mod operator {
    /// Version 1.
    #[allow(clippy::all, clippy::pedantic, missing_docs)]
    pub mod v1 {
        tonic::include_proto!("goliath.operator.v1");
    }

    /// The descriptors of its files, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/operator_descriptor.bin"));
}

pub mod values;
