//! Hosts and guests for tests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use goliath_proto::values::{ByteSize, Digest, GuestUid, HostName};
use uuid::Uuid;

use super::super::*;

pub(in super::super) fn uid(number: u32) -> GuestUid {
    // Spread as random ones are.
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &number.to_be_bytes()).to_string().parse().unwrap()
}

pub(in super::super) fn host_name(number: u8) -> HostName {
    format!("host-{number}").parse().unwrap()
}

pub(in super::super) fn image(number: u8) -> Digest {
    Digest::from_sha256(&[number; 32])
}

/// With ten times as much disk as memory.
pub(in super::super) fn resources(vcpus: u64, memory_mib: u64) -> Resources {
    Resources { vcpus, memory: ByteSize::mib(memory_mib), disk: ByteSize::mib(10 * memory_mib) }
}

/// Of an empty host without overhead.
pub(in super::super) fn inventory(vcpus: u64, memory_mib: u64) -> Inventory {
    let capacity = resources(vcpus, memory_mib);
    Inventory {
        capacity,
        left: capacity,
        overhead: ByteSize::default(),
        guests: HashMap::new(),
        accelerators: Accelerators { kvm: true, tcg: false },
        networks: Vec::new(),
        vnis: BTreeMap::new(),
        images: BTreeSet::new(),
        unobtainable: BTreeSet::new(),
    }
}

/// An empty host that is ready: 8 vCPUs, 4 GiB.
pub(in super::super) fn host(number: u8, zone: &str) -> Host {
    Host {
        name: host_name(number),
        zone: (!zone.is_empty()).then(|| zone.parse().unwrap()),
        roles: BTreeSet::new(),
        labels: BTreeMap::new(),
        cordoned: false,
        not_ready: None,
        faults: Vec::new(),
        inventory: Some(inventory(8, 4096)),
    }
}

/// 1 vCPU, 512 MiB, 512 MiB of disk.
pub(in super::super) fn needs() -> Needs {
    Needs {
        demand: Resources { vcpus: 1, memory: ByteSize::mib(512), disk: ByteSize::mib(512) },
        accelerator: Accelerator::Auto,
        zones: BTreeSet::new(),
        roles: BTreeSet::new(),
        labels: BTreeMap::new(),
        image: None,
    }
}

pub(in super::super) fn worker(number: u32) -> Guest {
    worker_with(number, needs())
}

pub(in super::super) fn worker_with(number: u32, needs: Needs) -> Guest {
    Guest {
        uid: uid(number),
        cluster: "acme".parse().unwrap(),
        group: Group::Pool("pool".parse().unwrap()),
        needs: Arc::new(needs),
        overlay: None,
    }
}

pub(in super::super) fn master(number: u32) -> Guest {
    Guest { group: Group::Masters, ..worker(number) }
}

pub(in super::super) fn fleet(hosts: impl IntoIterator<Item = Host>) -> Fleet {
    let mut fleet = Fleet::new();
    for host in hosts {
        fleet.upsert_host(host);
    }
    fleet
}

/// Chooses, by both ways, and binds.
pub(in super::super) fn place(fleet: &mut Fleet, guest: &Guest) -> Decision {
    let decision = fleet.choose(guest);
    assert_eq!(decision, fleet.choose_by_scan(guest));
    if let Some(host) = decision.host() {
        fleet.bind(guest, host);
    }
    decision
}
