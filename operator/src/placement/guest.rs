//! What placement needs to know of a guest.

use std::{collections::BTreeMap, collections::BTreeSet, fmt, sync::Arc};

use goliath_proto::values::{ClusterName, Digest, GuestUid, HostRole, OverlayCidr, PoolName, Vni, ZoneName};

use super::host::Resources;

/// A guest to place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// For life.
    pub uid: GuestUid,
    /// Whose it is.
    pub cluster: ClusterName,
    /// With which other guests of the cluster it is spread.
    pub group: Group,
    /// What a host must have for it; shared by all guests of a group.
    pub needs: Arc<Needs>,
    /// The network of its cluster; none: it has no interface.
    pub overlay: Option<OverlayNeed>,
}

/// Guests of a cluster that are spread over zones and hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// No two of them on one host.
    Masters,
    /// The workers of a pool.
    Pool(PoolName),
}

/// What a host must have for a guest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Needs {
    /// vCPUs, the guest's own memory, and what its disks can grow to.
    pub demand: Resources,
    /// What runs its vCPUs.
    pub accelerator: Accelerator,
    /// Empty: any, and hosts without a zone.
    pub zones: BTreeSet<ZoneName>,
    /// Roles that a host must have, all of them.
    pub roles: BTreeSet<HostRole>,
    /// Labels that a host must have.
    pub labels: BTreeMap<String, String>,
    /// Where it is known.
    pub image: Option<Digest>,
}

/// What shall run a guest's vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Accelerator {
    /// Whatever the host has.
    Auto,
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// What a cluster's network takes on each of its hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OverlayNeed {
    /// Nobody else's on the host.
    pub vni: Vni,
    /// Apart from the host's own networks.
    pub cidr: OverlayCidr,
}
