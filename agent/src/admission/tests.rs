use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    ledger::HostRecord,
    spec::{
        Boot, ClusterName, DataDisk, GuestEndpoint, HostEndpoint, MacAddress, NetworkInterface, NetworkSpec, Peer,
        PeerList, RootDisk, test::guest,
    },
};

const GIB: u64 = 1 << 30;

/// 8 processors, 16 GiB, 100 GiB of disk.
fn room() -> Room {
    let disk = ByteSize::bytes(100 * GIB);
    Room {
        capacity: Capacity { vcpus: 8, memory: ByteSize::bytes(16 * GIB), disk },
        disk_free: disk,
        overheads: Overheads::at_least(ByteSize::mib(128)),
    }
}

fn ledger(guests: impl IntoIterator<Item = GuestSpec>, networks: impl IntoIterator<Item = NetworkSpec>) -> Snapshot {
    let guests = guests.into_iter().map(|spec| (spec.uid, Arc::new(GuestRecord { spec, deleting: false })));
    let networks = networks
        .into_iter()
        .map(|spec| (spec.cluster.clone(), Arc::new(NetworkRecord { spec, peers: None, deleting: false })));
    Snapshot { guests: Arc::new(guests.collect()), networks: Arc::new(networks.collect()), host: HostRecord::default() }
}

fn admit(snapshot: &Snapshot, new: &GuestSpec) -> Result<Outcome, Refusal> {
    admit_guest(snapshot, &room(), &|_| None, new)
}

fn kinds<T>(admitted: Result<T, Refusal>) -> Vec<(ConflictKind, String)> {
    match admitted {
        Err(Refusal::Conflicts(conflicts)) => {
            conflicts.into_iter().map(|conflict| (conflict.kind, conflict.subject)).collect()
        }
        _ => Vec::new(),
    }
}

fn at(address: [u8; 4]) -> NetworkInterface {
    NetworkInterface { address: address.into(), mac_address: None }
}

fn next(spec: &GuestSpec, change: impl FnOnce(&mut GuestSpec)) -> GuestSpec {
    let mut spec = GuestSpec { generation: (spec.generation.get() + 1).try_into().unwrap(), ..spec.clone() };
    change(&mut spec);
    spec
}

#[test]
fn the_rules_of_generations() {
    let held = GuestSpec { generation: 5.try_into().unwrap(), ..guest("a") };
    let snapshot = ledger([held.clone()], []);
    let with = |generation: u64, vcpus: u8| {
        let mut spec = GuestSpec { generation: generation.try_into().unwrap(), ..held.clone() };
        spec.machine.vcpus = vcpus;
        admit(&snapshot, &spec)
    };
    assert_eq!(with(5, 1), Ok(Outcome::Unchanged));
    assert_eq!(with(6, 1), Ok(Outcome::Updated));
    assert_eq!(with(6, 2), Ok(Outcome::Updated));
    assert_eq!(kinds(with(5, 2)), [(ConflictKind::ReusedGeneration, "spec.generation".to_owned())]);
    assert_eq!(kinds(with(4, 1)), [(ConflictKind::StaleGeneration, "spec.generation".to_owned())]);
    assert_eq!(admit(&snapshot, &guest("b")), Ok(Outcome::Created));
}

#[test]
fn a_guest_that_goes_does_not_come_back_before_it_is_gone() {
    let held = guest("a");
    let mut snapshot = ledger([], []);
    let record = GuestRecord { spec: held.clone(), deleting: true };
    snapshot.guests = Arc::new(BTreeMap::from([(held.uid, Arc::new(record))]));
    assert_eq!(kinds(admit(&snapshot, &held))[0].0, ConflictKind::Deleting);
    assert_eq!(kinds(admit(&snapshot, &next(&held, |_| ())))[0].0, ConflictKind::Deleting);
}

#[test]
fn a_cordoned_host_takes_no_new_guest_and_keeps_changing_its_own() {
    let held = guest("a");
    let mut snapshot = ledger([held.clone()], []);
    snapshot.host.cordoned = true;
    assert_eq!(kinds(admit(&snapshot, &guest("b")))[0].0, ConflictKind::Cordoned);
    assert_eq!(admit(&snapshot, &next(&held, |_| ())), Ok(Outcome::Updated));
    assert_eq!(admit(&snapshot, &held), Ok(Outcome::Unchanged));
}

