//! What belongs to the host's own namespace: its devices as they are, and the clusters' ways out.
//!
//! Of the host's only this is written: one end of a veth pair for each cluster with egress, the table `ip goliath`, and
//! forwarding on the devices by which answers come back, unless the host forwards anyway.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use ipnetwork::Ipv4Network;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressMessage, AddressScope},
    route::{RouteAttribute, RouteHeader, RouteType},
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::{
    NetlinkError, NftError,
    egress::{self, EgressSlot},
    link::{self, Link, LinkKind},
    namespace::NamespaceError,
    netlink::{Netlink, Request},
    nftables::{self, Nft},
    observe::address_of,
    rules,
    state::{Device, DeviceKind, OWNER, Role, alias_of},
    sysctl::Sysctl,
};
use crate::spec::{ClusterName, Mtu, Vni};

/// The host's devices, without those that the agent made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// In the kernel's order.
    pub devices: Vec<HostDevice>,
    /// By which the default routes go.
    pub default_devices: BTreeSet<String>,
    /// Of VXLAN devices on the port that ours use: the kernel gives a packet to one device of a VNI.
    pub vnis: BTreeSet<u32>,
}

/// One device of the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// As the kernel names it.
    pub name: String,
    /// In bytes.
    pub mtu: u32,
    /// `lo`, or another of its kind.
    pub loopback: bool,
    /// Its IPv4 addresses with their prefixes.
    pub networks: Vec<Ipv4Network>,
}

/// By what the clusters' packets travel between hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Whose MTU counts.
    pub device: String,
    /// In bytes.
    pub mtu: u32,
}

/// There is nothing for overlays to lie on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUnderlay {
    /// The configuration has none.
    #[error("this host has no networks: set underlay_address under [network] in agent.toml")]
    NotConfigured,
    /// No device has it.
    #[error(
        "no device of this host has the underlay address {0}: check underlay_address under [network] in agent.toml"
    )]
    NoDevice(Ipv4Addr),
    /// It is on the loopback device, and no route tells by which device packets leave.
    #[error("the underlay address {0} is on a loopback device, and there is no default route by which packets leave")]
    NoRoute(Ipv4Addr),
}

impl HostFacts {
    /// The networks of its devices, where no overlay can be.
    pub fn networks(&self) -> BTreeSet<Ipv4Network> {
        let devices = self.devices.iter().filter(|device| !device.loopback);
        let networks = devices.flat_map(|device| &device.networks);
        networks.filter_map(|address| Ipv4Network::new(address.network(), address.prefix()).ok()).collect()
    }

    /// What carries an address. Where fabrics are routed it is on a loopback device; then the smallest MTU of the
    /// devices with a default route counts.
    pub fn underlay(&self, address: Ipv4Addr) -> Result<Underlay, NoUnderlay> {
        if address.is_unspecified() {
            return Err(NoUnderlay::NotConfigured);
        }
        let has_it = |device: &&HostDevice| device.networks.iter().any(|network| network.ip() == address);
        let device = self.devices.iter().find(has_it).ok_or(NoUnderlay::NoDevice(address))?;
        let carrier = if device.loopback {
            let leaving = self.devices.iter().filter(|device| self.default_devices.contains(&device.name));
            leaving.min_by_key(|device| device.mtu).ok_or(NoUnderlay::NoRoute(address))?
        } else {
            device
        };
        Ok(Underlay { device: carrier.name.clone(), mtu: carrier.mtu })
    }

    /// The devices by which clusters reach the world, and answers come back.
    fn uplinks(&self, underlay_address: Ipv4Addr) -> BTreeSet<String> {
        let mut uplinks = self.default_devices.clone();
        uplinks.extend(self.underlay(underlay_address).ok().map(|underlay| underlay.device));
        uplinks
    }
}

