//! What things cost, beside what does the same at its barest.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use goliath_agent::spec::{GuestEndpoint, MacAddress, PeerList};
use goliath_lab::namespace::Machine;

use super::host::{Plan, peer, port, two_hosts};

#[test]
fn a_guest_is_attached_in_a_few_milliseconds_however_many_there_are() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let acme = Plan::new("acme", 7, "10.7.0.0/16")?;
    hosts[0].apply(&acme, &[])?;
    let mut taps = Vec::new();
    let mut times = Vec::new();
    for last in 2..52 {
        let place = port(&acme, last)?;
        let begun = std::time::Instant::now();
        taps.push(hosts[0].attach(&acme, place)?);
        times.push(begun.elapsed());
    }
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[times.len() / 2]
    };
    let (first, last) = (median(&times[..10]), median(&times[40..]));
    println!("attaching: median of the first ten {first:?}, of the last ten {last:?}");
    // Far from a tight bound: the machine runs other tests beside this one. A cost that grows would be far above it.
    ensure!(last < Duration::from_millis(100), "attaching the 50th guest took {last:?}, the first {first:?}");
    Ok(())
}

const GUESTS: u16 = 10_000;

/// So many guests of a /16 on another host.
fn many_guests() -> Result<Vec<GuestEndpoint>> {
    (0..GUESTS)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let mac_address = MacAddress::try_from([0x06, 0x77, 0, 0, high, low])?;
            Ok(GuestEndpoint { address: Ipv4Addr::new(10, 7, high + 16, low), mac_address })
        })
        .collect()
}

/// The same entries by iproute2's own batches: what a tunnel, a bridge and a neighbour table need to know of a guest.
fn by_iproute2(guests: &[GuestEndpoint]) -> Result<Duration> {
    let machine = Machine::new("batch")?;
    machine.run("ip link add bridge type bridge")?;
    machine.run("ip link add vxlan type vxlan id 7 dstport 4789 local 127.0.0.1 nolearning")?;
    machine.run("ip link set vxlan up master bridge")?;
    machine.run("ip link set bridge up")?;
    let (mut forwarding, mut neighbours) = (String::new(), String::new());
    for GuestEndpoint { address, mac_address } in guests {
        writeln!(forwarding, "fdb add {mac_address} dev vxlan dst 192.0.2.2 self permanent")?;
        writeln!(forwarding, "fdb add {mac_address} dev vxlan master static")?;
        writeln!(neighbours, "neigh add {address} dev bridge lladdr {mac_address} nud permanent")?;
    }
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("fdb"), forwarding)?;
    std::fs::write(directory.path().join("neigh"), neighbours)?;
    let begun = Instant::now();
    machine.run(&format!("bridge -batch {}", directory.path().join("fdb").display()))?;
    machine.run(&format!("ip -batch {}", directory.path().join("neigh").display()))?;
    Ok(begun.elapsed())
}

#[test]
fn ten_thousand_peers_guests_cost_about_what_bridge_batch_needs_and_one_more_costs_nothing() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let acme = Plan::new("acme", 7, "10.7.0.0/16")?;
    hosts[0].apply(&acme, &[])?;
    let mut guests = many_guests()?;
    let tell = |generation: u64, guests: &[GuestEndpoint]| -> Result<Duration> {
        let mut other = peer(&acme, 1, &[]);
        other.guests = guests.to_vec();
        let begun = Instant::now();
        hosts[0].tell_peer_list(&acme, PeerList { generation: generation.try_into()?, peers: vec![other] })?;
        Ok(begun.elapsed())
    };
    let all = tell(2, &guests)?;
    let neighbours = hosts[0].run_in(&acme, "ip neigh show nud permanent")?.lines().count();
    ensure!(neighbours == usize::from(GUESTS) + 1, "{neighbours} neighbours are known");
    let newcomer = GuestEndpoint {
        address: Ipv4Addr::new(10, 7, 200, 1),
        mac_address: MacAddress::try_from([0x06, 0x77, 1, 0, 0, 1])?,
    };
    guests.push(newcomer);
    let one_more = tell(3, &guests)?;
    let batch = by_iproute2(&guests)?;
    let begun = Instant::now();
    let _tap = hosts[0].attach(&acme, port(&acme, 11)?)?;
    let attach = begun.elapsed();
    println!("{GUESTS} guests: {all:?}, by iproute2 {batch:?}; one more: {one_more:?}; attaching one: {attach:?}");
    // Loose bounds: the agent is not optimised here, writes its ledger, and other tests run beside this one.
    ensure!(all < batch * 20, "{GUESTS} guests took {all:?}, iproute2 {batch:?}");
    ensure!(attach < Duration::from_millis(500), "attaching a guest to a large network took {attach:?}");
    Ok(())
}
