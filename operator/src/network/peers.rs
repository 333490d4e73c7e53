//! Which other hosts each host of a cluster must know, and what of that its agent does not have yet.
//!
//! What a change costs: a host's part of the lists has a hash; the hash of a list is the sum of its parts. So after a
//! change of one guest its host's part is hashed anew, and each other host of the cluster compares one number. Lists
//! are put together only where they are sent.
//!
//! Generations are not written down here: the agent keeps the one it has with the list itself, and tells both when it
//! is asked, so an operator that starts goes on from there.

mod wire;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::Ipv4Addr,
};

use goliath_proto::values::{ClusterName, Generation, GuestUid, HostName, MacAddress};
use sha2::{Digest as _, Sha256};

/// A host's place in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPlace {
    /// Where VXLAN packets for it go.
    pub vtep: Ipv4Addr,
    /// Its own address in the overlay.
    pub address: Ipv4Addr,
}

/// A guest's place in its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPlace {
    /// That it is bound to.
    pub host: HostName,
    /// Where it is in the overlay.
    pub endpoint: PeerEndpoint,
}

/// An address and the MAC that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerEndpoint {
    /// In the cluster's CIDR.
    pub address: Ipv4Addr,
    /// The interface's.
    pub mac_address: MacAddress,
}

impl PeerEndpoint {
    /// Of a host.
    pub fn of_host(address: Ipv4Addr) -> Self {
        Self { address, mac_address: MacAddress::of_host(address) }
    }

    /// Of a guest that has the MAC of its uid.
    pub fn of_guest(uid: GuestUid, address: Ipv4Addr) -> Self {
        Self { address, mac_address: MacAddress::of_guest(uid) }
    }
}

/// The other hosts of a cluster, as one host is told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerList {
    /// Grows when this host's list changes, and only then.
    pub generation: Generation,
    /// By name.
    pub peers: Vec<Peer>,
}

/// Another host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub host: HostName,
    /// Where VXLAN packets for it go.
    pub vtep: Ipv4Addr,
    /// Its own place.
    pub endpoint: PeerEndpoint,
    /// The guests bound to it, by address.
    pub guests: Vec<PeerEndpoint>,
}

/// What a list says, in a number: 128 bits of SHA-256 of each peer, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ContentHash(u128);

impl ContentHash {
    /// Of the peers, whatever their order.
    pub fn of(peers: &[Peer]) -> Self {
        peers.iter().map(Self::of_peer).fold(Self::default(), Self::plus)
    }

    fn of_peer(peer: &Peer) -> Self {
        let mut hash = Sha256::new();
        let name = peer.host.as_str().as_bytes();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update(peer.vtep.octets());
        let mut guests = peer.guests.clone();
        guests.sort_unstable();
        for endpoint in [peer.endpoint].iter().chain(&guests) {
            hash.update(endpoint.address.octets());
            hash.update(endpoint.mac_address.octets());
        }
        Self(hash.finalize().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

/// What an agent has of one cluster's peer list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentHas {
    /// It was not asked yet, or may have got more since.
    Unknown,
    /// It said that it has none.
    Nothing,
    /// It said so, or took it.
    List {
        /// A list of the same or an older one is refused.
        generation: Generation,
        /// What it says.
        content: ContentHash,
    },
}

impl AgentHas {
    /// What an agent says that it has.
    pub fn of(list: Option<&PeerList>) -> Self {
        list.map_or(Self::Nothing, |list| Self::List {
            generation: list.generation,
            content: ContentHash::of(&list.peers),
        })
    }
}

/// What to do for one host of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it has what it needs, or runs no guest of the cluster.
    Nothing,
    /// Ask the agent what it has, and tell by [`Peers::agent_has`].
    Ask,
    /// Send this, then tell what came of it.
    Send(PeerList),
}

/// The peer lists of all clusters.
#[derive(Debug, Default)]
pub struct Peers {
    clusters: HashMap<ClusterName, Overlay>,
}

/// One cluster.
#[derive(Debug, Default)]
struct Overlay {
    hosts: BTreeMap<HostName, Member>,
    guests: HashMap<GuestUid, HostName>,
    /// Of all hosts' parts.
    content: ContentHash,
}

/// A host of a cluster.
#[derive(Debug)]
struct Member {
    /// Unknown until the host was heard of and has an address.
    place: Option<HostPlace>,
    guests: BTreeMap<GuestUid, PeerEndpoint>,
    /// Nothing, where it is no peer.
    part: ContentHash,
    agent: AgentHas,
}

impl Member {
    /// As others are told of it; none while it has no guest or no place.
    fn peer(&self, host: &HostName) -> Option<Peer> {
        let HostPlace { vtep, address } = self.place.filter(|_| !self.guests.is_empty())?;
        let mut guests: Vec<_> = self.guests.values().copied().collect();
        guests.sort_unstable();
        Some(Peer { host: host.clone(), vtep, endpoint: PeerEndpoint::of_host(address), guests })
    }
}

impl Overlay {
    /// Changes a host's part. Whether others must know.
    fn change(&mut self, host: &HostName, change: impl FnOnce(&mut Member)) -> bool {
        let member = self.hosts.entry(host.clone()).or_insert_with(|| Member {
            place: None,
            guests: BTreeMap::new(),
            part: ContentHash::default(),
            agent: AgentHas::Unknown,
        });
        change(member);
        let part = member.peer(host).map(|peer| ContentHash::of_peer(&peer)).unwrap_or_default();
        let before = std::mem::replace(&mut member.part, part);
        self.content = self.content.minus(before).plus(part);
        if member.place.is_none() && member.guests.is_empty() {
            self.hosts.remove(host);
        }
        before != part
    }

