//! What the rule says, case by case.

use std::collections::{BTreeMap, BTreeSet};

use goliath_proto::values::ByteSize;

use super::{super::*, world::*};

/// How many guests each host got.
fn counts(fleet: &mut Fleet, guests: impl IntoIterator<Item = Guest>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for guest in guests {
        let host = place(fleet, &guest).host().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
        *counts.entry(host).or_default() += 1;
    }
    counts
}

fn expected(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
    counts.iter().map(|(host, count)| ((*host).to_owned(), *count)).collect()
}

#[test]
fn masters_of_a_cluster_never_share_a_host() {
    let mut fleet = fleet([host(1, ""), host(2, "")]);
    let placed = counts(&mut fleet, (0..3).map(master));
    assert_eq!(placed, expected(&[("host-1", 1), ("host-2", 1), ("nowhere", 1)]));
    let other = Guest { cluster: "other".parse().unwrap(), ..master(9) };
    assert!(place(&mut fleet, &other).host().is_some());
}

#[test]
fn workers_spread_over_zones_and_then_over_hosts() {
    let mut fleet = fleet([host(1, "a"), host(2, "a"), host(3, "a"), host(4, "b")]);
    let placed = counts(&mut fleet, (0..6).map(worker));
    assert_eq!(placed, expected(&[("host-1", 1), ("host-2", 1), ("host-3", 1), ("host-4", 3)]));
}

#[test]
fn a_zone_that_is_full_is_passed_over() {
    let mut small = host(2, "b");
    small.inventory = Some(inventory(8, 600));
    let mut fleet = fleet([host(1, "a"), small]);
    let placed = counts(&mut fleet, (0..4).map(worker));
    assert_eq!(placed, expected(&[("host-1", 3), ("host-2", 1)]));
}

#[test]
fn the_host_with_more_of_its_scarcest_resource_left_is_better() {
    let mut much_memory = host(1, "");
    much_memory.inventory = Some(inventory(2, 8192));
    let mut balanced = host(2, "");
    balanced.inventory = Some(inventory(8, 8192));
    let mut fleet = fleet([much_memory, balanced]);
    let Decision::Chosen(choice) = fleet.choose(&worker(1)) else { panic!("there is room") };
    assert_eq!(choice.host, host_name(2));
    assert_eq!((choice.score.scarcest, choice.score.left_percent), (Resource::Vcpus, 87));
}

#[test]
fn an_image_that_is_there_outweighs_a_little_balance_and_no_more() {
    let wants_image = Needs { image: Some(image(1)), ..needs() };
    let mut has_image = host(1, "");
    if let Some(inventory) = &mut has_image.inventory {
        inventory.images.insert(image(1));
    }
    // One vCPU of eight is 12 %: more than the image is worth.
    for (busy, best) in [(0, 1), (1, 2)] {
        let mut fleet = fleet([has_image.clone(), host(2, "")]);
        for number in 0..busy {
            let other = Guest { cluster: "other".parse().unwrap(), ..worker(100 + number) };
            fleet.bind(&other, &host_name(1));
        }
        let decision = place(&mut fleet, &worker_with(1, wants_image.clone()));
        assert_eq!(decision.host(), Some(&host_name(best)), "{busy}");
    }
}

#[test]
fn qemus_own_memory_counts() {
    let mut exact = host(1, "");
    let told = exact.inventory.insert(inventory(8, 1024));
    told.overhead = ByteSize::mib(100);
    let mut fleet = fleet([exact]);
    let placed = counts(&mut fleet, (0..2).map(worker));
    assert_eq!(placed, expected(&[("host-1", 1), ("nowhere", 1)]));
    assert_eq!(fleet.usage(&host_name(1)).unwrap().free.memory, ByteSize::mib(412));
}

#[test]
fn a_guest_that_is_bound_stays_whatever_its_host_becomes() {
    let mut fleet = fleet([host(1, "")]);
    place(&mut fleet, &worker(1));
    fleet.upsert_host(host(2, ""));
    fleet.upsert_host(Host { cordoned: true, ..host(1, "") });
    assert_eq!(fleet.choose(&worker(1)), Decision::Bound(host_name(1)));
    fleet.remove_host(&host_name(1));
    assert_eq!(fleet.choose(&worker(1)), Decision::Bound(host_name(1)));
    fleet.unbind(uid(1));
    assert_eq!(fleet.choose(&worker(1)).host(), Some(&host_name(2)));
}

#[test]
fn room_that_came_up_is_found() {
    let mut fleet = fleet([Host { cordoned: true, ..host(1, "") }]);
    assert_eq!(place(&mut fleet, &worker(1)), Decision::NoRoom);
    fleet.upsert_host(host(1, ""));
    assert_eq!(place(&mut fleet, &worker(1)).host(), Some(&host_name(1)));
}

#[test]
fn equal_hosts_share_many_guests_of_many_clusters() {
    let mut fleet = fleet((0..20).map(|number| host(number, "")));
    for number in 0..100 {
        let cluster = format!("cluster-{number}").parse().unwrap();
        place(&mut fleet, &Guest { cluster, ..worker(number) });
    }
    let guests: BTreeSet<_> = (0..20).map(|number| fleet.usage(&host_name(number)).unwrap().guests).collect();
    assert_eq!(guests, BTreeSet::from([5]));
}

#[test]
fn more_kinds_of_guests_than_are_remembered_are_placed_as_well() {
    let mut fleet = fleet((0..4).map(|number| Host { inventory: Some(inventory(800, 400_000)), ..host(number, "") }));
    for number in 0..200 {
        let memory = ByteSize::mib(100 + u64::from(number % 100));
        let demand = Resources { memory, ..needs().demand };
        assert!(place(&mut fleet, &worker_with(number, Needs { demand, ..needs() })).host().is_some());
    }
}
