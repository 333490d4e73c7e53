//! What a cluster's network consists of, as far as the agent looks after it: the same type says what shall be and what
//! is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use ipnetwork::Ipv4Network;
use uuid::Uuid;

use super::sysctl::Sysctl;
use crate::spec::{ClusterName, GuestUid, MacAddress, Vni};

/// What a device is for. The order is that in which devices are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Joins everything; holds this host's own overlay address.
    Bridge,
    /// The tunnel to the peers.
    Vxlan,
    /// Holds the gateway's shared address and MAC, apart from the bridge: with the shared MAC on the bridge itself,
    /// answers from guests of other hosts would end at those hosts' bridges.
    Gateway,
    /// The way out, its other end is in the host's namespace.
    Egress,
    /// One guest's.
    Tap(GuestUid),
}

/// Names taps by their guests: 15 characters cannot hold a uid.
const TAP_NAMESPACE: Uuid = Uuid::from_u128(0x2b1e_93d4_58c7_4f10_8d6a_c05f_713e_9a28);

impl Role {
    /// The devices that every network has, and the way out.
    pub(super) const FIXED: [Self; 4] = [Self::Bridge, Self::Vxlan, Self::Gateway, Self::Egress];

    /// The device's name in the cluster's namespace.
    pub fn device(self) -> String {
        match self {
            Self::Bridge => "bridge".to_owned(),
            Self::Vxlan => "vxlan".to_owned(),
            Self::Gateway => "gateway".to_owned(),
            Self::Egress => "egress".to_owned(),
            Self::Tap(uid) => {
                let hash = Uuid::new_v5(&TAP_NAMESPACE, uid.as_uuid().as_bytes());
                format!("tap{:012x}", hash.as_u128() >> 80)
            }
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.device())
    }
}

/// The mark on everything that the agent makes.
pub(super) const OWNER: &str = "goliath";

/// A fixed device's `ifalias`: whose it is and what for.
pub(super) fn alias_of(cluster: &ClusterName, what: &str) -> String {
    format!("{OWNER}:{cluster}:{what}")
}

/// One device, as far as it is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What cannot be changed without making the device anew.
    pub kind: DeviceKind,
    /// None where it does not matter which.
    pub mac_address: Option<MacAddress>,
    /// In bytes.
    pub mtu: u32,
    /// The owner's mark.
    pub alias: String,
    /// How it hangs on the bridge; None if it does not.
    pub port: Option<PortFlags>,
    /// Set up by the administrator, that is us.
    pub up: bool,
}

/// What a device is, with what cannot be changed without making it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A bridge.
    Bridge,
    /// A VXLAN device that does not learn.
    Vxlan {
        /// Whose packets.
        vni: Vni,
        /// UDP.
        port: u16,
        /// The source of what it sends.
        local: Ipv4Addr,
    },
    /// A macvlan in private mode, on the bridge.
    Gateway,
    /// One end of a veth pair.
    Egress,
    /// A tap.
    Tap,
    /// Something else by the same name, with our mark.
    Other,
}

/// How a bridge treats a port. Everything the agent knows is written down, so no port learns, and none gets frames for
/// unknown addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFlags {
    /// Takes source addresses into the forwarding database.
    pub learning: bool,
    /// Gets frames to addresses that nobody knows.
    pub unicast_flood: bool,
    /// ARP for what lies behind this port is answered by the bridge, from the neighbour table.
    pub neigh_suppress: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Network,
    /// None: it is on the link.
    pub via: Option<Ipv4Addr>,
    /// By which device.
    pub device: Role,
}

/// A permanent neighbour on the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// Asked for.
    pub address: Ipv4Addr,
    /// The answer.
    pub mac_address: MacAddress,
}

/// What one guest may say: its tap, its MAC and its address belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    /// Whose tap.
    pub uid: GuestUid,
    /// The only source of its frames.
    pub mac_address: MacAddress,
    /// The only source of its packets.
    pub address: Ipv4Addr,
}

