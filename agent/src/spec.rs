//! What a guest and a network shall be, in types that cannot hold an invalid value.
//!
//! A value is parsed once, at the edge ([`crate::api`] for requests, the ledger for what was written before), and is
//! carried inside as its type. The JSON form of these types is the ledger's format.

mod guest;
mod image_reference;
mod names;
mod network;
mod quantities;
#[cfg(test)]
pub(crate) mod test;

pub use guest::{
    Accelerator, Boot, CertificateRequest, DataDisk, DesiredState, GuestSpec, Lifecycle, Machine, NetworkInterface,
    RestartPolicy, RootDisk, Seed, SeedKind,
};
pub use image_reference::{Digest, ImageReference, ImageSource};
pub use names::{CertificateName, ClusterName, DiskSerial, GuestName, GuestUid, IssuerName};
pub use network::{GuestEndpoint, HostEndpoint, NetworkSpec, Peer, PeerList};
pub use quantities::{ByteSize, Generation, MacAddress, Mtu, Vni};

/// Why a text or number is not a value of the type asked for: what is wrong, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

impl InvalidValue {
    /// A reason, as a clause that can follow a field's path: "must not be empty".
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}
