//! The difference between two states: what has to be written, in an order in which it can be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use ipnetwork::Ipv4Network;

use super::{
    state::{Device, Neighbour, Role, Route, Sender, State},
    sysctl::Sysctl,
};
use crate::spec::MacAddress;

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Remove a device with our mark and no purpose.
    DeleteStray(String),
    /// Remove a device.
    DeleteDevice(Role),
    /// Make a device; [`Self::SetDevice`] follows.
    CreateDevice(Role, Device),
    /// Write everything of a device that can be changed while it is there.
    SetDevice(Role, Device),
    /// Add an address to a device.
    AddAddress(Role, Ipv4Network),
    /// Remove an address from a device.
    DeleteAddress(Role, Ipv4Network),
    /// Add or replace a route.
    PutRoute(Route),
    /// Remove a route.
    DeleteRoute(Route),
    /// Say behind which port of the bridge a MAC is.
    PutBridgeEntry(MacAddress, Role),
    /// Forget it.
    DeleteBridgeEntry(MacAddress, Role),
    /// Say at which VTEP a MAC is.
    PutTunnelEntry(MacAddress, Ipv4Addr),
    /// Forget it.
    DeleteTunnelEntry(MacAddress, Ipv4Addr),
    /// Send broadcasts to a VTEP too.
    AddFlood(Ipv4Addr),
    /// Not any more.
    DeleteFlood(Ipv4Addr),
    /// Add or replace a neighbour on the bridge.
    PutNeighbour(Neighbour),
    /// Remove a neighbour from the bridge.
    DeleteNeighbour(Neighbour),
    /// Write a setting of the kernel's.
    SetSysctl(Sysctl, String),
    /// Replace all of the namespace's rules at once, with these senders.
    LoadRules(BTreeSet<Sender>),
    /// Let a guest speak.
    AddSender(Sender),
    /// Let it speak no more.
    DeleteSender(Sender),
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteStray(name) => write!(formatter, "delete device {name}"),
            Self::DeleteDevice(role) => write!(formatter, "delete device {role}"),
            Self::CreateDevice(role, _) => write!(formatter, "create device {role}"),
            Self::SetDevice(role, _) => write!(formatter, "set device {role}"),
            Self::AddAddress(role, address) => write!(formatter, "add address {address} to {role}"),
            Self::DeleteAddress(role, address) => write!(formatter, "delete address {address} from {role}"),
            Self::PutRoute(Route { destination, device, .. }) => {
                write!(formatter, "set route {destination} by {device}")
            }
            Self::DeleteRoute(Route { destination, device, .. }) => {
                write!(formatter, "delete route {destination} by {device}")
            }
            Self::PutBridgeEntry(mac, port) => write!(formatter, "set {mac} behind {port}"),
            Self::DeleteBridgeEntry(mac, port) => write!(formatter, "delete {mac} behind {port}"),
            Self::PutTunnelEntry(mac, vtep) => write!(formatter, "set {mac} at {vtep}"),
            Self::DeleteTunnelEntry(mac, vtep) => write!(formatter, "delete {mac} at {vtep}"),
            Self::AddFlood(vtep) => write!(formatter, "add {vtep} to broadcasts"),
            Self::DeleteFlood(vtep) => write!(formatter, "delete {vtep} from broadcasts"),
            Self::PutNeighbour(Neighbour { address, mac_address }) => {
                write!(formatter, "set neighbour {address} to {mac_address}")
            }
            Self::DeleteNeighbour(Neighbour { address, .. }) => write!(formatter, "delete neighbour {address}"),
            Self::SetSysctl(sysctl, value) => write!(formatter, "set {sysctl} to {value}"),
            Self::LoadRules(_) => write!(formatter, "load nftables rules"),
            Self::AddSender(Sender { uid, .. }) => write!(formatter, "let guest {uid} speak"),
            Self::DeleteSender(Sender { uid, .. }) => write!(formatter, "let guest {uid} speak no more"),
        }
    }
}

impl State {
    /// What has to be written to get from here to `desired`.
    pub fn changes_to(&self, desired: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.strays.iter().cloned().map(Change::DeleteStray).collect();
        let devices: BTreeSet<String> = desired.devices.keys().map(|role| role.device()).collect();
        let is_of_a_device = |sysctl: &Sysctl| devices.iter().any(|device| sysctl.is_of(device));

        // New devices take settings over from the defaults, and no guest speaks before there are rules.
        if !self.rules && desired.rules {
            changes.push(Change::LoadRules(desired.senders.clone()));
        } else {
            changes.extend(self.senders.difference(&desired.senders).copied().map(Change::DeleteSender));
            changes.extend(desired.senders.difference(&self.senders).copied().map(Change::AddSender));
        }
        changes.extend(sysctl_changes(self, desired).filter(|(sysctl, _)| !is_of_a_device(sysctl)).map(set_sysctl));

        // A device that goes takes along what hangs on it, so the rest is compared with what is then left.
        let left = self.device_changes(desired, &mut changes);

        changes.extend(sysctl_changes(&left, desired).filter(|(sysctl, _)| is_of_a_device(sysctl)).map(set_sysctl));
        for (role, address) in left.addresses.difference(&desired.addresses) {
            changes.push(Change::DeleteAddress(*role, *address));
        }
        for (role, address) in desired.addresses.difference(&left.addresses) {
            changes.push(Change::AddAddress(*role, *address));
        }
        changes.extend(left.routes.difference(&desired.routes).copied().map(Change::DeleteRoute));
        // A gateway must be on a link before a route can lead there.
        let (on_link, by_gateway): (Vec<Route>, Vec<Route>) =
            desired.routes.difference(&left.routes).copied().partition(|route| route.via.is_none());
        changes.extend(on_link.into_iter().chain(by_gateway).map(Change::PutRoute));

        map_changes(
            &left.bridge_entries,
            &desired.bridge_entries,
            &mut changes,
            Change::DeleteBridgeEntry,
            Change::PutBridgeEntry,
        );
        map_changes(
            &left.tunnel_entries,
            &desired.tunnel_entries,
            &mut changes,
            Change::DeleteTunnelEntry,
            Change::PutTunnelEntry,
        );
        changes.extend(left.flood.difference(&desired.flood).copied().map(Change::DeleteFlood));
        changes.extend(desired.flood.difference(&left.flood).copied().map(Change::AddFlood));
        let neighbour = |address, mac_address| Neighbour { address, mac_address };
        map_changes(
            &left.neighbours,
            &desired.neighbours,
            &mut changes,
            |address, mac_address| Change::DeleteNeighbour(neighbour(address, mac_address)),
            |address, mac_address| Change::PutNeighbour(neighbour(address, mac_address)),
        );
        changes
    }

