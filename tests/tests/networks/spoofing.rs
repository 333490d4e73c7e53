//! A guest can use only the MAC and the address that are its own.

use std::{fs::File, io::Write as _, net::Ipv4Addr};

use anyhow::{Result, ensure};
use goliath_agent::reconcile::network::Port;

use super::host::{Guest, Pair, eventually, port};

/// Counts what a guest gets, by what a spoofer would send.
fn count_at(guest: &Guest, what: &str) -> Result<()> {
    guest.machine.nft(&format!(
        "table inet lab {{ chain in {{ type filter hook prerouting priority -300; {what} counter; }}; }}"
    ))
}

fn counted_at(guest: &Guest, family: &str) -> Result<u64> {
    let listed: serde_json::Value =
        serde_json::from_str(&guest.machine.run(&format!("nft -j list table {family} lab"))?)?;
    let objects = listed["nftables"].as_array().cloned().unwrap_or_default();
    objects
        .iter()
        .filter_map(|object| object["rule"]["expr"].as_array())
        .flatten()
        .find_map(|expression| expression["counter"]["packets"].as_u64())
        .ok_or_else(|| anyhow::anyhow!("there is no counter"))
}

#[test]
fn packets_from_an_address_of_another_are_dropped() -> Result<()> {
    let pair = Pair::new()?;
    count_at(&pair.b, "ip saddr { 10.7.0.11, 10.7.0.66 }")?;
    pair.a.reaches("10.7.0.12")?;
    let own = counted_at(&pair.b, "inet")?;
    ensure!(own > 0, "the counter does not see honest packets");
    pair.a.machine.run("ip address add 10.7.0.66/32 dev eth0")?;
    ensure!(!pair.a.machine.succeeds("ping -c 3 -i 0.05 -W 1 -I 10.7.0.66 10.7.0.12")?, "a spoofed ping was answered");
    ensure!(counted_at(&pair.b, "inet")? == own, "a spoofed packet arrived");
    pair.a.reaches("10.7.0.12")
}

#[test]
fn frames_from_a_mac_of_another_are_dropped() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.reaches("10.7.0.12")?;
    count_at(&pair.b, "ip saddr 10.7.0.11")?;
    pair.a.machine.run("ip link set eth0 address 06:66:66:66:66:66")?;
    pair.a.does_not_reach("10.7.0.12")?;
    ensure!(counted_at(&pair.b, "inet")? == 0, "a spoofed frame arrived");
    pair.a.machine.run(&format!("ip link set eth0 address {}", pair.a.port.mac))?;
    pair.a.reaches("10.7.0.12")?;
    ensure!(counted_at(&pair.b, "inet")? > 0, "the counter does not see honest frames");
    Ok(())
}

#[test]
fn a_guest_cannot_be_the_gateway() -> Result<()> {
    let pair = Pair::new()?;
    let neighbour = pair.hosts[0].guest(&pair.acme, 13)?;
    pair.a.machine.run("ip address add 10.7.0.1/32 dev eth0")?;
    pair.a.machine.run("ip link set eth0 address 02:00:00:00:00:01")?;
    pair.a.machine.succeeds("ping -c 2 -i 0.05 -W 1 -I 10.7.0.1 10.7.0.13")?;
    neighbour.machine.run("ip neigh flush all")?;
    neighbour.reaches("10.7.0.1")?;
    let heard = pair.hosts[0].run_in(&pair.acme, "bridge fdb show br bridge")?;
    let gateway: Vec<&str> = heard.lines().filter(|line| line.starts_with("02:00:00:00:00:01")).collect();
    ensure!(gateway.iter().all(|line| line.contains("dev bridge")), "the gateway's MAC wandered: {gateway:?}");
    Ok(())
}

/// Frames of any form from a tap of the agent's, and how many of them another guest on the same host gets.
struct Forger {
    tap: File,
    own: Port,
    witness: Guest,
    _pair: Pair,
}

