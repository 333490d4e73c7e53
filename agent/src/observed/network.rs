use std::path::PathBuf;

use super::Conditions;
use crate::spec::{Generation, Mtu};

/// What was seen of a cluster's network on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkStatus {
    /// Ready; Drift, with what was last repaired; Deleting.
    pub conditions: Conditions,
    /// The generation of the spec that was last worked on.
    pub observed_generation: Option<Generation>,
    /// The generation of the peer list that was last worked on.
    pub observed_peers_generation: Option<Generation>,
    /// As in use.
    pub mtu: Option<Mtu>,
    /// Where its network namespace is bound.
    pub namespace: PathBuf,
    /// Guests attached on this host.
    pub ports: u32,
    /// How often something that changed under us was put right.
    pub repairs: u64,
}
