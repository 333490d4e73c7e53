//! What a guest shall be, and what it takes to make one so that is there already.

use std::{collections::BTreeMap, net::Ipv4Addr};

use sha2::{Digest as _, Sha256};

use super::group::{Group, name_of};
use crate::{
    objects::{
        Cluster, ClusterSpec, Disk, DiskSize, Guest, GuestIndex, GuestRole, GuestSpec, InvalidValue, Lifecycle,
        NetworkAllocation, NetworkInterface, RootDisk, SeedTemplate,
    },
    pki::kubernetes,
};

/// On Guests: what the manifest said of first-boot configuration when the guest was made, as a hash. The rendered text
/// itself would differ with every other guest that comes or goes.
pub(crate) const CONFIGURATION: &str = "goliath.dev/configuration";

/// Labels of Guests, beside those of the manifest.
pub(super) const CLUSTER_LABEL: &str = "goliath.dev/cluster";
pub(super) const ROLE_LABEL: &str = "goliath.dev/role";
pub(super) const POOL_LABEL: &str = "goliath.dev/pool";

/// What it takes to make a guest as the manifest has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// It is so.
    None,
    /// The object is written, and the guest runs on.
    Live(Box<Guest>),
    /// The object is written, and the guest starts again with its disks.
    Restart(Box<Guest>, Vec<&'static str>),
    /// The guest goes, with all its disks, and another one comes in its place.
    Replace(Vec<&'static str>),
}

/// What a guest is made from, beside its seed.
pub(super) struct Blueprint<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) network: &'a NetworkAllocation,
    pub(super) group: &'a Group<'a>,
}

impl Blueprint<'_> {
    /// The guest of this index, without seed and binding.
    pub(super) fn spec(&self, index: GuestIndex, address: Ipv4Addr) -> Result<GuestSpec, InvalidValue> {
        let Self { cluster, network, group } = self;
        let hostname = group.hostname(index).parse()?;
        let identity = kubernetes::GuestIdentity {
            role: group.role,
            hostname: &hostname,
            address,
            gateway_address: network.gateway_address,
        };
        let certificates = kubernetes::certificates(&cluster.spec, &identity)?;
        Ok(GuestSpec {
            cluster: name_of(cluster).parse()?,
            role: group.role,
            pool: group.pool.cloned(),
            index,
            hostname,
            machine: group.machine.clone(),
            boot: group.boot.clone(),
            image: group.image.clone(),
            disks: group.disks.to_vec(),
            network: Some(NetworkInterface { ipv4_address: address, mac_address: None }),
            seed: None,
            certificates,
            // The controller chooses the time of each change that needs a restart.
            lifecycle: Lifecycle {
                shutdown_grace: group.shutdown_grace,
                restart_on_change: true,
                ..Lifecycle::default()
            },
            hosts: group.hosts.clone(),
            binding: None,
        })
    }

    /// Labels of the group's Guests.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let role = match self.group.role {
            GuestRole::Master => "master",
            GuestRole::Worker => "worker",
        };
        let mut labels = self.group.labels.clone();
        labels.insert(CLUSTER_LABEL.to_owned(), name_of(self.cluster).to_owned());
        labels.insert(ROLE_LABEL.to_owned(), role.to_owned());
        labels.extend(self.group.pool.map(|pool| (POOL_LABEL.to_owned(), pool.to_string())));
        labels
    }

    /// What it takes to make a guest as it shall be.
    pub(super) fn change(&self, guest: &Guest) -> Result<Change, InvalidValue> {
        let Some(interface) = &guest.spec.network else { return Ok(Change::Replace(vec!["network"])) };
        let mut wanted = guest.clone();
        wanted.spec = GuestSpec {
            seed: guest.spec.seed.clone(),
            binding: guest.spec.binding.clone(),
            network: guest.spec.network.clone(),
            ..self.spec(guest.spec.index, interface.ipv4_address)?
        };
        wanted.metadata.labels = Some(self.labels());
        let replaced = self.replaced_for(guest, &wanted.spec);
        if !replaced.is_empty() {
            return Ok(Change::Replace(replaced));
        }
        let restarted = restarted_for(&guest.spec, &wanted.spec);
        Ok(if !restarted.is_empty() {
            Change::Restart(Box::new(wanted), restarted)
        } else if wanted.spec != guest.spec || wanted.metadata.labels != guest.metadata.labels {
            Change::Live(Box::new(wanted))
        } else {
            Change::None
        })
    }

    /// What no guest can change in its life.
    fn replaced_for(&self, guest: &Guest, wanted: &GuestSpec) -> Vec<&'static str> {
        let has = &guest.spec;
        let mut fields = Vec::new();
        // The root disk lies on the image.
        if has.image != wanted.image && root(&has.disks).is_some() {
            fields.push("image");
        }
        if !disks_can_become(&has.disks, &wanted.disks) {
            fields.push("disks");
        }
        let made_with = guest.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIGURATION));
        if made_with.is_some_and(|made_with| *made_with != configuration(&self.cluster.spec, self.group.seed)) {
            fields.push("configuration");
        }
        fields
    }
}

/// What a running QEMU cannot take.
fn restarted_for(has: &GuestSpec, wanted: &GuestSpec) -> Vec<&'static str> {
    let volume = |spec: &GuestSpec| !spec.certificates.is_empty();
    let fields = [
        ("machine", has.machine != wanted.machine),
        ("boot", has.boot != wanted.boot),
        ("image", has.image != wanted.image),
        ("disks", has.disks != wanted.disks),
        ("certificates", volume(has) != volume(wanted)),
    ];
    fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

fn root(disks: &[Disk]) -> Option<&RootDisk> {
    disks.iter().find_map(|disk| match disk {
        Disk::Root(root) => Some(root),
        Disk::Data(_) => None,
    })
}

fn data(disks: &[Disk]) -> BTreeMap<&str, DiskSize> {
    let data = |disk| match disk {
        &Disk::Root(_) => None,
        Disk::Data(data) => Some((data.serial.as_str(), data.size)),
    };
    disks.iter().filter_map(data).collect()
}

/// Disks stay for life, and may grow; others may come.
fn disks_can_become(has: &[Disk], wanted: &[Disk]) -> bool {
    let root_can = match (root(has), root(wanted)) {
        (None, _) => true,
        (Some(_), None) => false,
        // Without a size it has its image's, and an image is no smaller.
        (Some(has), Some(wanted)) => has.size.is_none() || wanted.size >= has.size,
    };
    let wanted = data(wanted);
    root_can && data(has).into_iter().all(|(serial, size)| wanted.get(serial).is_some_and(|wanted| *wanted >= size))
}

/// Whether a replaced guest takes more with it than can be downloaded again.
pub(super) fn keeps_data(guest: &Guest) -> bool {
    guest.spec.disks.iter().any(|disk| matches!(disk, Disk::Data(_)))
}

/// What the manifest says of first-boot configuration: a guest that was made with another one is made again. Not in it
/// are numbers of guests and labels, and the texts of the operator's own templates: with a new version of the operator
/// nobody's guests are replaced.
pub(super) fn configuration(cluster: &ClusterSpec, seed: &SeedTemplate) -> String {
    let said = (seed, &cluster.kubernetes, &cluster.ingress, &cluster.network.ntp_servers);
    // Maps have their keys in order; what is left out in the manifest is left out here.
    let text = serde_json::to_vec(&said).unwrap_or_default();
    let hash = Sha256::digest(&text);
    let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("{number:016x}")
}
