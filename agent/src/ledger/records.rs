use serde::{Deserialize, Serialize};

use crate::spec::{GuestSpec, NetworkSpec, PeerList};

/// One guest that the host was told to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRecord {
    /// As asked for.
    pub spec: GuestSpec,
    /// Whether it was asked to go: the record stays until nothing of the guest is left.
    pub deleting: bool,
}

/// One network that the host was told to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// As asked for.
    pub spec: NetworkSpec,
    /// The other hosts, once the caller told of them.
    pub peers: Option<PeerList>,
    /// Whether it was asked to go.
    pub deleting: bool,
}

/// What was said of the host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostRecord {
    /// Takes no new guests.
    pub cordoned: bool,
}
