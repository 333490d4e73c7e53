//! `kind: Network`.

use std::net::Ipv4Addr;

use goliath_proto::agent::v1::{NetworkSpec, Peer, PeerEndpoint, PeerList};
use ipnetwork::Ipv4Network;

use super::mapping::Mapping;

/// A network as a file has it. Both generations may be left to the host's record.
#[derive(Debug)]
pub(crate) struct NetworkManifest {
    pub(crate) generation: Option<u64>,
    pub(crate) peers_generation: Option<u64>,
    /// Without its generation.
    spec: NetworkSpec,
    /// None: the peers stay as they are.
    peers: Option<Vec<Peer>>,
}

impl NetworkManifest {
    /// The network's name.
    pub(crate) fn cluster(&self) -> &str {
        &self.spec.cluster
    }

    pub(crate) fn has_peers(&self) -> bool {
        self.peers.is_some()
    }

    pub(crate) fn spec(&self, generation: u64) -> NetworkSpec {
        NetworkSpec { generation, ..self.spec.clone() }
    }

    pub(crate) fn peers(&self, generation: u64) -> Option<PeerList> {
        self.peers.clone().map(|peers| PeerList { generation, peers })
    }
}

pub(super) fn read(document: &Mapping<'_>) -> NetworkManifest {
    let mut spec = NetworkSpec::default();
    let (mut generation, mut peers_generation, mut peers) = (None, None, None);
    if let Some(metadata) = document.required_mapping("metadata") {
        spec.cluster = metadata.required_text("name");
        generation = metadata.integer("generation", u64::MAX);
        peers_generation = metadata.integer("peersGeneration", u64::MAX);
        metadata.finish();
    }
    if let Some(fields) = document.required_mapping("spec") {
        let address = |key| fields.required(key, fields.checked::<Ipv4Addr>(key, IPV4));
        spec.vni = fields.required("vni", fields.integer("vni", "16777215"));
        spec.cidr = fields.required("cidr", fields.checked::<Ipv4Network>("cidr", "an IPv4 network like 10.7.0.0/24"));
        spec.gateway_address = address("gatewayAddress");
        spec.host_address = address("hostAddress");
        spec.mtu = fields.integer("mtu", u32::MAX).unwrap_or_default();
        spec.egress = fields.boolean("egress").unwrap_or_default();
        spec.dns_servers = fields.all_checked::<Ipv4Addr>("dnsServers", IPV4);
        if fields.has("peers") {
            peers = Some(fields.mappings("peers").into_iter().map(peer).collect());
        }
        fields.finish();
    }
    NetworkManifest { generation, peers_generation, spec, peers }
}

const IPV4: &str = "an IPv4 address like 10.7.0.1";

fn peer(mapping: Mapping<'_>) -> Peer {
    let underlay_address = mapping.checked::<Ipv4Addr>("underlayAddress", IPV4);
    let peer = Peer {
        host: mapping.required_text("host"),
        underlay_address: mapping.required("underlayAddress", underlay_address),
        host_endpoint: mapping.required_mapping("hostEndpoint").map(endpoint),
        guests: mapping.mappings("guests").into_iter().map(endpoint).collect(),
    };
    mapping.finish();
    peer
}

fn endpoint(mapping: Mapping<'_>) -> PeerEndpoint {
    let endpoint = PeerEndpoint {
        ipv4_address: mapping.required("ipv4Address", mapping.checked::<Ipv4Addr>("ipv4Address", IPV4)),
        mac_address: mapping.text("macAddress").unwrap_or_default(),
    };
    mapping.finish();
    endpoint
}
