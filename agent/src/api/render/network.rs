//! Networks.

use std::net::Ipv4Addr;

use goliath_proto::agent::v1 as pb;

use super::conditions;
use crate::{
    ledger::NetworkRecord,
    observed::NetworkStatus,
    spec::{Generation, MacAddress, NetworkSpec, PeerList},
};

/// A network as it was asked for and as it was seen.
pub(in crate::api) fn network(record: &NetworkRecord, status: Option<&NetworkStatus>) -> pb::Network {
    pb::Network {
        spec: Some(spec(&record.spec)),
        peers: record.peers.as_ref().map(peers),
        status: Some(status.map(network_status).unwrap_or_default()),
    }
}

pub(in crate::api) fn spec(spec: &NetworkSpec) -> pb::NetworkSpec {
    pb::NetworkSpec {
        cluster: spec.cluster.to_string(),
        generation: spec.generation.get(),
        vni: spec.vni.get(),
        cidr: spec.cidr.to_string(),
        gateway_address: spec.gateway.to_string(),
        host_address: spec.host_address.to_string(),
        mtu: spec.mtu.map_or(0, u32::from),
        egress: spec.egress,
        dns_servers: spec.dns_servers.iter().map(ToString::to_string).collect(),
    }
}

pub(in crate::api) fn peers(list: &PeerList) -> pb::PeerList {
    let peers = list.peers.iter().map(|peer| pb::Peer {
        host: peer.host.clone(),
        underlay_address: peer.underlay_address.to_string(),
        host_endpoint: Some(endpoint(peer.host_endpoint.address, peer.host_endpoint.mac_address)),
        guests: peer.guests.iter().map(|guest| endpoint(guest.address, guest.mac_address)).collect(),
    });
    pb::PeerList { generation: list.generation.get(), peers: peers.collect() }
}

fn endpoint(address: Ipv4Addr, mac_address: MacAddress) -> pb::PeerEndpoint {
    pb::PeerEndpoint { ipv4_address: address.to_string(), mac_address: mac_address.to_string() }
}

fn network_status(status: &NetworkStatus) -> pb::NetworkStatus {
    pb::NetworkStatus {
        conditions: conditions(&status.conditions),
        observed_generation: status.observed_generation.map_or(0, Generation::get),
        observed_peers_generation: status.observed_peers_generation.map_or(0, Generation::get),
        mtu: status.mtu.map_or(0, u32::from),
        namespace: status.namespace.display().to_string(),
        ports: status.ports,
        repairs: status.repairs,
    }
}
