//! One Ethernet device gets its address, MTU and default route, by netlink.

use std::{fs, io, net::IpAddr};

use ipnetwork::Ipv4Network;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::seed::Interface;

/// Why a device could not be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("no Ethernet device has the address {0}")]
    NoDevice(String),
    #[error("{what} of {device} was refused: {reason}")]
    Refused { what: String, device: String, reason: io::Error },
}

/// An Ethernet device that the kernel has.
struct Device {
    name: String,
    index: u32,
    mac_address: String,
}

/// Configures the device that is meant and tells its name.
pub(crate) fn configure(interface: &Interface) -> Result<String, NetworkError> {
    let wanted = interface.mac_address.as_deref();
    let device = devices()
        .into_iter()
        .find(|device| wanted.is_none_or(|mac_address| device.mac_address == mac_address))
        .ok_or_else(|| NetworkError::NoDevice(wanted.unwrap_or("any").to_owned()))?;
    let refused = |what: String| {
        let device = device.name.clone();
        move |reason| NetworkError::Refused { what, device, reason }
    };
    let route = Route::connect().map_err(refused("a netlink socket".to_owned()))?;
    for name in ["lo", &device.name] {
        let index = device_index(name).unwrap_or(device.index);
        let mtu = interface.mtu.filter(|_| name != "lo");
        route.request(link_up(index, mtu)).map_err(refused(format!("{name} up, MTU {mtu:?},")))?;
    }
    for address in &interface.addresses {
        route.request(new_address(device.index, *address)).map_err(refused(format!("the address {address}")))?;
    }
    if let Some(gateway) = interface.gateway {
        let message = default_route(device.index, gateway.into());
        route.request(message).map_err(refused(format!("the route by {gateway}")))?;
    }
    Ok(device.name)
}

fn devices() -> Vec<Device> {
    let mut devices: Vec<Device> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let mac_address = fs::read_to_string(format!("/sys/class/net/{name}/address")).ok()?.trim().to_owned();
            Some(Device { index: device_index(&name)?, name, mac_address })
        })
        .filter(|device| device.name != "lo")
        .collect();
    devices.sort_by_key(|device| device.index);
    devices
}

fn device_index(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

fn link_up(index: u32, mtu: Option<u32>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    RouteNetlinkMessage::SetLink(message)
}

fn new_address(index: u32, address: Ipv4Network) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = address.prefix();
    message.attributes = vec![
        AddressAttribute::Local(address.ip().into()),
        AddressAttribute::Address(address.ip().into()),
        AddressAttribute::Broadcast(address.broadcast()),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

fn default_route(index: u32, gateway: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
    RouteNetlinkMessage::NewRoute(message)
}

/// A blocking rtnetlink socket: this program has no runtime.
struct Route(Socket);

impl Route {
    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends one change and waits for the kernel's word on it.
    fn request(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let (reply, _) = self.0.recv_from_full()?;
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply).map_err(io::Error::other)?.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            NetlinkPayload::Error(_) => Ok(()),
            _ => Err(io::Error::other("netlink answered with something else than an acknowledgement")),
        }
    }
}