    fn is_outdated(&self, member: &Member) -> bool {
        let wanted = self.content.minus(member.part);
        !member.guests.is_empty() && !matches!(member.agent, AgentHas::List { content, .. } if content == wanted)
    }
}

impl Peers {
    /// Of no cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host has, or does not have any more, a place in a cluster. Whether other hosts' lists changed by it.
    pub fn set_host(&mut self, cluster: &ClusterName, host: &HostName, place: Option<HostPlace>) -> bool {
        self.change(cluster, |overlay| overlay.change(host, |member| member.place = place))
    }

    /// A guest is bound to a host, or to none any more. Whether other hosts' lists changed by it.
    pub fn set_guest(&mut self, cluster: &ClusterName, uid: GuestUid, place: Option<GuestPlace>) -> bool {
        self.change(cluster, |overlay| {
            let before = overlay.guests.remove(&uid);
            let leaves = before.filter(|before| place.as_ref().is_none_or(|place| place.host != *before));
            let left = leaves.is_some_and(|host| {
                overlay.change(&host, |member| {
                    member.guests.remove(&uid);
                })
            });
            let came = place.is_some_and(|GuestPlace { host, endpoint }| {
                overlay.guests.insert(uid, host.clone());
                overlay.change(&host, |member| {
                    member.guests.insert(uid, endpoint);
                })
            });
            left || came
        })
    }

    /// What an agent said it has, or that it is not known any more: a message was lost, or the connection.
    pub fn agent_has(&mut self, cluster: &ClusterName, host: &HostName, has: AgentHas) {
        let overlay = self.clusters.get_mut(cluster);
        if let Some(member) = overlay.and_then(|overlay| overlay.hosts.get_mut(host)) {
            member.agent = has;
        }
    }

    /// The hosts with guests of a cluster that do not have, or may not have, the list they need.
    pub fn outdated(&self, cluster: &ClusterName) -> impl Iterator<Item = &HostName> {
        self.clusters.get(cluster).into_iter().flat_map(|overlay| {
            let outdated = overlay.hosts.iter().filter(|(_, member)| overlay.is_outdated(member));
            outdated.map(|(host, _)| host)
        })
    }

    /// What to do for a host of a cluster.
    pub fn next(&self, cluster: &ClusterName, host: &HostName) -> Next {
        let Some(overlay) = self.clusters.get(cluster) else { return Next::Nothing };
        let Some(member) = overlay.hosts.get(host).filter(|member| overlay.is_outdated(member)) else {
            return Next::Nothing;
        };
        let generation = match member.agent {
            AgentHas::Unknown => return Next::Ask,
            AgentHas::Nothing => 1,
            AgentHas::List { generation, .. } => generation.get().saturating_add(1),
        };
        let others = overlay.hosts.iter().filter(|(name, _)| *name != host);
        let peers = others.filter_map(|(name, member)| member.peer(name)).collect();
        match Generation::try_from(generation) {
            Ok(generation) => Next::Send(PeerList { generation, peers }),
            Err(_) => Next::Nothing,
        }
    }

    /// The hosts that guests of a cluster are bound to: those that need its network.
    pub fn hosts(&self, cluster: &ClusterName) -> impl Iterator<Item = &HostName> {
        let overlay = self.clusters.get(cluster).into_iter();
        let hosts = overlay.flat_map(|overlay| &overlay.hosts);
        hosts.filter(|(_, member)| !member.guests.is_empty()).map(|(host, _)| host)
    }

    /// Whether guests of a cluster are bound to a host.
    pub fn is_bound(&self, cluster: &ClusterName, host: &HostName) -> bool {
        let member = self.clusters.get(cluster).and_then(|overlay| overlay.hosts.get(host));
        member.is_some_and(|member| !member.guests.is_empty())
    }

    fn change(&mut self, cluster: &ClusterName, change: impl FnOnce(&mut Overlay) -> bool) -> bool {
        let mut entry = match self.clusters.entry(cluster.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Overlay::default()),
        };
        let changed = change(entry.get_mut());
        if entry.get().hosts.is_empty() {
            entry.remove();
        }
        changed
    }
}

#[cfg(test)]
mod tests;