impl Forger {
    fn new() -> Result<Self> {
        let pair = Pair::new()?;
        let own = port(&pair.acme, 13)?;
        let tap = pair.hosts[0].attach(&pair.acme, own)?.file.into();
        let witness = pair.hosts[0].guest(&pair.acme, 14)?;
        witness.machine.nft(&format!(
            "table netdev lab {{ chain in {{ type filter hook ingress device eth0 priority 0; ether saddr {{ {}, 06:66:66:66:66:66 }} counter; }}; }}",
            own.mac
        ))?;
        Ok(Self { tap, own, witness, _pair: pair })
    }

    /// Sends a broadcast frame after virtio's empty header; then an honest one, and tells whether only that arrived.
    fn is_stopped(&self, source: [u8; 6], rest: &[u8]) -> Result<bool> {
        let before = counted_at(&self.witness, "netdev")?;
        self.send(source, rest)?;
        self.send(self.own.mac.octets(), &arp(REQUEST, self.own.mac.octets(), self.own.address))?;
        let arrived = || -> Result<u64> { Ok(counted_at(&self.witness, "netdev")? - before) };
        eventually("the honest frame arrives", || Ok(arrived()? >= 1))?;
        Ok(arrived()? == 1)
    }

    fn send(&self, source: [u8; 6], rest: &[u8]) -> Result<()> {
        let frame = [&[0; 10][..], &[0xff; 6], &source, rest].concat();
        (&self.tap).write_all(&frame)?;
        Ok(())
    }
}

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// ARP, from the frame's type on: who says that it has the address.
fn arp(operation: u8, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let header = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation];
    let asked = [0; 6];
    [&header[..], &mac, &address.octets(), &asked, &address.octets(), &[0; 18]].concat()
}

const SOMEBODY: [u8; 6] = [0x06, 0x66, 0x66, 0x66, 0x66, 0x66];

#[test]
fn arp_for_an_address_of_another_is_dropped() -> Result<()> {
    let forger = Forger::new()?;
    let own = forger.own.mac.octets();
    let others = Ipv4Addr::new(10, 7, 0, 66);
    for operation in [REQUEST, REPLY] {
        ensure!(forger.is_stopped(own, &arp(operation, own, others))?, "another's address was claimed");
        ensure!(forger.is_stopped(own, &arp(operation, own, Ipv4Addr::new(10, 7, 0, 1)))?, "the gateway's was claimed");
        let inner = arp(operation, SOMEBODY, forger.own.address);
        ensure!(forger.is_stopped(own, &inner)?, "another's MAC was claimed within");
        let both = arp(operation, SOMEBODY, others);
        ensure!(forger.is_stopped(SOMEBODY, &both)?, "somebody else spoke");
    }
    // To ask whether an address is free is no claim.
    ensure!(!forger.is_stopped(own, &arp(REQUEST, own, Ipv4Addr::UNSPECIFIED))?, "a probe did not pass");
    Ok(())
}

#[test]
fn only_ipv4_and_arp_pass() -> Result<()> {
    let forger = Forger::new()?;
    let own = forger.own.mac.octets();
    let ipv6 = [&[0x86, 0xdd, 0x60][..], &[0; 60]].concat();
    ensure!(forger.is_stopped(own, &ipv6)?, "IPv6 passed");
    let honest = arp(REQUEST, own, forger.own.address);
    let tagged = [&[0x81, 0, 0, 9][..], &honest].concat();
    ensure!(forger.is_stopped(own, &tagged)?, "a tagged frame passed");
    let twice = [&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 9][..], &honest].concat();
    ensure!(forger.is_stopped(own, &twice)?, "a frame with two tags passed");
    ensure!(forger.is_stopped(own, &[&[0x88, 0xb5][..], &[0; 60]].concat())?, "an unknown protocol passed");
    ensure!(forger.is_stopped(own, &[&[0, 38, 0x42, 0x42, 3][..], &[0; 60]].concat())?, "a spanning tree passed");
    Ok(())
}
