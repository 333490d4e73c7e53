//! Peer lists in messages.

use std::net::Ipv4Addr;

use goliath_proto::{
    agent::v1 as pb,
    values::{Generation, InvalidValue, MacAddress},
};

use super::{Peer, PeerEndpoint, PeerList};

impl From<&PeerList> for pb::PeerList {
    fn from(list: &PeerList) -> Self {
        let peers = list.peers.iter().map(|peer| pb::Peer {
            host: peer.host.to_string(),
            underlay_address: peer.vtep.to_string(),
            host_endpoint: Some(peer.endpoint.into()),
            guests: peer.guests.iter().map(|guest| (*guest).into()).collect(),
        });
        Self { generation: list.generation.get(), peers: peers.collect() }
    }
}

impl From<PeerEndpoint> for pb::PeerEndpoint {
    fn from(endpoint: PeerEndpoint) -> Self {
        Self { ipv4_address: endpoint.address.to_string(), mac_address: endpoint.mac_address.to_string() }
    }
}

impl TryFrom<&pb::PeerList> for PeerList {
    type Error = InvalidValue;

    fn try_from(list: &pb::PeerList) -> Result<Self, InvalidValue> {
        let peers = list.peers.iter().map(Peer::try_from).collect::<Result<_, _>>()?;
        Ok(Self { generation: Generation::try_from(list.generation)?, peers })
    }
}

impl TryFrom<&pb::Peer> for Peer {
    type Error = InvalidValue;

    fn try_from(peer: &pb::Peer) -> Result<Self, InvalidValue> {
        let endpoint = peer.host_endpoint.as_ref();
        let endpoint = endpoint.ok_or_else(|| InvalidValue::new(format!("peer {} has no host endpoint", peer.host)))?;
        let address = address(&endpoint.ipv4_address)?;
        let endpoint = match endpoint.mac_address.as_str() {
            "" => PeerEndpoint::of_host(address),
            mac_address => PeerEndpoint { address, mac_address: mac_address.parse()? },
        };
        let guests = peer.guests.iter().map(PeerEndpoint::try_from).collect::<Result<_, _>>()?;
        Ok(Self { host: peer.host.parse()?, vtep: self::address(&peer.underlay_address)?, endpoint, guests })
    }
}

impl TryFrom<&pb::PeerEndpoint> for PeerEndpoint {
    type Error = InvalidValue;

    fn try_from(endpoint: &pb::PeerEndpoint) -> Result<Self, InvalidValue> {
        let mac_address: MacAddress = endpoint.mac_address.parse()?;
        Ok(Self { address: address(&endpoint.ipv4_address)?, mac_address })
    }
}

fn address(text: &str) -> Result<Ipv4Addr, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::new(format!("{text:?} is not an IPv4 address")))
}