type Change = fn(&mut GuestSpec);

#[test]
fn what_a_guest_is_for_life_does_not_change() {
    let mut held = guest("a");
    held.root_disk = Some(RootDisk { size: Some(ByteSize::bytes(8 * GIB)) });
    held.data_disks = vec![DataDisk { serial: "etcd".parse().unwrap(), size: ByteSize::bytes(GIB) }];
    let snapshot = ledger([held.clone()], []);
    let table: &[(Change, &[&str])] = &[
        (|spec| spec.name = "b".parse().unwrap(), &["spec.name"]),
        (|spec| spec.cluster = "other".parse().unwrap(), &["spec.cluster"]),
        (|spec| spec.image = "registry.example/tiny:v2".parse().unwrap(), &["spec.image"]),
        (|spec| spec.root_disk = None, &["spec.disks"]),
        (|spec| spec.root_disk = Some(RootDisk { size: None }), &["spec.disks"]),
        (|spec| spec.root_disk = Some(RootDisk { size: Some(ByteSize::bytes(GIB)) }), &["spec.disks"]),
        (|spec| spec.data_disks.clear(), &["spec.disks"]),
        (|spec| spec.data_disks[0].size = ByteSize::mib(1), &["spec.disks"]),
        (
            |spec| {
                spec.name = "b".parse().unwrap();
                spec.data_disks.clear();
            },
            &["spec.name", "spec.disks"],
        ),
        (|spec| spec.root_disk = Some(RootDisk { size: Some(ByteSize::bytes(9 * GIB)) }), &[]),
        (|spec| spec.data_disks[0].size = ByteSize::bytes(2 * GIB), &[]),
        (|spec| spec.machine.vcpus = 2, &[]),
        (|spec| spec.labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]), &[]),
    ];
    for (number, (change, expected)) in table.iter().enumerate() {
        let refused = kinds(admit(&snapshot, &next(&held, change)));
        let fields: Vec<&str> = refused.iter().map(|(_, field)| field.as_str()).collect();
        assert_eq!(fields, *expected, "row {number}");
        assert!(refused.iter().all(|(kind, _)| *kind == ConflictKind::Immutable), "row {number}");
    }
}

#[test]
fn an_image_may_change_where_no_root_disk_lies_on_it() {
    let held = guest("a");
    let new = next(&held, |spec| spec.image = "registry.example/tiny:v2".parse().unwrap());
    assert_eq!(admit(&ledger([held], []), &new), Ok(Outcome::Updated));
}

#[test]
fn two_guests_of_a_cluster_share_no_name_no_address_and_no_mac() {
    let other = GuestSpec { network: Some(at([10, 7, 0, 10])), ..guest("a") };
    let snapshot = ledger([other.clone()], []);
    let mut new = guest("b");
    assert_eq!(admit(&snapshot, &GuestSpec { network: Some(at([10, 7, 0, 11])), ..new.clone() }), Ok(Outcome::Created));
    new.name = other.name.clone();
    new.network =
        Some(NetworkInterface { address: [10, 7, 0, 10].into(), mac_address: Some(MacAddress::of_guest(other.uid)) });
    let refused: Vec<ConflictKind> = kinds(admit(&snapshot, &new)).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(refused, [ConflictKind::NameTaken, ConflictKind::AddressTaken, ConflictKind::MacAddressTaken]);
    // Clusters are worlds of their own.
    new.cluster = "other".parse().unwrap();
    assert_eq!(admit(&snapshot, &new), Ok(Outcome::Created));
}

fn acme() -> NetworkSpec {
    NetworkSpec {
        cluster: "acme".parse().unwrap(),
        generation: 1.try_into().unwrap(),
        vni: 7.try_into().unwrap(),
        cidr: "10.7.0.0/24".parse().unwrap(),
        gateway: [10, 7, 0, 1].into(),
        host_address: [10, 7, 0, 2].into(),
        mtu: None,
        egress: true,
        dns_servers: Vec::new(),
    }
}

