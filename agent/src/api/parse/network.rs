//! A network's spec and its peer list.

use std::{collections::HashMap, hash::Hash, net::Ipv4Addr};

use goliath_proto::agent::v1 as pb;
use goliath_server::violations::{Path, Violation, Violations};
use ipnetwork::Ipv4Network;

use super::{bounded, ipv4, texts::filled_line};
use crate::{
    config::Config,
    spec::{
        Generation, GuestEndpoint, HostEndpoint, InvalidValue, MacAddress, Mtu, NetworkSpec, OverlayCidr, Peer,
        PeerList, Vni,
    },
};

const MOST_DNS_SERVERS: usize = 8;
const MOST_PEERS: usize = 4096;
const MOST_GUESTS_OF_A_PEER: usize = 4096;

/// A network's spec as a domain type. What depends on the host and its other networks is for admission.
pub(in crate::api) fn network(spec: &pb::NetworkSpec) -> Result<NetworkSpec, Vec<Violation>> {
    let mut violations = Violations::default();
    let spec = read(&mut violations, &Path::root("spec"), spec);
    violations.finish(spec)
}

fn read(violations: &mut Violations, at: &Path, spec: &pb::NetworkSpec) -> Option<NetworkSpec> {
    let cluster = violations.parse(&at.field("cluster"), &spec.cluster);
    let generation = violations.take(&at.field("generation"), Generation::try_from(spec.generation));
    let vni = violations.take(&at.field("vni"), Vni::try_from(spec.vni));
    let cidr = violations.parse(&at.field("cidr"), &spec.cidr).map(OverlayCidr::network);
    let gateway = violations.take(&at.field("gateway_address"), member(&spec.gateway_address, cidr));
    let host_at = at.field("host_address");
    let host_address = violations.take(&host_at, member(&spec.host_address, cidr));
    violations.check(&host_at, host_address.is_none() || host_address != gateway, || {
        "is the gateway's: every host needs an address of its own beside it".to_owned()
    });
    let mtu = match spec.mtu {
        0 => Some(None),
        mtu => violations.take(&at.field("mtu"), Mtu::try_from(mtu)).map(Some),
    };
    let dns_at = at.field("dns_servers");
    let given = bounded(violations, &dns_at, &spec.dns_servers, MOST_DNS_SERVERS);
    let mut dns_servers = Vec::new();
    for (index, server) in given.iter().enumerate() {
        dns_servers.extend(violations.take(&dns_at.index(index), ipv4(server)));
    }
    let dns_servers = (dns_servers.len() == given.len()).then_some(dns_servers);
    Some(NetworkSpec {
        cluster: cluster?,
        generation: generation?,
        vni: vni?,
        cidr: cidr?,
        gateway: gateway?,
        host_address: host_address?,
        mtu: mtu?,
        egress: spec.egress,
        dns_servers: dns_servers?,
    })
}

/// An address that a machine in the network can have; where the network itself is no good, any.
fn member(text: &str, cidr: Option<Ipv4Network>) -> Result<Ipv4Addr, InvalidValue> {
    let address = ipv4(text)?;
    match cidr {
        Some(cidr) if !cidr.contains(address) => Err(InvalidValue::new(format!("{address} is not in {cidr}"))),
        Some(cidr) if address == cidr.network() || address == cidr.broadcast() => {
            Err(InvalidValue::new(format!("{address} is the network's own or its broadcast address")))
        }
        _ => Ok(address),
    }
}

/// A peer list as a domain type. Whether its addresses are the network's is for admission.
pub(in crate::api) fn peers(list: &pb::PeerList, config: &Config) -> Result<PeerList, Vec<Violation>> {
    let mut violations = Violations::default();
    let list = read_peers(&mut violations, &Path::root("peers"), list, config.network.underlay_address);
    violations.finish(list)
}

fn read_peers(violations: &mut Violations, at: &Path, list: &pb::PeerList, own: Ipv4Addr) -> Option<PeerList> {
    let generation = violations.take(&at.field("generation"), Generation::try_from(list.generation));
    let peers_at = at.field("peers");
    let given = bounded(violations, &peers_at, &list.peers, MOST_PEERS);
    let mut seen = Seen::default();
    let mut peers = Vec::with_capacity(given.len());
    for (index, peer) in given.iter().enumerate() {
        peers.extend(read_peer(violations, &peers_at.index(index), peer, own, &mut seen));
    }
    let complete = peers.len() == given.len();
    Some(PeerList { generation: generation?, peers: complete.then_some(peers)? })
}

/// What two peers cannot both have, and where it stood first.
#[derive(Default)]
struct Seen {
    hosts: HashMap<String, String>,
    underlay: HashMap<Ipv4Addr, String>,
    addresses: HashMap<Ipv4Addr, String>,
    macs: HashMap<MacAddress, String>,
}

fn once<T: Eq + Hash>(violations: &mut Violations, at: &Path, seen: &mut HashMap<T, String>, value: T) {
    if let Some(first) = seen.insert(value, at.to_string()) {
        violations.add(at, format!("is the same as {first}"));
    }
}

fn read_peer(violations: &mut Violations, at: &Path, peer: &pb::Peer, own: Ipv4Addr, seen: &mut Seen) -> Option<Peer> {
    let host = violations.take(&at.field("host"), filled_line(&peer.host, 253));
    if let Some(host) = &host {
        once(violations, &at.field("host"), &mut seen.hosts, host.clone());
    }
    let underlay_at = at.field("underlay_address");
    let underlay_address = violations.take(&underlay_at, ipv4(&peer.underlay_address));
    if let Some(address) = underlay_address {
        once(violations, &underlay_at, &mut seen.underlay, address);
        violations.check(&underlay_at, address != own, || "is this host's own: peers are the others".to_owned());
    }
    let host_at = at.field("host_endpoint");
    let host_endpoint = violations.required(&host_at, peer.host_endpoint.as_ref()).and_then(|endpoint| {
        let address = violations.take(&host_at.field("ipv4_address"), ipv4(&endpoint.ipv4_address))?;
        let mac_address = match endpoint.mac_address.as_str() {
            "" => MacAddress::of_host(address),
            text => violations.parse(&host_at.field("mac_address"), text)?,
        };
        places(violations, &host_at, seen, address, mac_address);
        Some(HostEndpoint { address, mac_address })
    });
    let guests_at = at.field("guests");
    let given = bounded(violations, &guests_at, &peer.guests, MOST_GUESTS_OF_A_PEER);
    let mut guests = Vec::with_capacity(given.len());
    for (index, endpoint) in given.iter().enumerate() {
        let at = guests_at.index(index);
        let address = violations.take(&at.field("ipv4_address"), ipv4(&endpoint.ipv4_address));
        let mac_address = violations.parse(&at.field("mac_address"), &endpoint.mac_address);
        if let (Some(address), Some(mac_address)) = (address, mac_address) {
            places(violations, &at, seen, address, mac_address);
            guests.push(GuestEndpoint { address, mac_address });
        }
    }
    let complete = guests.len() == given.len();
    Some(Peer {
        host: host?,
        underlay_address: underlay_address?,
        host_endpoint: host_endpoint?,
        guests: complete.then_some(guests)?,
    })
}

fn places(violations: &mut Violations, at: &Path, seen: &mut Seen, address: Ipv4Addr, mac_address: MacAddress) {
    once(violations, &at.field("ipv4_address"), &mut seen.addresses, address);
    once(violations, &at.field("mac_address"), &mut seen.macs, mac_address);
    violations.check(&at.field("mac_address"), mac_address != MacAddress::GATEWAY, || {
        "is the address of the networks' gateways".to_owned()
    });
}
