//! Beginning, restart of the agent, change and end of a network.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use goliath_agent::{network::Namespace, reconcile::network::AttachError};

use super::host::{Guest, Pair, Plan, eventually, port, two_hosts};

#[test]
fn a_restart_of_the_agent_costs_no_packet_and_finds_its_guests_again() -> Result<()> {
    let mut pair = Pair::of(Plan::new("acme", 7, "10.7.0.0/24")?.with_egress())?;
    let devices = |pair: &Pair| pair.hosts[0].run_in(&pair.acme, "ip -o link show");
    // The device's number tells whether it was made anew.
    let number = |pair: &Pair| -> Result<Vec<String>> {
        Ok(devices(pair)?.lines().filter_map(|line| line.split(": ").next().map(str::to_owned)).collect())
    };
    let before = number(&pair)?;
    let ping = pair
        .b
        .machine
        .command("ping")
        .args(["-i", "0.02", "-c", "150", "-W", "1", "10.7.0.11"])
        .stdout(Stdio::piped())
        .spawn()?;
    for _ in 0..3 {
        pair.hosts[0].restart_agent()?;
        pair.hosts[0].wait_until_ready(&pair.acme)?;
    }
    let told = String::from_utf8(ping.wait_with_output()?.stdout)?;
    ensure!(told.contains(" 0% packet loss"), "{told}");
    ensure!(number(&pair)? == before, "devices were made anew:\n{}", devices(&pair)?);
    let status = pair.hosts[0].status(&pair.acme)?;
    ensure!(status.repairs == 0 && status.ports == 1, "{status:#?}");
    pair.hosts[0].adopt(&pair.acme, pair.a.port)?;
    // It is still guarded.
    pair.a.machine.run("ip address add 10.7.0.66/32 dev eth0")?;
    ensure!(!pair.a.machine.succeeds("ping -c 1 -W 1 -I 10.7.0.66 10.7.0.12")?, "a spoofed ping was answered");
    pair.a.reaches("10.7.0.12")
}

#[test]
fn what_was_changed_while_the_agent_was_away_is_put_right() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.hosts[0].run_in(&pair.acme, "ip link delete vxlan")?;
    pair.hosts[0].run_in(&pair.acme, "nft flush ruleset")?;
    pair.hosts[0].restart_agent()?;
    pair.hosts[0].wait_until_ready(&pair.acme)?;
    pair.a.reaches("10.7.0.12")?;
    ensure!(pair.hosts[0].run_in(&pair.acme, "nft list ruleset")?.contains("10.7.0.11"), "the guest is not guarded");
    Ok(())
}

#[test]
fn a_tap_that_is_held_is_not_given_twice_and_a_left_one_is_replaced() -> Result<()> {
    let pair = Pair::new()?;
    let (host, acme) = (&pair.hosts[0], &pair.acme);
    let again = host.attach(acme, pair.a.port);
    ensure!(matches!(again, Err(AttachError::Held)), "{again:?}");
    pair.a.reaches("10.7.0.12")?;

    let place = port(acme, 13)?;
    let device = host.attach(acme, place)?.device;
    // Nobody held the file, so the device is gone; one that somebody made persistent is there without a holder.
    eventually("the tap is gone", || Ok(!host.run_in(acme, "ip link show")?.contains(&device)))?;
    host.run_in(acme, &format!("ip tuntap add dev {device} mode tap vnet_hdr"))?;
    let guest = Guest::new(host, acme, place)?;
    guest.reaches("10.7.0.11")?;
    guest.reaches("10.7.0.12").err().context("the other host does not know this guest, and yet it answered")?;
    Ok(())
}

#[test]
fn a_deleted_network_leaves_nothing() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let host = &hosts[0];
    let acme = Plan::new("acme", 7, "10.7.0.0/24")?.with_egress();
    let all = || -> Result<String> {
        Ok(host.machine.run("ip -o link show")?
            + &host.machine.run("ip -o -4 address show")?
            + &host.machine.run("ip route show table all")?
            + &host.machine.run("nft list ruleset")?
            + &host.machine.run("sysctl net.ipv4.conf.eth0.forwarding")?)
    };
    let before = all()?;
    host.apply(&acme, &[])?;
    let guest = host.guest(&acme, 11)?;
    ensure!(all()? != before, "there is nothing to leave behind");

    // While a guest is attached, nothing happens to it.
    host.delete(&acme)?;
    eventually("the deletion waits for the guest", || {
        let ready = host.status(&acme)?.conditions.get("Ready").map(|ready| ready.reason);
        Ok(ready == Some("GuestsAttached"))
    })?;
    guest.reaches("10.7.0.1")?;
    drop(guest);
    eventually("the network is gone", || Ok(!host.knows(&acme)?))?;
    ensure!(!host.namespace_of(&acme).exists(), "the namespace's name stayed");
    ensure!(std::fs::read_dir(host.directory.path())?.count() == 0, "something stayed beside it");
    eventually("the host is as before", || Ok(all()? == before))?;

    // And it can be again.
    host.apply(&acme, &[])?;
    host.guest(&acme, 11)?.reaches("10.7.0.1")
}