#[test]
fn an_address_is_one_that_a_guest_can_have_in_the_clusters_network() {
    let snapshot = ledger([], [acme()]);
    for bad in [[10, 8, 0, 10], [10, 7, 0, 0], [10, 7, 0, 255], [10, 7, 0, 1], [10, 7, 0, 2]] {
        let refused = kinds(admit(&snapshot, &GuestSpec { network: Some(at(bad)), ..guest("a") }));
        assert_eq!(refused, [(ConflictKind::AddressUnusable, "spec.network.ipv4_address".to_owned())], "{bad:?}");
    }
    assert_eq!(admit(&snapshot, &GuestSpec { network: Some(at([10, 7, 0, 3])), ..guest("a") }), Ok(Outcome::Created));
    // A network may come after its guests: they wait for it.
    let elsewhere = GuestSpec { cluster: "other".parse().unwrap(), network: Some(at([10, 8, 0, 10])), ..guest("a") };
    assert_eq!(admit(&snapshot, &elsewhere), Ok(Outcome::Created));
}

#[test]
fn a_refusal_says_which_number_is_short_and_by_how_much() {
    let mut other = guest("a");
    other.machine.memory = ByteSize::bytes(12 * GIB);
    other.machine.vcpus = 6;
    let mut new = guest("b");
    new.machine.memory = ByteSize::bytes(4 * GIB);
    new.machine.vcpus = 3;
    new.data_disks = vec![DataDisk { serial: "etcd".parse().unwrap(), size: ByteSize::bytes(101 * GIB) }];
    let Err(Refusal::Full(shortages)) = admit(&ledger([other], []), &new) else { panic!("it does not fit") };
    let told: Vec<String> = shortages.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "memory is short by 256 MiB: the guest needs 4.1 GiB, of which 128 MiB configured overhead; 3.9 GiB are left",
            "disk is short by 1 GiB: the guest's disks can grow to 101 GiB, 100 GiB are left",
            "vCPUs are short by 1: the guest asks for 3, 2 are left",
        ]
    );
}

#[test]
fn what_was_measured_counts_for_every_guest_of_its_kind() {
    let (held, mut new) = (guest("a"), guest("b"));
    let mut room = room();
    assert!(room.overheads.saw(MachineKind::of(&held), ByteSize::mib(300)));
    let snapshot = ledger([held.clone()], []);
    let available = room.available(&[Demand::of(&held, None)]).memory;
    assert_eq!(available, ByteSize::bytes(16 * GIB - held.machine.memory.get() - ByteSize::mib(600).get()));

    let mut other_kind = guest("c");
    other_kind.boot = Boot::Firmware { path: None };
    for spec in [&mut new, &mut other_kind] {
        spec.machine.memory = available;
        assert_eq!(admit_guest(&snapshot, &room, &|_| None, spec), Ok(Outcome::Created), "{}", spec.name);
    }
    new.machine.memory = ByteSize::bytes(available.get() + ByteSize::MIB.get());
    let Err(Refusal::Full(shortages)) = admit_guest(&snapshot, &room, &|_| None, &new) else {
        panic!("it does not fit")
    };
    let told = shortages[0].to_string();
    assert!(told.starts_with("memory is short by 1 MiB: "), "{told}");
    assert!(told.contains(", of which 300 MiB measured overhead;"), "{told}");
}

#[test]
fn a_root_disk_without_a_size_counts_as_its_image_where_that_is_known() {
    let mut new = guest("a");
    new.root_disk = Some(RootDisk { size: None });
    let large = |_: &ImageReference| Some(ByteSize::bytes(101 * GIB));
    assert!(matches!(admit_guest(&ledger([], []), &room(), &large, &new), Err(Refusal::Full(_))));
    assert_eq!(admit(&ledger([], []), &new), Ok(Outcome::Created));
}

