//! Who reaches whom.

use anyhow::{Result, ensure};

use super::host::{Guest, Pair, Plan, introduce, port};

#[test]
fn guests_of_a_cluster_reach_each_other_across_hosts() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.reaches("10.7.0.12")?;
    pair.b.reaches("10.7.0.11")
}

#[test]
fn guests_of_a_cluster_reach_each_other_on_one_host() -> Result<()> {
    let pair = Pair::new()?;
    let neighbour = pair.hosts[0].guest(&pair.acme, 13)?;
    neighbour.reaches("10.7.0.11")?;
    pair.a.reaches("10.7.0.13")
}

#[test]
fn two_clusters_with_one_cidr_share_hosts_and_never_meet() -> Result<()> {
    let pair = Pair::new()?;
    let zeta = Plan::new("zeta", 8, "10.7.0.0/24")?;
    for host in &pair.hosts {
        host.apply(&zeta, &[])?;
    }
    // The same addresses as acme's guests have, on the other hosts, and one that acme does not have.
    let same = pair.hosts[0].guest(&zeta, 12)?;
    let other = pair.hosts[1].guest(&zeta, 13)?;
    introduce(&zeta, &pair.hosts, &[&same], &[&other], 2)?;
    same.reaches("10.7.0.13")?;
    other.reaches("10.7.0.12")?;
    pair.a.reaches("10.7.0.12")?;
    pair.a.does_not_reach("10.7.0.13")?;
    same.does_not_reach("10.7.0.11")?;
    // acme's 10.7.0.12 is on the other host: what answered there was not zeta's.
    let counted = |guest: &Guest| guest.machine.run("ip -s -j link show eth0");
    let before = counted(&same)?;
    pair.a.reaches("10.7.0.12")?;
    ensure!(before == counted(&same)?, "zeta's guest got something of acme's ping");
    Ok(())
}

#[test]
fn full_packets_pass_and_larger_ones_do_not() -> Result<()> {
    let pair = Pair::new()?;
    ensure!(pair.a.mtu == 1450, "the MTU is {}", pair.a.mtu);
    // 20 bytes of IPv4 and 8 of ICMP; unfragmented.
    pair.a.machine.run("ping -c 1 -W 2 -M do -s 1422 10.7.0.12")?;
    ensure!(!pair.a.machine.succeeds("ping -c 1 -W 1 -M do -s 1423 10.7.0.12")?, "1451 bytes passed");
    Ok(())
}

/// Counts what crosses the underlay into a host by the inner frame's type, 28 bytes into UDP.
const COUNT_INNER_FRAMES: &str = "table inet lab { chain in { type filter hook input priority 0; \
     udp dport 4789 @th,224,16 0x0806 counter comment \"arp\"; \
     udp dport 4789 @th,224,16 0x0800 counter comment \"ipv4\"; }; }";

fn inner_frames(host: &super::host::Host, kind: &str) -> Result<u64> {
    let rules: serde_json::Value = serde_json::from_str(&host.machine.run("nft -j list table inet lab")?)?;
    let rules = rules["nftables"].as_array().cloned().unwrap_or_default();
    let counter = rules
        .iter()
        .map(|object| &object["rule"])
        .find(|rule| rule["comment"] == kind)
        .and_then(|rule| rule["expr"].as_array())
        .and_then(|expressions| expressions.iter().find_map(|expression| expression["counter"]["packets"].as_u64()));
    counter.ok_or_else(|| anyhow::anyhow!("there is no counter of {kind}"))
}

#[test]
fn arp_is_answered_on_the_host_and_does_not_cross_the_underlay() -> Result<()> {
    let pair = Pair::new()?;
    for host in &pair.hosts {
        host.machine.nft(COUNT_INNER_FRAMES)?;
    }
    for (guest, other, last) in [(&pair.a, "10.7.0.12", 12), (&pair.b, "10.7.0.11", 11)] {
        guest.machine.run("ip neigh flush all")?;
        guest.reaches(other)?;
        guest.reaches("10.7.0.1")?;
        // Nobody has it: the question is not carried over either.
        guest.does_not_reach("10.7.0.99")?;
        let known = guest.machine.run("ip neigh show 10.7.0.1")?;
        ensure!(known.contains("02:00:00:00:00:01"), "the gateway of .{last} is {known}");
    }
    for host in &pair.hosts {
        ensure!(inner_frames(host, "ipv4")? >= 3, "the counters do not see the pings");
        ensure!(inner_frames(host, "arp")? == 0, "ARP crossed the underlay");
    }
    Ok(())
}

