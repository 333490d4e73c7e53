//! What placement needs to know of a host.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use goliath_proto::values::{ByteSize, ClusterName, Digest, GuestUid, HostName, HostRole, Vni, ZoneName};
use ipnetwork::Ipv4Network;

/// A host as declared, and as its agent tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Unique.
    pub name: HostName,
    /// Hosts without one are a zone of their own.
    pub zone: Option<ZoneName>,
    /// What it is for.
    pub roles: BTreeSet<HostRole>,
    /// What pools select hosts by.
    pub labels: BTreeMap<String, String>,
    /// By an administrator, here or at its agent.
    pub cordoned: bool,
    /// Set while the host is not ready: silent, being dialled, refused.
    pub not_ready: Option<Condition>,
    /// The doctor's failed checks.
    pub faults: Vec<Condition>,
    /// What its agent told last; none: it was never heard of.
    pub inventory: Option<Inventory>,
}

/// What keeps guests off a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// A condition's reason, or a check's name.
    pub reason: String,
    /// What was seen.
    pub message: String,
}

/// What an agent told of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// If no guest were there.
    pub capacity: Resources,
    /// What the guests that the agent knows of leave; the overhead of a new one is not taken off.
    pub left: Resources,
    /// What a QEMU takes beside its guest's memory, as measured there.
    pub overhead: ByteSize,
    /// The guests that `left` counts already, each with what the agent was told of it.
    pub guests: HashMap<GuestUid, Resources>,
    /// What can run vCPUs there.
    pub accelerators: Accelerators,
    /// The networks of the host's own devices.
    pub networks: Vec<Ipv4Network>,
    /// VNIs in use on the host, and by whom.
    pub vnis: BTreeMap<Vni, Held>,
    /// Images in its store.
    pub images: BTreeSet<Digest>,
    /// Images that it was seen to fail to get.
    pub unobtainable: BTreeSet<Digest>,
}

/// Who has a VNI on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// A cluster of this operator, or one that its agent still knows of.
    ByCluster(ClusterName),
    /// A device that no agent made.
    ByStranger,
}

/// What can run vCPUs on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accelerators {
    /// Tried by the doctor.
    pub kvm: bool,
    /// Allowed by the host's configuration.
    pub tcg: bool,
}

impl fmt::Display for Accelerators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match (self.kvm, self.tcg) {
            (true, true) => "kvm and tcg",
            (true, false) => "kvm alone",
            (false, true) => "tcg alone",
            (false, false) => "none",
        })
    }
}

/// Amounts of what guests share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Resources {
    /// Processors; a host has its own times a ratio.
    pub vcpus: u64,
    /// Memory.
    pub memory: ByteSize,
    /// On the file system of guests' disks.
    pub disk: ByteSize,
}

/// One kind of [`Resources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Memory.
    Memory,
    /// Processors.
    Vcpus,
    /// Disk.
    Disk,
}

impl Resource {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Vcpus, Self::Disk];

    /// So much of it, as people say it.
    pub fn amount(self, number: u64) -> String {
        match self {
            Self::Memory | Self::Disk => ByteSize::bytes(number).to_string(),
            Self::Vcpus => number.to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Vcpus => "vCPUs",
            Self::Disk => "disk",
        })
    }
}

impl Resources {
    /// How much of one kind: vCPUs or bytes.
    pub fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Memory => self.memory.get(),
            Resource::Vcpus => self.vcpus,
            Resource::Disk => self.disk.get(),
        }
    }

    fn combine(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        let bytes = |one: ByteSize, other: ByteSize| ByteSize::bytes(combine(one.get(), other.get()));
        Self {
            vcpus: combine(self.vcpus, other.vcpus),
            memory: bytes(self.memory, other.memory),
            disk: bytes(self.disk, other.disk),
        }
    }

    /// The sum, or the most there can be.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.combine(other, u64::saturating_add)
    }

    /// What is left of each kind; nothing where there is less.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.combine(other, u64::saturating_sub)
    }

    /// The less of each kind.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.combine(other, u64::min)
    }

    /// Whether each kind is within what there is.
    pub fn fits(&self, room: &Self) -> bool {
        Resource::ALL.iter().all(|kind| self.get(*kind) <= room.get(*kind))
    }

    /// What a guest of this size takes with its QEMU.
    #[must_use]
    pub fn with_overhead(self, overhead: ByteSize) -> Self {
        self.plus(Self { memory: overhead, ..Self::default() })
    }
}