#[test]
fn a_full_host_still_takes_changes_that_ask_for_no_more() {
    let mut held = guest("a");
    held.machine.memory = ByteSize::bytes(64 * GIB);
    let snapshot = ledger([held.clone()], []);
    let smaller = next(&held, |spec| spec.machine.memory = ByteSize::bytes(32 * GIB));
    assert_eq!(admit(&snapshot, &smaller), Ok(Outcome::Updated));
    let larger = next(&held, |spec| spec.machine.memory = ByteSize::bytes(65 * GIB));
    assert!(matches!(admit(&snapshot, &larger), Err(Refusal::Full(_))));
}

fn admit_net(
    snapshot: &Snapshot,
    spec: Option<&NetworkSpec>,
    peers: Option<&PeerList>,
) -> Option<Result<Outcome, Refusal>> {
    let cluster: ClusterName = "acme".parse().unwrap();
    admit_network(snapshot, &cluster, spec, peers, &|_| Vec::new())
        .map(|decision| decision.map(|decision| decision.outcome))
}

fn peers(generation: u64, guest: [u8; 4]) -> PeerList {
    let mac = |number| MacAddress::try_from([6, 0, 0, 0, 0, number]).unwrap();
    PeerList {
        generation: generation.try_into().unwrap(),
        peers: vec![Peer {
            host: "b".to_owned(),
            underlay_address: [192, 0, 2, 5].into(),
            host_endpoint: HostEndpoint { address: [10, 7, 0, 5].into(), mac_address: mac(5) },
            guests: vec![GuestEndpoint { address: guest.into(), mac_address: mac(20) }],
        }],
    }
}

fn with_peers(list: PeerList) -> Snapshot {
    let record = NetworkRecord { spec: acme(), peers: Some(list), deleting: false };
    let networks = BTreeMap::from([(record.spec.cluster.clone(), Arc::new(record))]);
    Snapshot { networks: Arc::new(networks), ..ledger([], []) }
}

#[test]
fn a_networks_spec_and_its_peer_list_have_generations_of_their_own() {
    let guest = [10, 7, 0, 20];
    let snapshot = with_peers(peers(5, guest));
    assert_eq!(admit_net(&snapshot, None, Some(&peers(5, guest))), Some(Ok(Outcome::Unchanged)));
    assert_eq!(admit_net(&snapshot, None, Some(&peers(6, [10, 7, 0, 21]))), Some(Ok(Outcome::Updated)));
    assert_eq!(admit_net(&snapshot, Some(&acme()), Some(&peers(6, guest))), Some(Ok(Outcome::Updated)));
    assert_eq!(admit_net(&snapshot, Some(&acme()), None), Some(Ok(Outcome::Unchanged)));
    let stale = admit_net(&snapshot, Some(&acme()), Some(&peers(4, guest))).unwrap();
    assert_eq!(kinds(stale), [(ConflictKind::StaleGeneration, "peers.generation".to_owned())]);
    let reused = admit_net(&snapshot, None, Some(&peers(5, [10, 7, 0, 21]))).unwrap();
    assert_eq!(kinds(reused), [(ConflictKind::ReusedGeneration, "peers.generation".to_owned())]);
    // Peers of a network that is not there.
    assert_eq!(admit_net(&ledger([], []), None, Some(&peers(1, guest))), None);
    assert_eq!(admit_net(&ledger([], []), Some(&acme()), None), Some(Ok(Outcome::Created)));
}

#[test]
fn peers_have_addresses_of_the_network_that_are_not_this_hosts() {
    for bad in [[10, 8, 0, 20], [10, 7, 0, 1], [10, 7, 0, 2], [10, 7, 0, 255]] {
        let refused = kinds(admit_net(&ledger([], []), Some(&acme()), Some(&peers(1, bad))).unwrap());
        assert_eq!(
            refused,
            [(ConflictKind::AddressUnusable, "peers.peers[0].guests[0].ipv4_address".to_owned())],
            "{bad:?}"
        );
    }
    // A new spec must have room for the peers that were told before.
    let moved = NetworkSpec {
        generation: 2.try_into().unwrap(),
        cidr: "10.9.0.0/24".parse().unwrap(),
        gateway: [10, 9, 0, 1].into(),
        host_address: [10, 9, 0, 2].into(),
        ..acme()
    };
    let snapshot = with_peers(peers(1, [10, 7, 0, 20]));
    assert_eq!(kinds(admit_net(&snapshot, Some(&moved), None).unwrap()).len(), 2);
}