#[test]
fn the_gateway_is_on_each_host_and_answers_its_own_guests() -> Result<()> {
    let pair = Pair::new()?;
    for host in &pair.hosts {
        host.machine.nft(COUNT_INNER_FRAMES)?;
    }
    pair.a.reaches("10.7.0.1")?;
    pair.b.reaches("10.7.0.1")?;
    for host in &pair.hosts {
        ensure!(inner_frames(host, "ipv4")? == 0, "a question to the gateway crossed the underlay");
    }
    // The hosts' own addresses are reached from everywhere.
    pair.a.reaches("10.7.0.250")?;
    pair.a.reaches("10.7.0.251")
}

#[test]
fn a_host_reaches_guests_of_other_hosts_from_its_own_address() -> Result<()> {
    let pair = Pair::new()?;
    pair.hosts[0].run_in(&pair.acme, "ping -c 1 -W 2 -I 10.7.0.250 10.7.0.12").map(drop)
}

#[test]
fn a_guest_that_moved_is_found_at_its_new_host_and_not_at_the_old() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.reaches("10.7.0.12")?;
    let place = pair.b.port;
    pair.hosts[1].detach(&pair.acme, place.uid)?;
    drop(pair.b);
    let moved = Guest::new(&pair.hosts[0], &pair.acme, place)?;
    // Here it is reached although the peer list still says that it is elsewhere.
    pair.a.reaches("10.7.0.12")?;
    introduce(&pair.acme, &pair.hosts, &[&pair.a, &moved], &[], 3)?;
    let third = pair.hosts[1].guest(&pair.acme, 13)?;
    introduce(&pair.acme, &pair.hosts, &[&pair.a, &moved], &[&third], 4)?;
    third.reaches("10.7.0.12")?;
    moved.reaches("10.7.0.13")
}

#[test]
fn a_guest_that_no_peer_has_any_more_leaves_no_entry() -> Result<()> {
    let pair = Pair::new()?;
    let mac = pair.b.port.mac.to_string();
    let tables = || -> Result<String> {
        let forwarding = pair.hosts[0].run_in(&pair.acme, "bridge fdb show")?;
        let neighbours = pair.hosts[0].run_in(&pair.acme, "ip neigh show nud permanent")?;
        Ok(forwarding + &neighbours)
    };
    ensure!(tables()?.contains(&mac), "the guest was never known");
    introduce(&pair.acme, &pair.hosts, &[&pair.a], &[], 3)?;
    ensure!(!tables()?.contains(&mac), "an entry stayed:\n{}", tables()?);
    ensure!(tables()?.contains("192.0.2.2"), "the host itself is still a peer");
    pair.hosts[0].tell_peers(&pair.acme, 4, &[])?;
    ensure!(!tables()?.contains("192.0.2.2"), "an entry stayed:\n{}", tables()?);
    Ok(())
}

#[test]
fn a_place_that_another_guest_has_is_refused() -> Result<()> {
    let pair = Pair::new()?;
    let mut second = port(&pair.acme, 11)?;
    let told = pair.hosts[0].attach(&pair.acme, second).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("has 10.7.0.11"), "{told}");
    second.address = pair.acme.address(1);
    let told = pair.hosts[0].attach(&pair.acme, second).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("is the gateway's"), "{told}");
    pair.a.reaches("10.7.0.12")
}

#[test]
fn guests_that_come_at_once_are_all_joined_but_those_whose_place_is_taken() -> Result<()> {
    let pair = Pair::new()?;
    let host = &pair.hosts[0];
    let mut ports = (20..60).map(|last| port(&pair.acme, last)).collect::<Result<Vec<_>>>()?;
    // One wants the address of another of the same moment, one that of a guest that is there.
    ports[7].address = ports[3].address;
    ports[30].address = pair.acme.address(11);
    let taps = host.attach_all(&pair.acme, &ports)?;
    for (number, tap) in taps.iter().enumerate() {
        let refused = tap.as_ref().err().map(ToString::to_string);
        match number {
            7 | 30 => ensure!(refused.is_some_and(|told| told.contains("already")), "guest {number} has a taken place"),
            _ => ensure!(refused.is_none(), "guest {number}: {refused:?}"),
        }
    }
    let devices = host.run_in(&pair.acme, "ip -o link show master bridge")?;
    let joined = taps.iter().flatten().filter(|tap| devices.contains(&tap.device)).count();
    ensure!(joined == 38, "{joined} taps are ports of the bridge:\n{devices}");
    pair.a.reaches("10.7.0.12")
}
