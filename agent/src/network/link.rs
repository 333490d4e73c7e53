//! Devices in the kernel's own language: messages that make and change them, and what its answers say.

use std::{net::Ipv4Addr, os::fd::RawFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        BridgeStpState, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth,
        InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
    },
};
use rtnetlink::{LinkBridge, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use super::{
    netlink::{Netlink, NetlinkError, Request},
    state::{Device, PortFlags},
};
use crate::spec::{MacAddress, Vni};

/// A device as the kernel tells of it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) kind: LinkKind,
    pub(super) mac_address: Option<MacAddress>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) loopback: bool,
    /// The bridge it is a port of.
    pub(super) controller: Option<u32>,
    pub(super) port: Option<PortFlags>,
    /// The device it is on, or its other end, possibly in another namespace.
    pub(super) lower: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkKind {
    Bridge,
    Vxlan { vni: u32, port: u16, local: Option<Ipv4Addr>, learning: bool },
    MacVlan { private: bool },
    Veth,
    Tun,
    Other,
}

/// All devices of a socket's namespace.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let found = netlink.dump("devices", &RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(found
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
            _ => None,
        })
        .collect())
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: String::new(),
            kind: LinkKind::Other,
            mac_address: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            controller: None,
            port: None,
            lower: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => {
                    link.mac_address =
                        <[u8; 6]>::try_from(address).ok().and_then(|octets| MacAddress::try_from(octets).ok());
                }
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Link(index) => link.lower = Some(index),
                LinkAttribute::LinkInfo(infos) => link.read_infos(&infos),
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn read_infos(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Bridge) => self.kind = LinkKind::Bridge,
                LinkInfo::Kind(InfoKind::Veth) => self.kind = LinkKind::Veth,
                LinkInfo::Kind(InfoKind::Tun) => self.kind = LinkKind::Tun,
                LinkInfo::Data(InfoData::Vxlan(infos)) => self.kind = vxlan_kind(infos),
                LinkInfo::Data(InfoData::MacVlan(infos)) => {
                    let private = infos.contains(&InfoMacVlan::Mode(MacVlanMode::Private));
                    self.kind = LinkKind::MacVlan { private };
                }
                LinkInfo::PortData(InfoPortData::BridgePort(infos)) => self.port = Some(port_flags(infos)),
                _ => {}
            }
        }
    }
}

fn vxlan_kind(infos: &[InfoVxlan]) -> LinkKind {
    let (mut vni, mut port, mut local, mut learning) = (0, 0, None, false);
    for info in infos {
        match info {
            InfoVxlan::Id(id) => vni = *id,
            InfoVxlan::Port(number) => port = *number,
            InfoVxlan::Local(address) => local = Some(*address),
            InfoVxlan::Learning(learns) => learning = *learns,
            _ => {}
        }
    }
    LinkKind::Vxlan { vni, port, local, learning }
}

fn port_flags(infos: &[InfoBridgePort]) -> PortFlags {
    let mut flags = PortFlags { learning: false, unicast_flood: false, neigh_suppress: false };
    for info in infos {
        match info {
            InfoBridgePort::Learning(on) => flags.learning = *on,
            InfoBridgePort::UnicastFlood(on) => flags.unicast_flood = *on,
            InfoBridgePort::NeighSupress(on) => flags.neigh_suppress = *on,
            _ => {}
        }
    }
    flags
}

/// Multicast goes everywhere, as broadcasts do: without a querier, snooping would only lose it.
pub(super) fn create_bridge(name: &str, alias: &str) -> Request {
    let bridge = LinkBridge::new(name).stp_state(BridgeStpState::Disabled).mcast_snooping(false).alias(alias).build();
    Request::create(RouteNetlinkMessage::NewLink(bridge))
}

pub(super) struct NewVxlan<'a> {
    pub(super) name: &'a str,
    pub(super) alias: &'a str,
    pub(super) vni: Vni,
    pub(super) port: u16,
    pub(super) local: Ipv4Addr,
    /// Where the device shall be; its tunnel's socket is in the namespace of the netlink socket that this is sent by.
    pub(super) namespace: RawFd,
}

pub(super) fn create_vxlan(new: &NewVxlan<'_>) -> Request {
    let vxlan = LinkVxlan::new(new.name, new.vni.get())
        .port(new.port)
        .local(new.local)
        .learning(false)
        .alias(new.alias)
        .setns_by_fd(new.namespace)
        .build();
    Request::create(RouteNetlinkMessage::NewLink(vxlan))
}

pub(super) fn create_gateway(name: &str, alias: &str, bridge: u32, mac: MacAddress) -> Request {
    let gateway =
        LinkMacVlan::new(name, bridge, MacVlanMode::Private).alias(alias).address(mac.octets().to_vec()).build();
    Request::create(RouteNetlinkMessage::NewLink(gateway))
}

/// A pair: `name` in the namespace of the socket that this is sent by, `peer` in another.
pub(super) fn create_pair(name: &str, alias: &str, peer: &str, peer_namespace: RawFd) -> Request {
    let other = LinkMessageBuilder::<LinkUnspec>::new().name(peer).setns_by_fd(peer_namespace).build();
    let pair = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(other))).alias(alias).build();
    Request::create(RouteNetlinkMessage::NewLink(pair))
}

/// Everything of a device that can change while it is there.
pub(super) fn set(index: u32, device: &Device, bridge: u32) -> Vec<Request> {
    let mut message = LinkUnspec::new_with_index(index).mtu(device.mtu).alias(device.alias.as_str());
    if let Some(mac) = device.mac_address {
        message = message.address(mac.octets().to_vec());
    }
    message = if device.up { message.up() } else { message.down() };
    message = if device.port.is_some() { message.controller(bridge) } else { message.nocontroller() };
    let mut requests = vec![Request::change(RouteNetlinkMessage::SetLink(message.build()))];
    if let Some(port) = device.port {
        // Only a port has a port's flags, so they come after it became one.
        let flags = LinkUnspec::new_with_index(index)
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(port.learning),
                InfoBridgePort::UnicastFlood(port.unicast_flood),
                InfoBridgePort::NeighSupress(port.neigh_suppress),
            ]))
            .build();
        requests.push(Request::change(RouteNetlinkMessage::NewLink(flags)));
    }
    requests
}

pub(super) fn delete(index: u32) -> Request {
    Request::change(RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build()))
}
