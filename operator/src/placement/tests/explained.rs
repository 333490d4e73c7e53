//! What people are told.

use std::collections::BTreeSet;

use goliath_proto::values::ByteSize;

use super::{super::*, world::*};

/// The reasons against one host, as told.
fn told(host: Host, guest: &Guest) -> Vec<String> {
    let fleet = fleet([host]);
    let explanation = fleet.explain(guest);
    match &explanation.hosts[0].verdict {
        Verdict::Fits(score) => panic!("it fits: {score}"),
        Verdict::Rejected(reasons) => reasons.iter().map(ToString::to_string).collect(),
    }
}

fn with(change: impl FnOnce(&mut Inventory)) -> Host {
    let mut host = host(1, "a");
    change(host.inventory.as_mut().unwrap());
    host
}

fn condition(reason: &str, message: &str) -> Condition {
    Condition { reason: reason.to_owned(), message: message.to_owned() }
}

#[test]
fn every_filter_tells_its_reason_with_numbers() {
    let plain = worker(1);
    let zoned = worker_with(1, Needs { zones: BTreeSet::from(["b".parse().unwrap()]), ..needs() });
    let storage = worker_with(1, Needs { roles: BTreeSet::from(["storage".parse().unwrap()]), ..needs() });
    let labelled = worker_with(1, Needs { labels: [("disk".to_owned(), "nvme".to_owned())].into(), ..needs() });
    let tcg = worker_with(1, Needs { accelerator: Accelerator::Tcg, ..needs() });
    let imaged = worker_with(1, Needs { image: Some(image(1)), ..needs() });
    let vni = 7.try_into().unwrap();
    let connected = Guest { overlay: Some(OverlayNeed { vni, cidr: "10.7.0.0/16".parse().unwrap() }), ..worker(1) };
    let hdd = Host { labels: [("disk".to_owned(), "hdd".to_owned())].into(), ..host(1, "") };
    let table: Vec<(Host, &Guest, &str)> = vec![
        (Host { cordoned: true, ..host(1, "") }, &plain, "cordoned"),
        (Host { inventory: None, ..host(1, "") }, &plain, "its agent was never heard of"),
        (
            Host { not_ready: Some(condition("Silent", "no heartbeat for 40 s")), ..host(1, "") },
            &plain,
            "not ready (Silent): no heartbeat for 40 s",
        ),
        (
            Host { faults: vec![condition("kvm", "/dev/kvm is absent")], ..host(1, "") },
            &plain,
            "the doctor's check kvm failed: /dev/kvm is absent",
        ),
        (host(1, ""), &storage, "it does not have the role storage, which the pool needs"),
        (host(1, "a"), &zoned, "it is in zone a, which is not one of the pool's"),
        (host(1, ""), &zoned, "it is in no zone, and the pool is for some"),
        (host(1, ""), &labelled, "it has no label disk, the pool needs nvme"),
        (hdd, &labelled, "its label disk is hdd, the pool needs nvme"),
        (host(1, ""), &tcg, "the guest needs the accelerator tcg, the host has kvm alone"),
        (
            with(|inventory| {
                inventory.left.memory = ByteSize::mib(256);
                inventory.overhead = ByteSize::mib(96);
            }),
            &plain,
            "memory short by 352 MiB: the guest takes 608 MiB, 256 MiB left",
        ),
        (with(|inventory| inventory.left.vcpus = 0), &plain, "vCPUs short by 1: the guest takes 1, 0 left"),
        (
            with(|inventory| inventory.left.disk = ByteSize::mib(500)),
            &plain,
            "disk short by 12 MiB: the guest takes 512 MiB, 500 MiB left",
        ),
        (
            with(|inventory| inventory.networks = vec!["10.7.3.0/24".parse().unwrap()]),
            &connected,
            "the cluster's network 10.7.0.0/16 overlaps 10.7.3.0/24, the host's own",
        ),
        (
            with(|inventory| inventory.vnis = [(vni, Held::ByCluster("other".parse().unwrap()))].into()),
            &connected,
            "VNI 7 is cluster other's there",
        ),
        (
            with(|inventory| inventory.vnis = [(vni, Held::ByStranger)].into()),
            &connected,
            "VNI 7 is used there by a device that is not ours",
        ),
    ];
    for (host, guest, expected) in table {
        assert_eq!(told(host, guest), [expected]);
    }
    let unobtainable = with(|inventory| inventory.unobtainable = BTreeSet::from([image(1)]));
    assert_eq!(told(unobtainable, &imaged), [format!("it could not get the image {}", image(1))]);

    let own_vni = with(|inventory| inventory.vnis = [(vni, Held::ByCluster("acme".parse().unwrap()))].into());
    assert!(fleet([own_vni]).choose(&connected).host().is_some());
}

#[test]
fn no_room_is_told_in_a_sentence_with_what_would_help() {
    let short = |number, left: u64| {
        let mut host = host(number, "");
        host.inventory.as_mut().unwrap().left.memory = ByteSize::mib(left);
        host
    };
    let fleet = fleet([short(1, 0), short(2, 400), Host { cordoned: true, ..host(3, "") }]);
    let guest = worker(1);
    assert_eq!(
        fleet.explain(&guest).no_room().unwrap().to_string(),
        "3 hosts: 2 lack memory (largest gap 512 MiB), 1 cordoned; \
         would do: on host-3 uncordon it, or on host-2 free 112 MiB of memory, or on host-1 free 512 MiB of memory"
    );
}

#[test]
fn a_fleet_without_hosts_says_so() {
    let guest = worker(1);
    assert_eq!(
        Fleet::new().explain(&guest).no_room().unwrap().to_string(),
        "no hosts: add one with `goliath host add`"
    );
}

#[test]
fn all_reasons_of_a_host_are_told_and_it_counts_once() {
    let host = Host { cordoned: true, ..with(|inventory| inventory.left.vcpus = 0) };
    let guest = worker(1);
    assert_eq!(told(host.clone(), &guest).len(), 2);
    assert_eq!(
        fleet([host]).explain(&guest).no_room().unwrap().to_string(),
        "1 host: 1 cordoned; would do: on host-1 uncordon it and free 1 of vCPUs"
    );
}

#[test]
fn a_guest_is_explained_where_it_is_as_if_it_were_not_there_yet() {
    let mut fleet = fleet([host(1, "a"), host(2, "a")]);
    let guest = master(1);
    let Decision::Chosen(choice) = place(&mut fleet, &guest) else { panic!("there is room") };
    let explanation = fleet.explain(&guest);
    assert_eq!(explanation.bound, Some(&choice.host));
    assert_eq!(explanation.hosts[0].host, &choice.host, "still the best");
    assert_eq!(explanation.hosts[0].verdict, Verdict::Fits(choice.score));
    assert_eq!(explanation.no_room(), None);
}

#[test]
fn a_score_tells_its_parts() {
    let fleet = fleet([host(1, "a")]);
    let guest = worker(1);
    let explanation = fleet.explain(&guest);
    let Verdict::Fits(score) = explanation.hosts[0].verdict else { panic!("it fits") };
    assert_eq!(score.to_string(), "0 of its group in the zone, 0 on the host, 87 % of memory left, image not there");
}
