//! What a cluster's network shall be, from what was asked for and what the host is. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnetwork::Ipv4Network;

use super::{
    VXLAN_OVERHEAD,
    egress::{self, EgressSlot},
    state::{Device, DeviceKind, PortFlags, Role, Route, Sender, State, alias_of},
    sysctl::Sysctl,
};
use crate::spec::{ClusterName, GuestUid, MacAddress, Mtu, NetworkSpec, PeerList};

/// One guest's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// Whose.
    pub uid: GuestUid,
    /// The only one it may use.
    pub address: Ipv4Addr,
    /// The only one it may use.
    pub mac: MacAddress,
}

impl Port {
    /// The tap's `ifalias`: an agent that starts finds its ports again by it.
    pub fn alias(&self, cluster: &ClusterName) -> String {
        alias_of(cluster, &format!("{}:{}:{}", self.uid, self.address, self.mac))
    }

    /// Reads [`Self::alias`] back.
    pub fn from_alias(cluster: &ClusterName, alias: &str) -> Option<Self> {
        let mut parts = alias.strip_prefix(&alias_of(cluster, ""))?.splitn(3, ':');
        Some(Self {
            uid: parts.next()?.parse().ok()?,
            address: parts.next()?.parse().ok()?,
            mac: parts.next()?.parse().ok()?,
        })
    }
}

/// Everything on which a network's state depends.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// As asked for.
    pub spec: &'a NetworkSpec,
    /// None: nobody told of other hosts yet.
    pub peers: Option<&'a PeerList>,
    /// The guests whose taps are there: a tap cannot be made for a QEMU that runs.
    pub ports: &'a BTreeMap<GuestUid, Port>,
    /// This host's VTEP.
    pub underlay_address: Ipv4Addr,
    /// VXLAN's UDP port.
    pub vxlan_port: u16,
    /// In use, and told to the guests.
    pub mtu: Mtu,
    /// The way out, where there is to be one.
    pub egress: Option<EgressSlot>,
}

/// The largest MTU of an overlay over an underlay; None: not even the smallest fits.
pub fn overlay_mtu(underlay_mtu: u32) -> Option<Mtu> {
    let largest = u32::from(Mtu::LARGEST.get());
    Mtu::try_from(underlay_mtu.checked_sub(u32::from(VXLAN_OVERHEAD))?.min(largest)).ok()
}

/// A network's address with the prefix of its CIDR.
fn in_cidr(address: Ipv4Addr, cidr: Ipv4Network) -> Ipv4Network {
    Ipv4Network::new_checked(address, cidr.prefix()).unwrap_or_else(|| Ipv4Network::from(address))
}

/// What shall be in the cluster's namespace.
pub fn desired(wanted: &Wanted<'_>) -> State {
    let spec = wanted.spec;
    let mut state = State { rules: true, sysctls: settings(wanted.egress.is_some()), ..State::default() };
    state.devices = devices(wanted);
    state.addresses.insert((Role::Bridge, in_cidr(spec.host_address, spec.cidr)));
    state.addresses.insert((Role::Gateway, Ipv4Network::from(spec.gateway)));
    state.routes.insert(Route { destination: spec.cidr, via: None, device: Role::Bridge });
    // Without it, frames to the gateway would be flooded, and other hosts would answer too.
    state.bridge_entries.insert(MacAddress::GATEWAY, Role::Bridge);
    if let Some(slot) = wanted.egress {
        let link = egress::on_the_link(slot.cluster_end());
        state.addresses.insert((Role::Egress, link));
        let on_link = in_cidr(slot.host_end(), link);
        state.routes.insert(Route { destination: on_link, via: None, device: Role::Egress });
        let everywhere = in_prefix_zero();
        state.routes.insert(Route { destination: everywhere, via: Some(slot.host_end()), device: Role::Egress });
    }
    wanted.ports.values().for_each(|port| add_port(port, &mut state));
    add_peers(wanted, &mut state);
    state
}

/// What shall be there of one port alone.
pub fn desired_port(wanted: &Wanted<'_>, port: &Port) -> State {
    let mut state = State { rules: true, ..State::default() };
    state.devices.insert(Role::Tap(port.uid), tap(wanted, port));
    add_port(port, &mut state);
    state
}

fn in_prefix_zero() -> Ipv4Network {
    Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).unwrap_or_else(|| Ipv4Network::from(Ipv4Addr::UNSPECIFIED))
}