#[test]
fn a_network_with_guests_keeps_what_they_were_told() {
    let inside = GuestSpec { network: Some(at([10, 7, 0, 10])), ..guest("a") };
    let snapshot = ledger([inside.clone()], [acme()]);
    let changed = NetworkSpec { generation: 2.try_into().unwrap(), vni: 8.try_into().unwrap(), ..acme() };
    let refused = kinds(admit_net(&snapshot, Some(&changed), None).unwrap());
    assert_eq!(refused, [(ConflictKind::Immutable, "spec.vni".to_owned())]);
    let servers = NetworkSpec { generation: 2.try_into().unwrap(), egress: false, ..acme() };
    assert_eq!(admit_net(&snapshot, Some(&servers), None), Some(Ok(Outcome::Updated)));
    // The guests came first, and the network has no place for one of them.
    let snapshot = ledger([GuestSpec { network: Some(at([10, 7, 0, 1])), ..inside }], []);
    let refused = kinds(admit_net(&snapshot, Some(&acme()), None).unwrap());
    assert_eq!(refused, [(ConflictKind::AddressUnusable, "spec.cidr".to_owned())]);
}

#[test]
fn what_the_host_has_against_a_network_is_told() {
    let against = |_: &NetworkSpec| vec![Conflict::new(ConflictKind::Host, "spec.vni", "vni 7 is cluster b's")];
    let cluster: ClusterName = "acme".parse().unwrap();
    let refused = admit_network(&ledger([], []), &cluster, Some(&acme()), None, &against).unwrap();
    assert_eq!(kinds(refused.map(|_| ())), [(ConflictKind::Host, "spec.vni".to_owned())]);
}

proptest! {
    /// Whatever is admitted one after the other fits the host, and no two share what is one's own.
    #[test]
    fn what_was_admitted_fits(
        wanted in proptest::collection::vec((0..40_u8, 1..5_u8, 1..8_u64, 0..60_u64, 3..12_u8), 1..40),
    ) {
        let mut admitted: BTreeMap<_, GuestSpec> = BTreeMap::new();
        for (name, vcpus, memory, disk, address) in wanted {
            let mut new = guest(&format!("g{name}"));
            new.machine.vcpus = vcpus;
            new.machine.memory = ByteSize::bytes(memory * GIB);
            if disk > 0 {
                new.data_disks = vec![DataDisk { serial: "d".parse().unwrap(), size: ByteSize::bytes(disk * GIB) }];
            }
            new.network = Some(at([10, 7, 0, address]));
            let snapshot = ledger(admitted.values().cloned(), [acme()]);
            if admit(&snapshot, &new).is_ok() {
                admitted.insert(new.uid, new);
            }
        }
        let sum = |part: fn(&GuestSpec) -> u64| admitted.values().map(part).sum::<u64>();
        prop_assert!(sum(|spec| spec.machine.vcpus.into()) <= 8);
        prop_assert!(sum(|spec| spec.machine.memory.get() + ByteSize::mib(128).get()) <= 16 * GIB);
        prop_assert!(sum(|spec| spec.data_disks.iter().map(|disk| disk.size.get()).sum()) <= 100 * GIB);
        let mut addresses: Vec<_> = admitted.values().map(|spec| spec.network.as_ref().unwrap().address).collect();
        addresses.sort();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), admitted.len());
    }

    /// What is there is told as there, however often it is asked for.
    #[test]
    fn the_same_again_is_never_a_change(generation in 1..u64::MAX, vcpus in 1..=255_u8, cordoned: bool) {
        let mut held = GuestSpec { generation: generation.try_into().unwrap(), ..guest("a") };
        held.machine.vcpus = vcpus;
        let mut snapshot = ledger([held.clone()], []);
        snapshot.host.cordoned = cordoned;
        prop_assert_eq!(admit(&snapshot, &held), Ok(Outcome::Unchanged));
    }
}