    /// Adds the changes of devices and returns what is left of this state where devices went.
    fn device_changes(&self, desired: &Self, changes: &mut Vec<Change>) -> Self {
        let mut left = self.clone();
        for (role, device) in &self.devices {
            if desired.devices.get(role).is_none_or(|wanted| wanted.kind != device.kind) {
                // It may have gone with another one already.
                if left.devices.contains_key(role) {
                    changes.push(Change::DeleteDevice(*role));
                    left = left.without(*role);
                }
            }
        }
        for (role, wanted) in &desired.devices {
            match left.devices.get(role) {
                Some(device) if device == wanted => {}
                Some(_) => changes.push(Change::SetDevice(*role, wanted.clone())),
                None => {
                    changes.push(Change::CreateDevice(*role, wanted.clone()));
                    changes.push(Change::SetDevice(*role, wanted.clone()));
                }
            }
        }
        left
    }

    /// This state after a change.
    #[must_use]
    pub fn after(mut self, change: &Change) -> Self {
        match change.clone() {
            Change::DeleteStray(name) => {
                self.strays.remove(&name);
            }
            Change::DeleteDevice(role) => self = self.without(role),
            Change::CreateDevice(role, device) => {
                self.devices.insert(role, Device { port: None, up: false, ..device });
            }
            Change::SetDevice(role, device) => {
                self.devices.insert(role, device);
            }
            Change::AddAddress(role, address) => {
                self.addresses.insert((role, address));
            }
            Change::DeleteAddress(role, address) => {
                self.addresses.remove(&(role, address));
            }
            Change::PutRoute(route) => {
                self.routes.retain(|other| other.destination != route.destination);
                self.routes.insert(route);
            }
            Change::DeleteRoute(route) => {
                self.routes.remove(&route);
            }
            Change::PutBridgeEntry(mac, port) => {
                self.bridge_entries.insert(mac, port);
            }
            Change::DeleteBridgeEntry(mac, _) => {
                self.bridge_entries.remove(&mac);
            }
            Change::PutTunnelEntry(mac, vtep) => {
                self.tunnel_entries.insert(mac, vtep);
            }
            Change::DeleteTunnelEntry(mac, _) => {
                self.tunnel_entries.remove(&mac);
            }
            Change::AddFlood(vtep) => {
                self.flood.insert(vtep);
            }
            Change::DeleteFlood(vtep) => {
                self.flood.remove(&vtep);
            }
            Change::PutNeighbour(Neighbour { address, mac_address }) => {
                self.neighbours.insert(address, mac_address);
            }
            Change::DeleteNeighbour(Neighbour { address, .. }) => {
                self.neighbours.remove(&address);
            }
            Change::SetSysctl(sysctl, value) => {
                self.sysctls.insert(sysctl, value);
            }
            Change::LoadRules(senders) => {
                self.rules = true;
                self.senders = senders;
            }
            Change::AddSender(sender) => {
                self.senders.insert(sender);
            }
            Change::DeleteSender(sender) => {
                self.senders.remove(&sender);
            }
        }
        self
    }
}

fn sysctl_changes<'s>(from: &'s State, to: &'s State) -> impl Iterator<Item = (&'s Sysctl, &'s String)> {
    to.sysctls.iter().filter(|(sysctl, value)| from.sysctls.get(sysctl) != Some(value))
}

fn set_sysctl((sysctl, value): (&Sysctl, &String)) -> Change {
    Change::SetSysctl(sysctl.clone(), value.clone())
}

/// Deletes what is not wanted, puts what is missing or other.
fn map_changes<K: Ord + Copy, V: PartialEq + Copy>(
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
    changes: &mut Vec<Change>,
    delete: impl Fn(K, V) -> Change,
    put: impl Fn(K, V) -> Change,
) {
    changes.extend(from.iter().filter(|(key, _)| !to.contains_key(key)).map(|(key, value)| delete(*key, *value)));
    changes.extend(to.iter().filter(|(key, value)| from.get(key) != Some(value)).map(|(key, value)| put(*key, *value)));
}

#[cfg(test)]
mod tests;
