//! What a guest and a network shall be, in types that cannot hold an invalid value.
//!
//! A value is parsed once, at the edge ([`crate::api`] for requests, the ledger for what was written before), and is
//! carried inside as its type. The JSON form of these types is the ledger's format.

mod guest;
mod image_reference;
mod network;
#[cfg(test)]
pub(crate) mod test;

pub use goliath_proto::values::{
    ByteSize, CertificateName, ClusterName, Digest, DiskSerial, Generation, GuestName, GuestUid, InvalidValue,
    IssuerName, MacAddress, Mtu, OverlayCidr, Vni,
};
pub use guest::{
    Accelerator, Boot, CertificateRequest, CertificateVolume, DataDisk, DesiredState, GuestSpec, Lifecycle, Machine,
    NetworkInterface, RestartPolicy, RootDisk, Seed, SeedKind,
};
pub use image_reference::{ImageReference, ImageSource};
pub use network::{GuestEndpoint, HostEndpoint, NetworkSpec, Peer, PeerList};