#[test]
fn a_deletion_that_was_interrupted_is_finished_by_the_next_agent() -> Result<()> {
    let (mut hosts, _underlay) = two_hosts()?;
    let acme = Plan::new("acme", 7, "10.7.0.0/24")?.with_egress();
    hosts[0].apply(&acme, &[])?;
    let guest = hosts[0].guest(&acme, 11)?;
    hosts[0].delete(&acme)?;
    // Half of it is gone already, in an unhappy order.
    hosts[0].run_in(&acme, "ip link delete vxlan")?;
    hosts[0].restart_agent()?;
    hosts[0].machine.run("ip link delete goliath000007")?;
    drop(guest);
    eventually("the network is gone", || Ok(!hosts[0].knows(&acme)?))?;
    ensure!(!hosts[0].namespace_of(&acme).exists(), "the namespace's name stayed");
    ensure!(!hosts[0].machine.run("nft list tables")?.contains("goliath"), "rules stayed");
    Ok(())
}

#[test]
fn a_name_without_a_namespace_that_a_crash_left_is_used() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let acme = Plan::new("acme", 7, "10.7.0.0/24")?;
    std::fs::write(hosts[0].namespace_of(&acme), "")?;
    hosts[0].apply(&acme, &[])?;
    ensure!(Namespace::bound_at(&hosts[0].namespace_of(&acme))?.is_some(), "nothing is bound");
    Ok(())
}

#[test]
fn a_namespace_that_the_ledger_does_not_know_is_left_alone() -> Result<()> {
    let (mut hosts, _underlay) = two_hosts()?;
    let acme = Plan::new("acme", 7, "10.7.0.0/24")?;
    hosts[0].apply(&acme, &[])?;
    let guest = hosts[0].guest(&acme, 11)?;
    hosts[0].restart_agent_without_ledger()?;
    // It has started, and brought up another network.
    let zeta = Plan::new("zeta", 8, "10.8.0.0/24")?;
    hosts[0].apply(&zeta, &[])?;
    guest.reaches("10.7.0.1")
}

#[test]
fn the_longest_name_of_a_cluster_is_fine() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let long = Plan::new(&"x".repeat(63), 0x00ff_ffff, "10.7.0.0/24")?.with_egress();
    hosts[0].apply(&long, &[])?;
    hosts[0].guest(&long, 11)?.reaches("10.7.0.1")
}

#[test]
fn a_changed_spec_is_brought_about_under_running_guests() -> Result<()> {
    let mut pair = Pair::new()?;
    pair.a.does_not_reach("192.0.2.2")?;
    pair.acme = Plan { generation: 2, ..Plan::new("acme", 9, "10.7.0.0/24")?.with_egress() };
    for host in &pair.hosts {
        host.change(&pair.acme)?;
    }
    pair.a.reaches("10.7.0.12")?;
    pair.a.reaches("192.0.2.2")?;
    pair.acme = Plan { generation: 3, ..Plan::new("acme", 9, "10.7.0.0/24")? };
    pair.hosts[0].change(&pair.acme)?;
    pair.a.does_not_reach("192.0.2.2")?;
    ensure!(pair.hosts[0].status(&pair.acme)?.repairs == 0, "the agent took its own work for drift");
    ensure!(!pair.hosts[0].machine.run("ip link show")?.contains("goliath"), "the way out stayed");
    Ok(())
}

#[test]
fn without_its_underlay_a_network_waits_and_says_so() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let acme = Plan::new("acme", 7, "10.7.0.0/24")?;
    hosts[0].machine.run("ip address delete 192.0.2.1/24 dev eth0")?;
    hosts[0].ask(&acme)?;
    eventually("the network says why it is not ready", || {
        Ok(hosts[0].status(&acme)?.conditions.get("Ready").is_some_and(|ready| ready.reason == "NoUnderlay"))
    })?;
    let told = hosts[0].attach(&acme, port(&acme, 11)?).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(told.contains("underlay address 192.0.2.1"), "{told}");
    hosts[0].machine.run("ip address add 192.0.2.1/24 dev eth0")?;
    hosts[0].wait_until_ready(&acme)
}

#[test]
fn what_cannot_be_on_this_host_is_refused_with_the_reason() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let networks = hosts[0].networks()?;
    let refused = |cidr: &str, vni: u32, other: &Plan| -> Result<String> {
        let (spec, other) = (Plan::new("acme", vni, cidr)?.spec(0)?, other.spec(0)?);
        let refusals = networks.admit(&spec, [&other].into_iter()).err().unwrap_or_default();
        Ok(refusals
            .iter()
            .map(|refusal| format!("{}: {}", refusal.field, refusal.reason))
            .collect::<Vec<_>>()
            .join("; "))
    };
    let zeta = Plan::new("zeta", 8, "10.7.0.0/24")?;
    ensure!(refused("10.7.0.0/24", 7, &zeta)?.is_empty(), "{}", refused("10.7.0.0/24", 7, &zeta)?);
    ensure!(refused("10.7.0.0/24", 8, &zeta)?.starts_with("vni: 8 is the VNI of cluster zeta"));
    ensure!(refused("192.0.2.0/24", 7, &zeta)?.contains("overlaps 192.0.2.1/24, the host's own network on eth0"));
    hosts[0].machine.run("ip link set eth0 mtu 600")?;
    eventually("the small underlay is seen", || Ok(refused("10.7.0.0/24", 7, &zeta)?.contains("MTU of 600")))
}