fn devices(wanted: &Wanted<'_>) -> BTreeMap<Role, Device> {
    let spec = wanted.spec;
    let device = |kind, what: &str| Device {
        kind,
        mac_address: None,
        mtu: wanted.mtu.into(),
        alias: alias_of(&spec.cluster, what),
        port: None,
        up: true,
    };
    let vxlan = DeviceKind::Vxlan { vni: spec.vni, port: wanted.vxlan_port, local: wanted.underlay_address };
    let own_mac = Some(MacAddress::of_host(spec.host_address));
    let mut devices = BTreeMap::from([
        (Role::Bridge, Device { mac_address: own_mac, ..device(DeviceKind::Bridge, "bridge") }),
        (Role::Vxlan, Device { port: Some(PortFlags::VXLAN), ..device(vxlan, "vxlan") }),
        (Role::Gateway, Device { mac_address: Some(MacAddress::GATEWAY), ..device(DeviceKind::Gateway, "gateway") }),
    ]);
    if wanted.egress.is_some() {
        devices.insert(Role::Egress, device(DeviceKind::Egress, "egress"));
    }
    for port in wanted.ports.values() {
        devices.insert(Role::Tap(port.uid), tap(wanted, port));
    }
    devices
}

fn tap(wanted: &Wanted<'_>, port: &Port) -> Device {
    Device {
        kind: DeviceKind::Tap,
        mac_address: None,
        mtu: wanted.mtu.into(),
        alias: port.alias(&wanted.spec.cluster),
        port: Some(PortFlags::TAP),
        up: true,
    }
}

fn add_port(port: &Port, state: &mut State) {
    state.bridge_entries.insert(port.mac, Role::Tap(port.uid));
    state.neighbours.insert(port.address, port.mac);
    state.senders.insert(Sender { uid: port.uid, mac_address: port.mac, address: port.address });
}

/// What is here is never elsewhere: while a guest moves, the peer list may still, or already, name another host.
fn add_peers(wanted: &Wanted<'_>, state: &mut State) {
    let spec = wanted.spec;
    let own_addresses: BTreeSet<Ipv4Addr> =
        [spec.gateway, spec.host_address].into_iter().chain(wanted.ports.values().map(|port| port.address)).collect();
    let own_macs: BTreeSet<MacAddress> = [MacAddress::GATEWAY, MacAddress::of_host(spec.host_address)]
        .into_iter()
        .chain(wanted.ports.values().map(|port| port.mac))
        .collect();
    let peers = wanted.peers.map(|list| list.peers.as_slice()).unwrap_or_default();
    for peer in peers.iter().filter(|peer| peer.underlay_address != wanted.underlay_address) {
        state.flood.insert(peer.underlay_address);
        let host = (peer.host_endpoint.address, peer.host_endpoint.mac_address);
        let guests = peer.guests.iter().map(|guest| (guest.address, guest.mac_address));
        for (address, mac) in std::iter::once(host).chain(guests) {
            if own_macs.contains(&mac) || own_addresses.contains(&address) {
                continue;
            }
            state.bridge_entries.insert(mac, Role::Vxlan);
            state.tunnel_entries.insert(mac, peer.underlay_address);
            state.neighbours.insert(address, mac);
        }
    }
}

/// The kernel's settings in a cluster's namespace: it routes between the overlay and the way out, and answers only for
/// what is its own.
pub fn settings(egress: bool) -> BTreeMap<Sysctl, String> {
    let mut sysctls = BTreeMap::new();
    let mut set = |sysctl: Sysctl, value: &str| sysctls.insert(sysctl, value.to_owned());
    set(Sysctl::new("ipv4/ip_forward"), if egress { "1" } else { "0" });
    // The same network is on the bridge and, by the gateway's address, on the macvlan: each answers for its own
    // address only, and packets may come in by the one and leave by the other.
    set(Sysctl::new("ipv4/conf/all/arp_ignore"), "1");
    set(Sysctl::new("ipv4/conf/all/arp_announce"), "2");
    for scope in ["all", "default", "bridge", "gateway"] {
        set(Sysctl::new(format!("ipv4/conf/{scope}/rp_filter")), "0");
        set(Sysctl::new(format!("ipv4/conf/{scope}/send_redirects")), "0");
    }
    // Guests have no IPv6 here, and the namespace's own router solicitations would cross the underlay.
    set(Sysctl::optional("ipv6/conf/all/disable_ipv6"), "1");
    set(Sysctl::optional("ipv6/conf/default/disable_ipv6"), "1");
    // Where br_netfilter is loaded, NAT would otherwise happen to bridged frames.
    for table in ["iptables", "ip6tables", "arptables"] {
        set(Sysctl::optional(format!("bridge/bridge-nf-call-{table}")), "0");
    }
    sysctls
}

impl PortFlags {
    const VXLAN: Self = Self { learning: false, unicast_flood: false, neigh_suppress: true };
    const TAP: Self = Self { learning: false, unicast_flood: false, neigh_suppress: false };
}

#[cfg(test)]
pub(super) mod tests;
