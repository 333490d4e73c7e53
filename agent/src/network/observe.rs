//! What is in a cluster's namespace, read from the kernel.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnetwork::Ipv4Network;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::RouteMessageBuilder;

use super::{
    desired::Port,
    link::{Link, LinkKind},
    netlink::{Netlink, NetlinkError},
    state::{Device, DeviceKind, Role, Route, State, alias_of},
};
use crate::spec::{ClusterName, GuestUid, MacAddress, Vni};

/// What was found beside the state itself.
pub(super) struct Found {
    pub(super) state: State,
    /// The kernel's numbers of our devices.
    pub(super) indexes: BTreeMap<Role, u32>,
    /// The ports whose taps are there, as their marks tell.
    pub(super) ports: BTreeMap<GuestUid, Port>,
    /// Devices that have one of our names and are not ours.
    pub(super) squatters: Vec<String>,
}

/// Reads devices, addresses, routes, forwarding entries and neighbours; not rules and settings. `known` are the ports
/// that the caller knows, so that a tap whose mark was removed is found by its name.
pub(super) fn observe(
    netlink: &mut Netlink,
    cluster: &ClusterName,
    known: &BTreeMap<GuestUid, Port>,
) -> Result<Found, NetlinkError> {
    let links = super::link::list(netlink)?;
    let mut found = sort_out(links, cluster, known);
    let roles: BTreeMap<u32, Role> = found.indexes.iter().map(|(role, index)| (*index, *role)).collect();
    for message in netlink.dump("addresses", &RouteNetlinkMessage::GetAddress(of_ipv4()))? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(role) = roles.get(&message.header.index)
            && let Some(address) = address_of(&message)
        {
            found.state.addresses.insert((*role, address));
        }
    }
    let any_route = RouteMessageBuilder::<Ipv4Addr>::new().build();
    for message in netlink.dump("routes", &RouteNetlinkMessage::GetRoute(any_route))? {
        if let RouteNetlinkMessage::NewRoute(message) = message
            && let Some(route) = route_of(&message, &roles)
        {
            found.state.routes.insert(route);
        }
    }
    read_forwarding(netlink, &roles, &mut found.state)?;
    read_neighbours(netlink, &roles, &mut found.state)?;
    Ok(found)
}

fn of_ipv4() -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message
}

fn sort_out(links: Vec<Link>, cluster: &ClusterName, known: &BTreeMap<GuestUid, Port>) -> Found {
    let mark = alias_of(cluster, "");
    let taps: BTreeMap<String, GuestUid> = known.keys().map(|uid| (Role::Tap(*uid).device(), *uid)).collect();
    let fixed: BTreeMap<String, Role> = Role::FIXED.into_iter().map(|role| (role.device(), role)).collect();
    let mut found =
        Found { state: State::default(), indexes: BTreeMap::new(), ports: BTreeMap::new(), squatters: Vec::new() };
    let bridge = links.iter().find(|link| link.name == Role::Bridge.device()).map(|link| link.index);
    for link in links {
        let marked = link.alias.starts_with(&mark);
        let role = match fixed.get(&link.name) {
            Some(role) => *role,
            None if link.kind == LinkKind::Tun => {
                let marked_port = Port::from_alias(cluster, &link.alias);
                let port = taps.get(&link.name).and_then(|uid| known.get(uid)).copied().or(marked_port);
                let Some(port) = port else { continue };
                found.ports.insert(port.uid, port);
                Role::Tap(port.uid)
            }
            None => {
                if marked {
                    found.state.strays.insert(link.name);
                }
                continue;
            }
        };
        let kind = kind_of(role, &link, bridge);
        if kind == DeviceKind::Other && !marked {
            found.squatters.push(link.name);
            continue;
        }
        let matters = matches!(role, Role::Bridge | Role::Gateway);
        let device = Device {
            kind,
            mac_address: link.mac_address.filter(|_| matters),
            mtu: link.mtu,
            alias: link.alias,
            port: link.port.filter(|_| link.controller.is_some() && link.controller == bridge),
            up: link.up,
        };
        found.indexes.insert(role, link.index);
        found.state.devices.insert(role, device);
    }
    found
}

