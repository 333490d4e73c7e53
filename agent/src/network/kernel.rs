//! One cluster's network in the kernel: reads what is there and carries changes out.
//!
//! Lives on a thread in the cluster's namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteProtocol, RouteScope},
};
use nix::{errno::Errno, net::if_::if_nametoindex};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::{
    Change, Namespace, NetlinkError, NftError, TapError,
    desired::Port,
    link::{self, NewVxlan},
    namespace::NamespaceError,
    netlink::{Netlink, Request},
    nftables::{self, Nft, Transaction},
    observe, rules,
    state::{Device, DeviceKind, Role, Route, Sender, State},
    sysctl::Sysctl,
    tap,
};
use crate::{
    errors::with_causes,
    spec::{ClusterName, GuestUid, MacAddress},
};

/// The cluster's namespace could not be made ready or looked at.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// nftables.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A setting of the kernel's.
    #[error("cannot read the kernel's setting {0}")]
    Sysctl(String, #[source] io::Error),
    /// Somebody else's device.
    #[error("device {0} in the cluster's namespace is not the agent's: rename or delete it")]
    NameTaken(String),
    /// The thread.
    #[error("cannot start a thread for the network")]
    Thread(#[from] io::Error),
}

/// One change that did not happen.
#[derive(Debug)]
pub struct Failure {
    /// As a sentence: what was tried and what the kernel said.
    pub message: String,
}

/// What is there.
#[derive(Debug)]
pub struct Observation {
    /// As far as it is looked after.
    pub state: State,
    /// The guests whose taps are there.
    pub ports: BTreeMap<GuestUid, Port>,
    /// The binding of the namespace was gone, and is there again.
    pub rebound: bool,
}

/// One cluster's network in the kernel.
pub struct ClusterKernel {
    cluster: ClusterName,
    path: PathBuf,
    namespace: Namespace,
    inside: Netlink,
    /// A socket of the host's namespace, from which tunnels come.
    host: Netlink,
    nft: Nft,
    indexes: BTreeMap<Role, u32>,
    /// The rules as they were listed after we loaded them.
    fingerprint: Option<String>,
    /// What the last look at the rules found; None: they may have changed since.
    seen_rules: Option<SeenRules>,
}

#[derive(Debug, Clone)]
struct SeenRules {
    rules: bool,
    senders: BTreeSet<Sender>,
}

impl ClusterKernel {
    /// Enters the cluster's namespace, which is made if it is not there. The calling thread stays in it.
    pub fn open(cluster: ClusterName, path: PathBuf, host: &Namespace, nft: PathBuf) -> Result<Self, KernelError> {
        host.enter()?;
        let host = Netlink::open()?;
        let namespace = if let Some(namespace) = Namespace::bound_at(&path)? {
            namespace.enter()?;
            namespace
        } else {
            let namespace = Namespace::enter_new()?;
            Namespace::bind_current(&path)?;
            namespace
        };
        Ok(Self {
            cluster,
            path,
            namespace,
            inside: Netlink::open()?,
            host,
            nft: Nft::new(nft),
            indexes: BTreeMap::new(),
            fingerprint: None,
            seen_rules: None,
        })
    }

    /// A second handle on the namespace.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        self.namespace.as_fd().try_clone_to_owned()
    }

    /// Whether a device of that name is there.
    pub fn has_device(&self, role: Role) -> bool {
        if_nametoindex(role.device().as_str()).is_ok()
    }

    /// The guests whose taps are there.
    pub fn taps(&mut self, known: &BTreeMap<GuestUid, Port>) -> Result<Vec<GuestUid>, KernelError> {
        Ok(observe::observe(&mut self.inside, &self.cluster, known)?.ports.into_keys().collect())
    }

    /// The rules may have been changed by somebody.
    pub fn look_at_rules_again(&mut self) {
        self.seen_rules = None;
    }

    /// Reads what is there. `known` are the ports the caller knows; of `sysctls` the values are read.
    pub fn observe(
        &mut self,
        known: &BTreeMap<GuestUid, Port>,
        sysctls: &BTreeMap<Sysctl, String>,
    ) -> Result<Observation, KernelError> {
        let rebound = self.bind_again()?;
        let found = observe::observe(&mut self.inside, &self.cluster, known)?;
        if let Some(name) = found.squatters.into_iter().next() {
            return Err(KernelError::NameTaken(name));
        }
        self.indexes = found.indexes;
        let mut state = found.state;
        for (sysctl, wanted) in sysctls {
            match sysctl.read().map_err(|source| KernelError::Sysctl(sysctl.to_string(), source))? {
                Some(value) => {
                    state.sysctls.insert(sysctl.clone(), value);
                }
                // Where the kernel has no such part, there is nothing to be put right.
                None if sysctl.is_optional() => {
                    state.sysctls.insert(sysctl.clone(), wanted.clone());
                }
                None => {}
            }
        }
        let uids: Vec<GuestUid> = found.ports.keys().chain(known.keys()).copied().collect();
        let seen = self.rules(&uids)?;
        state.rules = seen.rules;
        state.senders = seen.senders;
        Ok(Observation { state, ports: found.ports, rebound })
    }

    /// `ip netns del` takes only the name away while guests are in the namespace; it gets it back.
    fn bind_again(&self) -> Result<bool, KernelError> {
        match Namespace::bound_at(&self.path)? {
            Some(bound) if bound.is_same_as(&self.namespace) => Ok(false),
            // Somebody else's namespace by our name: not ours to remove, and ours stays reachable by the next agent only
            // by this name.
            Some(_) => {
                tracing::warn!(path = %self.path.display(), "another network namespace is bound here");
                Ok(false)
            }
            None => {
                Namespace::bind_current(&self.path)?;
                Ok(true)
            }
        }
    }

    fn rules(&mut self, uids: &[GuestUid]) -> Result<SeenRules, KernelError> {
        if let Some(seen) = &self.seen_rules {
            return Ok(seen.clone());
        }
        let objects = self.nft.list(&["ruleset"])?.unwrap_or_default();
        let unchanged = self.fingerprint.as_deref().is_some_and(|known| known == nftables::fingerprint(&objects));
        let senders = rules::senders(&objects, uids);
        let seen = SeenRules { rules: unchanged && senders.is_some(), senders: senders.unwrap_or_default() };
        self.seen_rules = Some(seen.clone());
        Ok(seen)
    }

    /// Opens a guest's tap: a new device without anything yet.
    pub fn open_tap(&mut self, uid: GuestUid) -> Result<OwnedFd, TapError> {
        let role = Role::Tap(uid);
        let device = role.device();
        let file = tap::open(&device)?;
        let index =
            if_nametoindex(device.as_str()).map_err(|reason| TapError::Driver { device, source: reason.into() })?;
        self.indexes.insert(role, index);
        Ok(file)
    }

    /// Removes a guest's tap if it is still there.
    pub fn delete_tap(&mut self, uid: GuestUid) -> Result<(), Failure> {
        let role = Role::Tap(uid);
        self.indexes.remove(&role);
        let Ok(index) = if_nametoindex(role.device().as_str()) else { return Ok(()) };
        match self.inside.batch(&[link::delete(index)]) {
            Ok(refusals) => match refusals.into_iter().find(|refusal| !is_gone(refusal.code)) {
                Some(refusal) => Err(failure(&format!("delete device {role}"), &refusal.reason)),
                None => Ok(()),
            },
            Err(error) => Err(failure(&format!("delete device {role}"), &error)),
        }
    }

    /// Carries changes out, in their order; goes on after failures and tells of all.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let mut failures = Vec::new();
        // nft works while we do the rest: its part of attaching a guest takes about as long as netlink's.
        let transaction = self.begin_rules(changes, &mut failures);
        let mut pending = Pending::default();
        for change in changes {
            match change {
                Change::LoadRules(_) | Change::AddSender(_) | Change::DeleteSender(_) => {}
                Change::DeleteStray(_) | Change::DeleteDevice(_) | Change::CreateDevice(..) | Change::SetSysctl(..) => {
                    self.flush(&mut pending, &mut failures);
                    if let Err(failed) = self.apply_now(change) {
                        failures.push(failed);
                    }
                }
                other => match self.requests(other) {
                    Ok(requests) => {
                        pending.changes.extend(requests.iter().map(|_| other));
                        pending.requests.extend(requests);
                    }
                    Err(failed) => failures.push(failed),
                },
            }
        }
        self.flush(&mut pending, &mut failures);
        if let Some(Err(error)) = transaction.map(Transaction::finish) {
            failures.push(failure("change nftables' sets", &error));
            self.seen_rules = None;
        }
        failures
    }

    /// Loads rules at once where asked; begins the change of sets.
    fn begin_rules(&mut self, changes: &[Change], failures: &mut Vec<Failure>) -> Option<Transaction> {
        let mut script = String::new();
        for change in changes {
            match change {
                Change::LoadRules(senders) => match self.load_rules(senders) {
                    Ok(()) => {}
                    Err(error) => failures.push(failure(&change.to_string(), &error)),
                },
                Change::AddSender(sender) => {
                    rules::change_senders(&mut script, "add", [sender]);
                    if let Some(seen) = &mut self.seen_rules {
                        seen.senders.insert(*sender);
                    }
                }
                Change::DeleteSender(sender) => {
                    rules::change_senders(&mut script, "delete", [sender]);
                    if let Some(seen) = &mut self.seen_rules {
                        seen.senders.remove(sender);
                    }
                }
                _ => {}
            }
        }
        if script.is_empty() {
            return None;
        }
        match self.nft.begin(&script) {
            Ok(transaction) => Some(transaction),
            Err(error) => {
                failures.push(failure("change nftables' sets", &error));
                self.seen_rules = None;
                None
            }
        }
    }

    fn load_rules(&mut self, senders: &BTreeSet<Sender>) -> Result<(), NftError> {
        self.seen_rules = None;
        self.nft.run(&rules::cluster(senders))?;
        let objects = self.nft.list(&["ruleset"])?.unwrap_or_default();
        self.fingerprint = Some(nftables::fingerprint(&objects));
        self.seen_rules = Some(SeenRules { rules: true, senders: senders.clone() });
        Ok(())
    }

    fn apply_now(&mut self, change: &Change) -> Result<(), Failure> {
        let failed = |reason: &(dyn std::error::Error + 'static)| failure(&change.to_string(), reason);
        let refused = |result: Result<Result<(), io::Error>, NetlinkError>| match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(failed(&reason)),
            Err(error) => Err(failed(&error)),
        };
        match change {
            Change::SetSysctl(sysctl, value) => sysctl.write(value).map_err(|reason| failed(&reason)),
            Change::DeleteStray(name) => match if_nametoindex(name.as_str()) {
                Ok(index) => refused(self.inside.request(link::delete(index))),
                Err(_) => Ok(()),
            },
            Change::DeleteDevice(role) => {
                self.indexes.remove(role);
                match if_nametoindex(role.device().as_str()) {
                    Ok(index) => refused(self.inside.request(link::delete(index))),
                    Err(_) => Ok(()),
                }
            }
            Change::CreateDevice(role, device) => {
                refused(self.create(*role, device))?;
                let index = if_nametoindex(role.device().as_str()).map_err(|reason| failed(&reason))?;
                self.indexes.insert(*role, index);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn create(&mut self, role: Role, device: &Device) -> Result<Result<(), io::Error>, NetlinkError> {
        let name = role.device();
        match device.kind {
            DeviceKind::Bridge => self.inside.request(link::create_bridge(&name, &device.alias)),
            DeviceKind::Vxlan { vni, port, local } => self.host.request(link::create_vxlan(&NewVxlan {
                name: &name,
                alias: &device.alias,
                vni,
                port,
                local,
                namespace: self.namespace.as_fd().as_raw_fd(),
            })),
            DeviceKind::Gateway => match self.indexes.get(&Role::Bridge) {
                Some(bridge) => {
                    let mac = device.mac_address.unwrap_or(MacAddress::GATEWAY);
                    self.inside.request(link::create_gateway(&name, &device.alias, *bridge, mac))
                }
                None => Ok(Err(io::Error::other("there is no bridge to put it on"))),
            },
            DeviceKind::Egress => Ok(Err(io::Error::other("its other end in the host's namespace went away"))),
            DeviceKind::Tap => Ok(Err(io::Error::other("only the QEMU that holds it can bring it back"))),
            DeviceKind::Other => Ok(Err(io::Error::other("its kind is not known"))),
        }
    }

    fn index(&self, role: Role) -> Result<u32, Failure> {
        self.indexes.get(&role).copied().ok_or_else(|| Failure { message: format!("device {role} is not there") })
    }

    /// The messages for a change.
    fn requests(&self, change: &Change) -> Result<Vec<Request>, Failure> {
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

    fn route(&self, route: &Route) -> Result<netlink_packet_route::route::RouteMessage, Failure> {
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

    fn flush(&mut self, pending: &mut Pending<'_>, failures: &mut Vec<Failure>) {
        if pending.requests.is_empty() {
            return;
        }
        match self.inside.batch(&pending.requests) {
            Ok(refusals) => {
                for refusal in refusals {
                    let change = pending.changes[refusal.request];
                    if !is_harmless(change, refusal.code) {
                        failures.push(failure(&change.to_string(), &refusal.reason));
                    }
                }
            }
            Err(error) => failures.push(failure("write a batch", &error)),
        }
        *pending = Pending::default();
    }

    /// The path at which the namespace is bound.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes everything, as far as it can, and tells what it could not. The namespace goes when this does.
    pub fn tear_down(&mut self) -> Vec<Failure> {
        let mut failures = Vec::new();
        match link::list(&mut self.inside) {
            // The tunnel first: its VNI is free for another network when we return. The rest would go with the
            // namespace, but the namespace lives on while some process is in it.
            Ok(links) => {
                let ours = |role: Role| links.iter().find(move |link| link.name == role.device());
                for role in [Role::Vxlan, Role::Egress, Role::Gateway, Role::Bridge] {
                    let Some(link) = ours(role) else { continue };
                    match self.inside.batch(&[link::delete(link.index)]) {
                        Ok(refusals) => failures.extend(
                            refusals
                                .into_iter()
                                .filter(|refusal| !is_gone(refusal.code))
                                .map(|refusal| failure(&format!("delete device {role}"), &refusal.reason)),
                        ),
                        Err(error) => failures.push(failure(&format!("delete device {role}"), &error)),
                    }
                }
            }
            Err(error) => failures.push(failure("list devices", &error)),
        }
        let foreign = matches!(Namespace::bound_at(&self.path), Ok(Some(bound)) if !bound.is_same_as(&self.namespace));
        if !foreign && let Err(error) = Namespace::unbind(&self.path) {
            failures.push(failure("remove the namespace", &error));
        }
        self.indexes.clear();
        self.seen_rules = None;
        failures
    }
}

#[derive(Default)]
struct Pending<'c> {
    requests: Vec<Request>,
    /// For each request, what it is part of.
    changes: Vec<&'c Change>,
}

fn entry(family: AddressFamily, index: u32, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message
}

/// What was to be deleted is not there: as wanted.
fn is_gone(code: i32) -> bool {
    matches!(Errno::from_raw(code), Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL)
}

fn is_harmless(change: &Change, code: i32) -> bool {
    match change {
        Change::DeleteAddress(..)
        | Change::DeleteRoute(_)
        | Change::DeleteBridgeEntry(..)
        | Change::DeleteTunnelEntry(..)
        | Change::DeleteFlood(_)
        | Change::DeleteNeighbour(_) => is_gone(code),
        Change::AddFlood(_) => Errno::from_raw(code) == Errno::EEXIST,
        _ => false,
    }
}

/// A failure with all of its causes.
fn failure(what: &str, reason: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { message: format!("cannot {what}: {}", with_causes(reason)) }
}