/// The host's side could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The kernel said no.
    #[error("cannot {0} in the host's namespace")]
    Refused(String, #[source] io::Error),
    /// Somebody else's device.
    #[error("the host has a device {0} that is not the agent's: rename or delete it")]
    NameTaken(String),
    /// 8192 clusters.
    #[error("all link-local addresses for clusters' egress are taken")]
    NoSlot,
    /// The thread.
    #[error("cannot start a thread for the host's network")]
    Thread(#[from] io::Error),
}

/// One cluster's way out.
#[derive(Debug)]
pub struct EgressWanted {
    /// Whose.
    pub cluster: ClusterName,
    /// Names the host's end.
    pub vni: Vni,
    /// The overlay's.
    pub mtu: Mtu,
    /// The cluster's.
    pub namespace: OwnedFd,
    /// Whether the cluster's end is there.
    pub cluster_end_is_there: bool,
}

/// A way out as it is.
#[derive(Debug)]
pub struct Egress {
    /// Its addresses.
    pub slot: EgressSlot,
    /// What was put right, of what had been right before.
    pub repaired: Vec<String>,
}

/// The host's namespace. Lives on a thread in it.
pub struct HostKernel {
    netlink: Netlink,
    nft: Nft,
    underlay_address: Ipv4Addr,
    vxlan_port: u16,
    slots: BTreeMap<ClusterName, EgressSlot>,
    rules: HostRules,
}

/// What is known of the table `ip goliath`.
#[derive(Default)]
struct HostRules {
    /// As it was listed after we loaded it.
    fingerprint: Option<String>,
    /// Whether nobody changed it since.
    verified: bool,
    /// Where the agent turned forwarding on.
    uplinks: BTreeSet<String>,
}

impl HostKernel {
    /// Works in the calling thread's namespace.
    pub fn open(nft: PathBuf, underlay_address: Ipv4Addr, vxlan_port: u16) -> Result<Self, HostError> {
        Ok(Self {
            netlink: Netlink::open()?,
            nft: Nft::new(nft),
            underlay_address,
            vxlan_port,
            slots: BTreeMap::new(),
            rules: HostRules::default(),
        })
    }

    /// The host's devices, without ours.
    pub fn facts(&mut self) -> Result<HostFacts, HostError> {
        let links = link::list(&mut self.netlink)?;
        self.facts_of(&links)
    }

    fn facts_of(&mut self, links: &[Link]) -> Result<HostFacts, HostError> {
        let addresses = self.addresses()?;
        let mut facts = HostFacts::default();
        let foreign = |link: &&Link| !link.alias.starts_with(&format!("{OWNER}:"));
        let mut names = BTreeMap::new();
        for link in links.iter().filter(foreign) {
            names.insert(link.index, link.name.clone());
            if let LinkKind::Vxlan { vni, port, .. } = link.kind
                && port == self.vxlan_port
            {
                facts.vnis.insert(vni);
            }
            let networks =
                addresses.iter().filter(|(index, ..)| *index == link.index).map(|(_, network, _)| *network).collect();
            facts.devices.push(HostDevice {
                name: link.name.clone(),
                mtu: link.mtu,
                loopback: link.loopback,
                networks,
            });
        }
        let any_route = RouteMessageBuilder::<Ipv4Addr>::new().build();
        for message in self.netlink.dump("routes", &RouteNetlinkMessage::GetRoute(any_route))? {
            let RouteNetlinkMessage::NewRoute(message) = message else { continue };
            let header = &message.header;
            if header.table == RouteHeader::RT_TABLE_MAIN
                && header.kind == RouteType::Unicast
                && header.destination_prefix_length == 0
            {
                let devices = message.attributes.iter().flat_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => vec![*index],
                    RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
                    _ => Vec::new(),
                });
                facts.default_devices.extend(devices.filter_map(|index| names.get(&index).cloned()));
            }
        }
        Ok(facts)
    }

    /// The IPv4 addresses: device, address with prefix, and whether its scope is the link.
    fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Network, bool)>, NetlinkError> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let found = self.netlink.dump("addresses", &RouteNetlinkMessage::GetAddress(request))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => {
                    let on_link = message.header.scope == AddressScope::Link;
                    address_of(&message).map(|network| (message.header.index, network, on_link))
                }
                _ => None,
            })
            .collect())
    }

    /// The rules may have been changed by somebody.
    pub fn look_at_rules_again(&mut self) {
        self.rules.verified = false;
    }

    /// Makes a cluster's way out, or puts it right.
    pub fn ensure_egress(&mut self, wanted: &EgressWanted) -> Result<Egress, HostError> {
        let known = self.slots.contains_key(&wanted.cluster);
        let mut repaired = Vec::new();
        let links = link::list(&mut self.netlink)?;
        let addresses = self.addresses()?;
        let alias = alias_of(&wanted.cluster, "egress");
        let name = egress::host_device(wanted.vni);
        if links.iter().any(|link| link.name == name && link.alias != alias) {
            return Err(HostError::NameTaken(name));
        }
        let mut end = links.iter().find(|link| link.alias == alias);
        if let Some(link) = end
            && (link.name != name || link.kind != LinkKind::Veth || !wanted.cluster_end_is_there)
        {
            // The other end goes with it.
            self.request(link::delete(link.index), "delete the old egress device")?;
            end = None;
        }
        let slot = self.slot(wanted, end, &addresses)?;
        let index = if let Some(link) = end {
            link.index
        } else {
            let pair = link::create_pair(&name, &alias, &Role::Egress.device(), wanted.namespace.as_raw_fd());
            self.request(pair, &format!("make the egress device {name}"))?;
            repaired.push(format!("make {name}"));
            nix::net::if_::if_nametoindex(name.as_str())
                .map_err(|reason| HostError::Refused(format!("find {name}"), reason.into()))?
        };
        let device =
            Device { kind: DeviceKind::Egress, mac_address: None, mtu: wanted.mtu.into(), alias, port: None, up: true };
        // Before it is up: with IPv6 it would give itself an address and ask for routers.
        for (sysctl, value) in [
            (Sysctl::new(format!("ipv4/conf/{name}/forwarding")), "1"),
            (Sysctl::optional(format!("ipv6/conf/{name}/disable_ipv6")), "1"),
        ] {
            ensure_sysctl(&sysctl, value, &mut repaired)?;
        }
        if end.is_none_or(|link| link.mtu != device.mtu || !link.up || link.controller.is_some()) {
            for request in link::set(index, &device, 0) {
                self.request(request, &format!("set up {name}"))?;
            }
            repaired.push(format!("set device {name}"));
        }
        self.ensure_address(index, slot, &addresses, &mut repaired)?;
        self.ensure_uplinks(&links, &mut repaired)?;
        if !known {
            repaired.clear();
        }
        Ok(Egress { slot, repaired })
    }

    /// The slot it has, or the first that is free.
    fn slot(
        &mut self,
        wanted: &EgressWanted,
        end: Option<&Link>,
        addresses: &[(u32, Ipv4Network, bool)],
    ) -> Result<EgressSlot, HostError> {
        if let Some(slot) = self.slots.get(&wanted.cluster) {
            return Ok(*slot);
        }
        let in_use = |own: bool| {
            addresses
                .iter()
                .filter(move |(index, ..)| end.is_some_and(|link| link.index == *index) == own)
                .filter_map(|(_, network, _)| EgressSlot::containing(network.ip()))
        };
        let taken: BTreeSet<EgressSlot> = in_use(false).chain(self.slots.values().copied()).collect();
        let kept = in_use(true).find(|slot| !taken.contains(slot));
        let slot = kept
            .or_else(|| EgressSlot::choose(&wanted.cluster, |slot| taken.contains(&slot)))
            .ok_or(HostError::NoSlot)?;
        self.slots.insert(wanted.cluster.clone(), slot);
        Ok(slot)
    }

    /// The host never says this address of itself: its scope is the link.
    fn ensure_address(
        &mut self,
        index: u32,
        slot: EgressSlot,
        addresses: &[(u32, Ipv4Network, bool)],
        repaired: &mut Vec<String>,
    ) -> Result<(), HostError> {
        let address = egress::on_the_link(slot.host_end());
        let message = |address: Ipv4Network| {
            let mut message =
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address.ip(), address.prefix()).build();
            message.header.scope = AddressScope::Link;
            message
        };
        for (_, other, _) in addresses.iter().filter(|(device, other, _)| *device == index && *other != address) {
            let request = Request::change(RouteNetlinkMessage::DelAddress(message(*other)));
            self.request(request, &format!("delete address {other}"))?;
            repaired.push(format!("delete address {other}"));
        }
        if !addresses.contains(&(index, address, true)) {
            let request = Request::put(RouteNetlinkMessage::NewAddress(message(address)));
            self.request(request, &format!("add address {address}"))?;
            repaired.push(format!("add address {address}"));
        }
        Ok(())
    }

    /// Rules, and forwarding where answers come in.
    fn ensure_uplinks(&mut self, links: &[Link], repaired: &mut Vec<String>) -> Result<(), HostError> {
        let facts = self.facts_of(links)?;
        let wanted = facts.uplinks(self.underlay_address);
        if self.rules.fingerprint.is_none() {
            // An earlier life of the agent may have turned forwarding on: its rules remember.
            let objects = self.nft.list(&["table", "ip", nftables::TABLE])?.unwrap_or_default();
            self.rules.uplinks = rules::uplinks(&objects);
        }
        let mut ours = self.rules.uplinks.clone();
        if forwards("all")? {
            // The host forwards by its administrator's decision: nothing is ours.
            ours.clear();
        } else {
            ours.retain(|device| facts.devices.iter().any(|known| known.name == *device));
            for device in wanted {
                if !forwards(&device)? {
                    ours.insert(device);
                }
            }
        }
        let mut check = !self.rules.verified && self.rules.fingerprint.is_some();
        if check {
            let objects = self.nft.list(&["table", "ip", nftables::TABLE])?.unwrap_or_default();
            check = self.rules.fingerprint.as_deref() == Some(nftables::fingerprint(&objects).as_str())
                && rules::uplinks(&objects) == self.rules.uplinks;
            self.rules.verified = check;
        }
        if !self.rules.verified || ours != self.rules.uplinks {
            // The rules come before forwarding: never does a device forward unguarded.
            self.nft.run(&rules::host(self.vxlan_port, &ours))?;
            let objects = self.nft.list(&["table", "ip", nftables::TABLE])?.unwrap_or_default();
            self.rules =
                HostRules { fingerprint: Some(nftables::fingerprint(&objects)), verified: true, uplinks: ours };
            repaired.push("load nftables rules of the host".to_owned());
        }
        for device in &self.rules.uplinks {
            ensure_sysctl(&Sysctl::new(format!("ipv4/conf/{device}/forwarding")), "1", repaired)?;
        }
        Ok(())
    }

    /// Removes a cluster's way out; with the last one all that the host's namespace has of ours.
    pub fn remove_egress(&mut self, cluster: &ClusterName) -> Result<(), HostError> {
        let alias = alias_of(cluster, "egress");
        let links = link::list(&mut self.netlink)?;
        for link in links.iter().filter(|link| link.alias == alias) {
            self.request(link::delete(link.index), &format!("delete {}", link.name))?;
        }
        self.slots.remove(cluster);
        let is_egress = |link: &Link| link.alias.starts_with(&format!("{OWNER}:")) && link.alias.ends_with(":egress");
        if links.iter().any(|link| is_egress(link) && link.alias != alias) {
            return Ok(());
        }
        let Some(objects) = self.nft.list(&["table", "ip", nftables::TABLE])? else {
            self.rules = HostRules::default();
            return Ok(());
        };
        if !forwards("all")? {
            for device in rules::uplinks(&objects).union(&self.rules.uplinks) {
                Sysctl::optional(format!("ipv4/conf/{device}/forwarding"))
                    .write("0")
                    .map_err(|reason| HostError::Refused(format!("turn forwarding off on {device}"), reason))?;
            }
        }
        self.nft.run(rules::REMOVE_HOST)?;
        self.rules = HostRules::default();
        Ok(())
    }

    fn request(&mut self, request: Request, what: &str) -> Result<(), HostError> {
        self.netlink.request(request)?.map_err(|reason| HostError::Refused(what.to_owned(), reason))
    }
}

/// Whether packets that come in by a device are forwarded.
fn forwards(device: &str) -> Result<bool, HostError> {
    let sysctl = Sysctl::new(format!("ipv4/conf/{device}/forwarding"));
    let value = sysctl.read().map_err(|reason| HostError::Refused(format!("read {sysctl}"), reason))?;
    Ok(value.as_deref() == Some("1"))
}

fn ensure_sysctl(sysctl: &Sysctl, value: &str, repaired: &mut Vec<String>) -> Result<(), HostError> {
    let failed = |what: &str| {
        let what = format!("{what} {sysctl}");
        move |reason| HostError::Refused(what, reason)
    };
    let current = sysctl.read().map_err(failed("read"))?;
    if current.is_none() && sysctl.is_optional() || current.as_deref() == Some(value) {
        return Ok(());
    }
    sysctl.write(value).map_err(failed("set"))?;
    repaired.push(format!("set {sysctl} to {value}"));
    Ok(())
}
