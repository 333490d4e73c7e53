//! What one change costs as the fleet grows.

use std::time::{Duration, Instant};

use super::tests::{Lab, cluster, guest};
use crate::objects::{Guest, NetworkInterface};

/// Hosts of each cluster.
const SPAN: usize = 8;

fn cluster_name(host: usize) -> String {
    format!("cluster-{}", host / SPAN)
}

/// A guest of the host's cluster.
fn guest_on(host: usize, slot: usize) -> Guest {
    let name = format!("{}.default-{}", cluster_name(host), slot * SPAN + host % SPAN);
    let mut guest = guest(&name, Some(&format!("host-{host}")));
    let last = u8::try_from(slot * SPAN + host % SPAN).unwrap() + 10;
    guest.spec.network = Some(NetworkInterface { ipv4_address: [10, 7, 0, last].into(), mac_address: None });
    guest
}

/// What was done so far: questions to agents, and writes.
fn done(lab: &Lab) -> [u64; 2] {
    [lab.world.calls(), lab.store.statistics().changes]
}

/// Waits until nothing has been done for a moment.
fn settle(lab: &Lab) {
    let mut last = (done(lab), Instant::now());
    lab.until(|lab| {
        let now = done(lab);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() < Duration::from_millis(300)).then(|| "something is still going on".to_owned())
    });
}

/// What one more guest costs in a fleet of this size, where each host has one already.
fn cost(hosts: usize) -> [u64; 2] {
    let names: Vec<String> = (0..hosts).map(|host| format!("host-{host}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lab = Lab::quiet(&names);
    for host in 0..hosts {
        if host % SPAN == 0 {
            lab.create(&cluster(&cluster_name(host)));
        }
        lab.create(&guest_on(host, 0));
    }
    lab.until(|lab| lab.unfinished(&names));
    settle(&lab);
    let before = done(&lab);
    lab.create(&guest_on(0, 1));
    lab.until(|lab| lab.unfinished(&names));
    settle(&lab);
    let after = done(&lab);
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn a_guest_costs_as_much_in_a_large_fleet_as_in_a_small_one() {
    let ([calls, writes], [calls_in_large, writes_in_large]) = (cost(2 * SPAN), cost(16 * SPAN));
    // Its own agent hears of it, and those of the cluster's other hosts.
    assert_eq!((calls, calls_in_large), (SPAN as u64, SPAN as u64));
    // The object itself, and its status: how many of its stages are seen is a matter of time.
    assert!(writes <= 8 && writes_in_large <= 8, "{writes} and {writes_in_large}");
}
