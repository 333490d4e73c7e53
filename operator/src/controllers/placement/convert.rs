//! Objects as placement knows them.

use std::{collections::BTreeSet, sync::Arc};

use goliath_proto::values::{ByteSize, GuestUid, InvalidValue};

use crate::{
    objects::{self, ConditionStatus, Conditions, Disk, GuestRole, NetworkAllocation, ResourceExt as _},
    placement::{
        Accelerator, Accelerators, Condition, Group, Guest, Held, Host, Inventory, Needs, OverlayNeed, Resources,
    },
};

/// What hosts must have for a guest.
pub(super) fn needs(guest: &objects::Guest) -> Result<Needs, InvalidValue> {
    let spec = &guest.spec;
    let digest = spec.image.as_str().rsplit_once('@').map(|(_, digest)| digest);
    let seen = guest.status.as_ref().and_then(|status| status.image_digest.as_ref()).map(objects::Digest::as_str);
    Ok(Needs {
        demand: demand(guest),
        accelerator: match spec.machine.accelerator {
            objects::Accelerator::Auto => Accelerator::Auto,
            objects::Accelerator::Kvm => Accelerator::Kvm,
            objects::Accelerator::Tcg => Accelerator::Tcg,
        },
        zones: spec.hosts.zones.iter().map(|zone| zone.as_str().parse()).collect::<Result<_, _>>()?,
        roles: spec.hosts.roles.iter().map(|role| role.as_str().parse()).collect::<Result<_, _>>()?,
        labels: std::collections::BTreeMap::new(),
        // A tag says nothing about what is in a host's store.
        image: digest.or(seen).map(str::parse).transpose()?,
    })
}

/// What a guest may use. A root disk without a size has its image's, which the agent knows and counts.
pub(super) fn demand(guest: &objects::Guest) -> Resources {
    let machine = &guest.spec.machine;
    let size = |disk: &Disk| match disk {
        Disk::Root(root) => root.size.map_or(0, objects::Size::bytes),
        Disk::Data(data) => data.size.bytes(),
    };
    Resources {
        vcpus: machine.vcpus.get().into(),
        memory: ByteSize::bytes(machine.memory.bytes()),
        disk: ByteSize::bytes(guest.spec.disks.iter().map(size).fold(0, u64::saturating_add)),
    }
}

/// Its identity for life.
pub(super) fn uid(guest: &objects::Guest) -> Option<GuestUid> {
    guest.metadata.uid.as_ref()?.parse().ok()
}

/// A guest to place. `network` is its cluster's.
pub(super) fn guest(
    guest: &objects::Guest,
    needs: Arc<Needs>,
    network: Option<(&objects::Ipv4Cidr, &NetworkAllocation)>,
) -> Result<Guest, InvalidValue> {
    let group = match (guest.spec.role, &guest.spec.pool) {
        (GuestRole::Worker, Some(pool)) => Group::Pool(pool.as_str().parse()?),
        // A worker of no pool is nobody's like.
        (GuestRole::Worker, None) => Group::Pool(guest.spec.hostname.as_str().parse()?),
        (GuestRole::Master, _) => Group::Masters,
    };
    let overlay = network
        .map(|(cidr, network)| Ok(OverlayNeed { vni: network.vni.get().try_into()?, cidr: cidr.to_string().parse()? }));
    Ok(Guest {
        uid: guest.metadata.uid.as_deref().unwrap_or_default().parse()?,
        cluster: guest.spec.cluster.as_str().parse()?,
        group,
        needs,
        overlay: overlay.transpose()?,
    })
}

/// A host, with the guests that are bound to it.
pub(super) fn host(host: &objects::Host, bound: &[Arc<objects::Guest>]) -> Result<Host, InvalidValue> {
    let status = host.status.clone().unwrap_or_default();
    let not_true = |type_: &str| {
        let condition = status.conditions.get(type_)?;
        (condition.status != ConditionStatus::True).then(|| told(&status.conditions, type_)).flatten()
    };
    // The doctor's word and the agent's are in Ready too; the more precise one is told.
    let faults: Vec<_> = ["DoctorPassed", "AcceleratorReady", "LedgerReadable"]
        .into_iter()
        .filter(|type_| status.conditions.get(type_).is_some_and(|seen| seen.status == ConditionStatus::False))
        .filter_map(|type_| told(&status.conditions, type_))
        .collect();
    let not_ready = not_true("Reachable").or_else(|| not_true("Ready").filter(|_| faults.is_empty()));
    Ok(Host {
        name: host.name_any().parse()?,
        zone: host.spec.zone.as_ref().map(|zone| zone.as_str().parse()).transpose()?,
        roles: host.spec.roles.iter().map(|role| role.as_str().parse()).collect::<Result<_, _>>()?,
        labels: host.metadata.labels.clone().unwrap_or_default(),
        cordoned: host.spec.cordoned || status.cordoned,
        not_ready,
        faults,
        inventory: inventory(host, &status, bound),
    })
}

fn told(conditions: &Conditions, type_: &str) -> Option<Condition> {
    let condition = conditions.get(type_)?;
    Some(Condition { reason: condition.reason.clone(), message: condition.message.clone() })
}

fn inventory(host: &objects::Host, status: &objects::HostStatus, bound: &[Arc<objects::Guest>]) -> Option<Inventory> {
    let capacity = resources(status.capacity.as_ref()?);
    let overhead = ByteSize::bytes(status.guest_overhead.map_or(0, objects::ByteSize::bytes));
    // What the agent calls available is without the next guest's overhead.
    let left = resources(status.available.as_ref()?).with_overhead(overhead).min(capacity);
    let name = host.name_any();
    let seen = bound.iter().filter(|guest| is_counted(guest, &name));
    let accelerator = status.accelerator;
    Some(Inventory {
        capacity,
        left,
        overhead,
        guests: seen.filter_map(|guest| Some((uid(guest)?, demand(guest)))).collect(),
        accelerators: Accelerators {
            kvm: accelerator == Some(objects::Accelerator::Kvm),
            tcg: status.tcg_allowed || accelerator == Some(objects::Accelerator::Tcg),
        },
        networks: status.networks.iter().map(|network| network.network()).collect(),
        vnis: status
            .foreign_vnis
            .iter()
            .filter_map(|vni| Some((vni.get().try_into().ok()?, Held::ByStranger)))
            .collect(),
        images: digests(&status.images),
        unobtainable: BTreeSet::new(),
    })
}

/// Whether the host's agent knows of the guest as it is now, so that what it says is left is without it.
pub(super) fn is_counted(guest: &objects::Guest, host: &str) -> bool {
    guest.status.as_ref().is_some_and(|status| {
        status.host.as_ref().is_some_and(|seen| seen.as_str() == host)
            && status.observed_generation == guest.metadata.generation
    })
}

fn resources(capacity: &objects::Capacity) -> Resources {
    Resources {
        vcpus: capacity.vcpus.into(),
        memory: ByteSize::bytes(capacity.memory.bytes()),
        disk: ByteSize::bytes(capacity.disk.bytes()),
    }
}

fn digests(images: &[objects::Digest]) -> BTreeSet<goliath_proto::values::Digest> {
    images.iter().filter_map(|digest| digest.as_str().parse().ok()).collect()
}
