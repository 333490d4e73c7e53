//! Groups of guests that are all alike: the masters, and each pool of workers.

use std::collections::BTreeMap;

use crate::objects::{
    Boot, Cluster, ClusterSpec, Disk, DnsLabel, GuestIndex, GuestRole, HostRequirements, ImageReference, Machine,
    SeedTemplate, TimeSpan,
};

/// Guests that are all alike, as the manifest has them.
#[derive(Debug, Clone)]
pub(crate) struct Group<'a> {
    pub(crate) role: GuestRole,
    /// Of workers.
    pub(crate) pool: Option<&'a DnsLabel>,
    pub(crate) replicas: u16,
    pub(crate) machine: &'a Machine,
    pub(crate) image: &'a ImageReference,
    pub(crate) boot: &'a Boot,
    pub(crate) disks: &'a [Disk],
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) hosts: HostRequirements,
    pub(crate) seed: &'a SeedTemplate,
    pub(crate) shutdown_grace: TimeSpan,
}

impl<'a> Group<'a> {
    /// The masters, then the pools in the order of the manifest.
    pub(crate) fn all(cluster: &'a ClusterSpec) -> Vec<Self> {
        let masters = &cluster.masters;
        let masters = Self {
            role: GuestRole::Master,
            pool: None,
            replicas: masters.replicas.get(),
            machine: &masters.machine,
            image: &masters.image,
            boot: &masters.boot,
            disks: &masters.disks,
            labels: &masters.labels,
            hosts: masters.hosts(),
            seed: &masters.seed,
            shutdown_grace: masters.shutdown_grace,
        };
        let pools = cluster.workers.iter().map(|pool| Self {
            role: GuestRole::Worker,
            pool: Some(&pool.name),
            replicas: pool.replicas.get(),
            machine: &pool.machine,
            image: &pool.image,
            boot: &pool.boot,
            disks: &pool.disks,
            labels: &pool.labels,
            hosts: pool.hosts(),
            seed: &pool.seed,
            shutdown_grace: pool.shutdown_grace,
        });
        std::iter::once(masters).chain(pools).collect()
    }

    /// In front of the index in the names of its guests.
    pub(crate) fn prefix(&self) -> &'a str {
        self.pool.map_or("master", DnsLabel::as_str)
    }

    /// The indexes that its guests have.
    pub(crate) fn indexes(&self) -> impl DoubleEndedIterator<Item = GuestIndex> + use<> {
        // There are as many indexes as a pool can have guests.
        (0..self.replicas).filter_map(|index| GuestIndex::try_from(u64::from(index)).ok())
    }

    /// The name of one of its guests within the cluster.
    pub(crate) fn hostname(&self, index: GuestIndex) -> String {
        format!("{}-{index}", self.prefix())
    }
}

/// The name of a guest's object.
pub(super) fn object_name(cluster: &str, hostname: &str) -> String {
    format!("{cluster}.{hostname}")
}

/// The cluster's name; it has one, since it was stored.
pub(super) fn name_of(cluster: &Cluster) -> &str {
    cluster.metadata.name.as_deref().unwrap_or_default()
}
