//! Changes as netlink messages.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteMessage, RouteProtocol, RouteScope},
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::{ClusterKernel, Failure};
use crate::{
    network::{
        Change, link,
        netlink::Request,
        state::{Role, Route},
    },
    spec::MacAddress,
};

impl ClusterKernel {
    fn index(&self, role: Role) -> Result<u32, Failure> {
        self.indexes.get(&role).copied().ok_or_else(|| Failure { message: format!("device {role} is not there") })
    }

    /// The messages for a change.
    pub(super) fn requests(&self, change: &Change) -> Result<Vec<Request>, Failure> {
        Ok(match change {
            Change::SetDevice(role, device) => link::set(self.index(*role)?, device, self.index(Role::Bridge)?),
            Change::AddAddress(role, address) => {
                let message = AddressMessageBuilder::<Ipv4Addr>::new()
                    .index(self.index(*role)?)
                    .address(address.ip(), address.prefix())
                    .build();
                vec![Request::put(RouteNetlinkMessage::NewAddress(message))]
            }
            Change::DeleteAddress(role, address) => {
                let message = AddressMessageBuilder::<Ipv4Addr>::new()
                    .index(self.index(*role)?)
                    .address(address.ip(), address.prefix())
                    .build();
                vec![Request::change(RouteNetlinkMessage::DelAddress(message))]
            }
            Change::PutRoute(route) => vec![Request::put(RouteNetlinkMessage::NewRoute(self.route(route)?))],
            Change::DeleteRoute(route) => {
                let mut message = self.route(route)?;
                // Whoever wrote it.
                message.header.protocol = RouteProtocol::Unspec;
                message.header.scope = RouteScope::NoWhere;
                vec![Request::change(RouteNetlinkMessage::DelRoute(message))]
            }
            Change::PutBridgeEntry(mac, port) => {
                let entry = self.bridge_entry(*mac, *port)?;
                vec![Request::put(RouteNetlinkMessage::NewNeighbour(entry))]
            }
            Change::DeleteBridgeEntry(mac, port) => {
                let entry = self.bridge_entry(*mac, *port)?;
                vec![Request::change(RouteNetlinkMessage::DelNeighbour(entry))]
            }
            Change::PutTunnelEntry(mac, vtep) => {
                let entry = self.tunnel_entry(mac.octets(), *vtep)?;
                vec![Request::put(RouteNetlinkMessage::NewNeighbour(entry))]
            }
            Change::DeleteTunnelEntry(mac, vtep) => {
                let entry = self.tunnel_entry(mac.octets(), *vtep)?;
                vec![Request::change(RouteNetlinkMessage::DelNeighbour(entry))]
            }
            Change::AddFlood(vtep) => {
                let entry = self.tunnel_entry([0; 6], *vtep)?;
                vec![Request::append(RouteNetlinkMessage::NewNeighbour(entry))]
            }
            Change::DeleteFlood(vtep) => {
                let entry = self.tunnel_entry([0; 6], *vtep)?;
                vec![Request::change(RouteNetlinkMessage::DelNeighbour(entry))]
            }
            Change::PutNeighbour(neighbour) => {
                let entry = self.neighbour(neighbour.address, neighbour.mac_address)?;
                vec![Request::put(RouteNetlinkMessage::NewNeighbour(entry))]
            }
            Change::DeleteNeighbour(neighbour) => {
                let entry = self.neighbour(neighbour.address, neighbour.mac_address)?;
                vec![Request::change(RouteNetlinkMessage::DelNeighbour(entry))]
            }
            Change::DeleteStray(_)
            | Change::DeleteDevice(_)
            | Change::CreateDevice(..)
            | Change::SetSysctl(..)
            | Change::LoadRules(_)
            | Change::AddSender(_)
            | Change::DeleteSender(_) => Vec::new(),
        })
    }

    fn route(&self, route: &Route) -> Result<RouteMessage, Failure> {
        let builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.destination.network(), route.destination.prefix())
            .output_interface(self.index(route.device)?);
        Ok(match route.via {
            Some(gateway) => builder.gateway(gateway).protocol(RouteProtocol::Static).build(),
            // As the kernel writes it itself when the address comes.
            None => builder.scope(RouteScope::Link).protocol(RouteProtocol::Kernel).build(),
        })
    }

    fn bridge_entry(&self, mac: MacAddress, port: Role) -> Result<NeighbourMessage, Failure> {
        let mut entry = entry(AddressFamily::Bridge, self.index(port)?, mac.octets());
        if port == Role::Bridge {
            entry.header.state = NeighbourState::Permanent;
            entry.header.flags = NeighbourFlags::Own;
        } else {
            entry.header.state = NeighbourState::Noarp;
            entry.header.flags = NeighbourFlags::Controller;
        }
        Ok(entry)
    }

    fn tunnel_entry(&self, mac: [u8; 6], vtep: Ipv4Addr) -> Result<NeighbourMessage, Failure> {
        let mut entry = entry(AddressFamily::Bridge, self.index(Role::Vxlan)?, mac);
        entry.header.state = NeighbourState::Permanent;
        entry.header.flags = NeighbourFlags::Own;
        entry.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(vtep)));
        Ok(entry)
    }

    fn neighbour(&self, address: Ipv4Addr, mac: MacAddress) -> Result<NeighbourMessage, Failure> {
        let mut entry = entry(AddressFamily::Inet, self.index(Role::Bridge)?, mac.octets());
        entry.header.state = NeighbourState::Permanent;
        entry.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        Ok(entry)
    }
}

fn entry(family: AddressFamily, index: u32, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}
