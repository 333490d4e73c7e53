//! A cluster's network on this host, as asked for.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::{ClusterName, Generation, MacAddress, Mtu, Vni};

/// One cluster's private layer 2 network, as far as this host takes part in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Names the network.
    pub cluster: ClusterName,
    /// Grows with each change of the spec; the peer list has its own.
    pub generation: Generation,
    /// Unique among the networks of a host.
    pub vni: Vni,
    /// The network's addresses, with the network address itself as its base.
    pub cidr: Ipv4Network,
    /// On every host the same: the guests' gateway.
    pub gateway: Ipv4Addr,
    /// On no other host: the source of what this host says in the overlay.
    pub host_address: Ipv4Addr,
    /// None: the underlay's, less the header of VXLAN.
    pub mtu: Option<Mtu>,
    /// Whether guests reach the world through this host, by NAT.
    pub egress: bool,
    /// Told to the guests.
    pub dns_servers: Vec<Ipv4Addr>,
}

/// The other hosts of the cluster and what they hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerList {
    /// A message with an older one never undoes a newer.
    pub generation: Generation,
    /// Each host once.
    pub peers: Vec<Peer>,
}

/// Another host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// For people.
    pub host: String,
    /// Its VTEP.
    pub underlay_address: Ipv4Addr,
    /// Its own address in the overlay.
    pub host_endpoint: HostEndpoint,
    /// The guests it runs.
    pub guests: Vec<GuestEndpoint>,
}

/// A host's own place in the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostEndpoint {
    /// In the cluster's CIDR.
    pub address: Ipv4Addr,
    /// Derived from the address where the caller gave none.
    pub mac_address: MacAddress,
}

/// A guest's place in the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GuestEndpoint {
    /// In the cluster's CIDR.
    pub address: Ipv4Addr,
    /// Its interface's.
    pub mac_address: MacAddress,
}
