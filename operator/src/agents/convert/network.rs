//! A cluster's network, as the agent of one of its hosts is told it.

use std::net::Ipv4Addr;

use goliath_proto::{agent::v1 as pb, values::Generation};

use crate::objects::{Cluster, ClusterNetwork, Mtu, NetworkAllocation};

/// A host's part in a cluster's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its own address in the overlay.
    pub address: Ipv4Addr,
    /// Newer than what its agent holds.
    pub generation: Generation,
}

/// All that an agent needs of a cluster's network but its peers.
pub fn network_spec(cluster: &Cluster, allocation: &NetworkAllocation, member: Member) -> pb::NetworkSpec {
    // Whole, so that no field is forgotten: the VNI is as allocated, and time servers are told by guests' seeds.
    let ClusterNetwork { cidr, vni: _, mtu, egress, dns_servers, ntp_servers: _ } = &cluster.spec.network;
    pb::NetworkSpec {
        cluster: cluster.metadata.name.clone().unwrap_or_default(),
        generation: member.generation.get(),
        vni: allocation.vni.get(),
        cidr: cidr.to_string(),
        gateway_address: allocation.gateway_address.to_string(),
        host_address: member.address.to_string(),
        mtu: mtu.map_or(0, Mtu::get).into(),
        egress: *egress,
        dns_servers: dns_servers.iter().map(ToString::to_string).collect(),
    }
}