/// Whether a device is what its role needs.
fn kind_of(role: Role, link: &Link, bridge: Option<u32>) -> DeviceKind {
    match (role, &link.kind) {
        (Role::Bridge, LinkKind::Bridge) => DeviceKind::Bridge,
        (Role::Vxlan, LinkKind::Vxlan { vni, port, local: Some(local), learning: false }) => {
            match Vni::try_from(*vni) {
                Ok(vni) => DeviceKind::Vxlan { vni, port: *port, local: *local },
                Err(_) => DeviceKind::Other,
            }
        }
        (Role::Gateway, LinkKind::MacVlan { private: true }) if link.lower.is_some() && link.lower == bridge => {
            DeviceKind::Gateway
        }
        (Role::Egress, LinkKind::Veth) => DeviceKind::Egress,
        (Role::Tap(_), LinkKind::Tun) => DeviceKind::Tap,
        _ => DeviceKind::Other,
    }
}

/// An interface's own IPv4 address with its prefix.
pub(super) fn address_of(message: &AddressMessage) -> Option<Ipv4Network> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Ipv4Network::new(*address, message.header.prefix_len).ok(),
        _ => None,
    })
}

fn route_of(message: &RouteMessage, roles: &BTreeMap<u32, Role>) -> Option<Route> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut via, mut device) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::Oif(index) => device = roles.get(index).copied(),
            _ => {}
        }
    }
    let destination = Ipv4Network::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, via, device: device? })
}

/// One entry of a forwarding database or neighbour table.
struct Entry {
    device: u32,
    state: NeighbourState,
    mac_address: Option<MacAddress>,
    zero_mac: bool,
    address: Option<Ipv4Addr>,
    controller: Option<u32>,
}

impl From<NeighbourMessage> for Entry {
    fn from(message: NeighbourMessage) -> Self {
        let mut entry = Self {
            device: message.header.ifindex,
            state: message.header.state,
            mac_address: None,
            zero_mac: false,
            address: None,
            controller: None,
        };
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    entry.zero_mac = bytes.iter().all(|byte| *byte == 0);
                    entry.mac_address = <[u8; 6]>::try_from(bytes).ok().and_then(|bytes| bytes.try_into().ok());
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => entry.address = Some(address),
                // The forwarding database's own family does not say of which family a VTEP's address is.
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                    entry.address = <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
                }
                NeighbourAttribute::Controller(index) => entry.controller = Some(index),
                _ => {}
            }
        }
        entry
    }
}

fn entries(netlink: &mut Netlink, what: &'static str, family: AddressFamily) -> Result<Vec<Entry>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    let found = netlink.dump(what, &RouteNetlinkMessage::GetNeighbour(request))?;
    Ok(found
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Some(Entry::from(message)),
            _ => None,
        })
        .collect())
}

fn read_forwarding(netlink: &mut Netlink, roles: &BTreeMap<u32, Role>, state: &mut State) -> Result<(), NetlinkError> {
    let bridge = roles.iter().find(|(_, role)| **role == Role::Bridge).map(|(index, _)| *index);
    for entry in entries(netlink, "forwarding entries", AddressFamily::Bridge)? {
        let Some(role) = roles.get(&entry.device).copied() else { continue };
        let of_bridge = entry.controller.is_some() && entry.controller == bridge;
        match (of_bridge, entry.address, entry.mac_address) {
            (true, _, Some(mac)) => {
                // The bridge's own addresses and those of its ports are permanent; of these only the gateway's is of our
                // making.
                let own = entry.state == NeighbourState::Permanent;
                if !own || role == Role::Bridge && mac == MacAddress::GATEWAY {
                    state.bridge_entries.insert(mac, role);
                }
            }
            (false, Some(vtep), _) if role == Role::Vxlan && entry.zero_mac => {
                state.flood.insert(vtep);
            }
            (false, Some(vtep), Some(mac)) if role == Role::Vxlan => {
                state.tunnel_entries.insert(mac, vtep);
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_neighbours(netlink: &mut Netlink, roles: &BTreeMap<u32, Role>, state: &mut State) -> Result<(), NetlinkError> {
    for entry in entries(netlink, "neighbours", AddressFamily::Inet)? {
        // What the kernel learned or failed to learn is its own affair.
        if entry.state == NeighbourState::Permanent
            && roles.get(&entry.device) == Some(&Role::Bridge)
            && let (Some(address), Some(mac)) = (entry.address, entry.mac_address)
        {
            state.neighbours.insert(address, mac);
        }
    }
    Ok(())
}
