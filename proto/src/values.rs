//! What fields of the API may hold, as types that cannot hold an invalid value: the same for those who ask and those who
//! answer.

mod digest;
mod names;
mod overlay_cidr;
mod quantities;

pub use digest::Digest;
pub use names::{
    CertificateName, ClusterName, DiskSerial, GuestName, GuestUid, HostName, HostRole, IssuerName, PoolName, ZoneName,
};
pub use overlay_cidr::OverlayCidr;
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