/// A cluster's network in its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Each once.
    pub devices: BTreeMap<Role, Device>,
    /// Devices with our mark that are none of the above, by name.
    pub strays: BTreeSet<String>,
    /// IPv4.
    pub addresses: BTreeSet<(Role, Ipv4Network)>,
    /// IPv4, those of our devices.
    pub routes: BTreeSet<Route>,
    /// The bridge's static entries: behind which port a MAC is; for the bridge's own role, that it is here.
    pub bridge_entries: BTreeMap<MacAddress, Role>,
    /// The tunnel's: at which VTEP a MAC is.
    pub tunnel_entries: BTreeMap<MacAddress, Ipv4Addr>,
    /// The VTEPs that get broadcasts.
    pub flood: BTreeSet<Ipv4Addr>,
    /// On the bridge.
    pub neighbours: BTreeMap<Ipv4Addr, MacAddress>,
    /// The kernel's settings in the namespace.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Whether the namespace's nftables chains are those that we loaded.
    pub rules: bool,
    /// Elements of the anti-spoofing sets.
    pub senders: BTreeSet<Sender>,
}

impl State {
    /// What is left when a device goes: the kernel takes all that hangs on it along.
    #[must_use]
    pub fn without(mut self, role: Role) -> Self {
        if self.devices.remove(&role).is_none() {
            return self;
        }
        self.addresses.retain(|(device, _)| *device != role);
        self.routes.retain(|route| route.device != role);
        self.bridge_entries.retain(|_, port| *port != role);
        self.sysctls.retain(|sysctl, _| !sysctl.is_of(&role.device()));
        match role {
            Role::Bridge => {
                self.bridge_entries.clear();
                self.neighbours.clear();
                for device in self.devices.values_mut() {
                    device.port = None;
                }
                // A macvlan goes with the device it is on.
                self = self.without(Role::Gateway);
            }
            Role::Vxlan => {
                self.tunnel_entries.clear();
                self.flood.clear();
            }
            Role::Gateway | Role::Egress | Role::Tap(_) => {}
        }
        self
    }

    /// What concerns one guest: its tap, and whatever else is known of its addresses. Attaching a guest costs as much
    /// as this, however large the network is.
    #[must_use]
    pub fn part_of(&self, uid: GuestUid, mac: MacAddress, address: Ipv4Addr) -> Self {
        let role = Role::Tap(uid);
        Self {
            devices: self.devices.get(&role).map(|device| (role, device.clone())).into_iter().collect(),
            bridge_entries: self.bridge_entries.get(&mac).map(|port| (mac, *port)).into_iter().collect(),
            tunnel_entries: self.tunnel_entries.get(&mac).map(|vtep| (mac, *vtep)).into_iter().collect(),
            neighbours: self.neighbours.get(&address).map(|mac| (address, *mac)).into_iter().collect(),
            senders: self.senders.iter().filter(|sender| sender.uid == uid).copied().collect(),
            rules: self.rules,
            ..Self::default()
        }
    }

    /// The guests whose taps are there.
    pub fn taps(&self) -> impl Iterator<Item = GuestUid> {
        self.devices.keys().filter_map(|role| match role {
            Role::Tap(uid) => Some(*uid),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_taps_name_fits_the_kernel_and_is_the_same_every_time(bytes: [u8; 16]) {
            let Ok(uid) = Uuid::from_bytes(bytes).to_string().parse::<GuestUid>() else { return Ok(()) };
            let name = Role::Tap(uid).device();
            prop_assert_eq!(name.len(), 15);
            prop_assert_eq!(name, Role::Tap(uid).device());
        }
    }

    #[test]
    fn guests_with_neighbouring_uids_have_taps_of_their_own() {
        let uid = |text: &str| Role::Tap(text.parse().unwrap()).device();
        assert_ne!(uid("018f0000-0000-7000-8000-000000000001"), uid("018f0000-0000-7000-8000-000000000002"));
    }
}
