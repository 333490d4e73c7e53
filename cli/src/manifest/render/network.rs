use std::collections::BTreeMap;

use goliath_proto::agent::v1::{Network, Peer, PeerEndpoint};
use serde::Serialize;

use super::{API_VERSION, ConditionForm, Form, Metadata, conditions, some_text};

/// `kind: Network`.
pub(crate) type NetworkForm = Form<SpecForm, StatusForm>;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpecForm {
    vni: u32,
    cidr: String,
    gateway_address: String,
    host_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    egress: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_servers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Vec<PeerForm>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerForm {
    host: String,
    underlay_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_endpoint: Option<EndpointForm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guests: Vec<EndpointForm>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointForm {
    ipv4_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_address: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusForm {
    generation: u64,
    peers_generation: u64,
    conditions: Vec<ConditionForm>,
    observed_generation: u64,
    observed_peers_generation: u64,
    mtu: u32,
    namespace: String,
    ports: u32,
    repairs: u64,
}

impl From<&Network> for NetworkForm {
    fn from(network: &Network) -> Self {
        let spec = network.spec.clone().unwrap_or_default();
        let peers = network.peers.as_ref();
        let status = network.status.clone().unwrap_or_default();
        Self {
            api_version: API_VERSION,
            kind: "Network",
            metadata: Metadata { name: spec.cluster, cluster: None, uid: None, labels: BTreeMap::new() },
            spec: SpecForm {
                vni: spec.vni,
                cidr: spec.cidr,
                gateway_address: spec.gateway_address,
                host_address: spec.host_address,
                mtu: Some(spec.mtu).filter(|mtu| *mtu > 0),
                egress: spec.egress,
                dns_servers: spec.dns_servers,
                peers: peers.map(|peers| peers.peers.iter().map(peer).collect()),
            },
            status: StatusForm {
                generation: spec.generation,
                peers_generation: peers.map_or(0, |peers| peers.generation),
                conditions: conditions(&status.conditions),
                observed_generation: status.observed_generation,
                observed_peers_generation: status.observed_peers_generation,
                mtu: status.mtu,
                namespace: status.namespace,
                ports: status.ports,
                repairs: status.repairs,
            },
        }
    }
}

fn peer(peer: &Peer) -> PeerForm {
    PeerForm {
        host: peer.host.clone(),
        underlay_address: peer.underlay_address.clone(),
        host_endpoint: peer.host_endpoint.as_ref().map(endpoint),
        guests: peer.guests.iter().map(endpoint).collect(),
    }
}

fn endpoint(endpoint: &PeerEndpoint) -> EndpointForm {
    EndpointForm { ipv4_address: endpoint.ipv4_address.clone(), mac_address: some_text(&endpoint.mac_address) }
}
