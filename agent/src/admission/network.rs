//! Networks and peer lists.

use std::{net::Ipv4Addr, sync::Arc};

use super::{Conflict, ConflictKind, Outcome, Refusal, deleting, generation};
use crate::{
    ledger::{NetworkRecord, Snapshot},
    spec::{ClusterName, NetworkSpec, PeerList},
};

/// What a request does to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDecision {
    /// To its record as a whole.
    pub outcome: Outcome,
    /// As it is then.
    pub record: Arc<NetworkRecord>,
}

/// Whether a network, its peer list or both can be as asked for. `host` tells what the host itself has against a spec.
/// None: there is no such network, and no spec for one.
pub fn admit_network(
    snapshot: &Snapshot,
    cluster: &ClusterName,
    spec: Option<&NetworkSpec>,
    peers: Option<&PeerList>,
    host: &dyn Fn(&NetworkSpec) -> Vec<Conflict>,
) -> Option<Result<NetworkDecision, Refusal>> {
    let held = snapshot.networks.get(cluster);
    match (held, spec) {
        (None, None) => None,
        (None, Some(spec)) => {
            let record = NetworkRecord { spec: spec.clone(), peers: peers.cloned(), deleting: false };
            Some(complete(snapshot, None, record, host))
        }
        (Some(held), spec) => Some(successor(held, spec, peers).and_then(|record| {
            if record == **held {
                return Ok(NetworkDecision { outcome: Outcome::Unchanged, record: Arc::clone(held) });
            }
            complete(snapshot, Some(held), record, host)
        })),
    }
}

/// The record after the request, by the rules of generations.
fn successor(
    held: &NetworkRecord,
    spec: Option<&NetworkSpec>,
    peers: Option<&PeerList>,
) -> Result<NetworkRecord, Refusal> {
    let what = format!("network {}", held.spec.cluster);
    if held.deleting {
        return Err(Refusal::Conflicts(vec![deleting(what)]));
    }
    let mut record = held.clone();
    if let Some(spec) = spec {
        generation(held.spec.generation, spec.generation, held.spec == *spec, "spec.generation", &what)?;
        record.spec = spec.clone();
    }
    if let Some(peers) = peers {
        if let Some(had) = &held.peers {
            let what = format!("the peer list of {what}");
            generation(had.generation, peers.generation, had == peers, "peers.generation", &what)?;
        }
        record.peers = Some(peers.clone());
    }
    Ok(record)
}

/// Looks at the record as a whole: at its spec where that changed, and at its peers, which lie in the spec's network.
fn complete(
    snapshot: &Snapshot,
    held: Option<&Arc<NetworkRecord>>,
    record: NetworkRecord,
    host: &dyn Fn(&NetworkSpec) -> Vec<Conflict>,
) -> Result<NetworkDecision, Refusal> {
    let mut conflicts = Vec::new();
    if held.is_none_or(|held| held.spec != record.spec) {
        conflicts.extend(host(&record.spec));
        conflicts.extend(guests(snapshot, held.map(|held| &held.spec), &record.spec));
    }
    if let Some(peers) = &record.peers {
        conflicts.extend(strangers(&record.spec, peers));
    }
    if !conflicts.is_empty() {
        return Err(Refusal::Conflicts(conflicts));
    }
    let outcome = if held.is_some() { Outcome::Updated } else { Outcome::Created };
    Ok(NetworkDecision { outcome, record: Arc::new(record) })
}

/// What the cluster's guests on this host have against a spec: they were told of the network when they started.
fn guests(snapshot: &Snapshot, held: Option<&NetworkSpec>, new: &NetworkSpec) -> Vec<Conflict> {
    let guests = || {
        let of_cluster = snapshot.guests.values().filter(|guest| guest.spec.cluster == new.cluster);
        of_cluster.filter_map(|guest| Some((guest.spec.uid, guest.spec.network.as_ref()?.address)))
    };
    let mut conflicts = Vec::new();
    if let (Some(held), Some((uid, _))) = (held, guests().next()) {
        let changed = [
            ("spec.vni", held.vni != new.vni),
            ("spec.cidr", held.cidr != new.cidr),
            ("spec.gateway_address", held.gateway != new.gateway),
        ];
        for (field, _) in changed.into_iter().filter(|(_, changed)| *changed) {
            let description = format!("{field} cannot change while guests are in the network: guest {uid} is");
            conflicts.push(Conflict::new(ConflictKind::Immutable, field, description));
        }
    }
    if conflicts.is_empty() {
        conflicts.extend(guests().filter_map(|(uid, address)| {
            let why = unusable(new, address)?;
            let description = format!("guest {uid} has the address {address}, which {why}");
            Some(Conflict::new(ConflictKind::AddressUnusable, "spec.cidr", description))
        }));
    }
    conflicts
}

/// Peers' addresses that are not for them in this network.
fn strangers(spec: &NetworkSpec, peers: &PeerList) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for (index, peer) in peers.peers.iter().enumerate() {
        let mut look = |field: String, address| {
            if let Some(why) = unusable(spec, address) {
                let description = format!("{field}: {address} {why}");
                conflicts.push(Conflict::new(ConflictKind::AddressUnusable, field, description));
            }
        };
        look(format!("peers.peers[{index}].host_endpoint.ipv4_address"), peer.host_endpoint.address);
        for (guest, endpoint) in peer.guests.iter().enumerate() {
            look(format!("peers.peers[{index}].guests[{guest}].ipv4_address"), endpoint.address);
        }
    }
    conflicts
}

/// Why nobody but the network itself and this host can have an address in it, if so.
pub(super) fn unusable(spec: &NetworkSpec, address: Ipv4Addr) -> Option<String> {
    let NetworkSpec { cidr, gateway, host_address, cluster, .. } = spec;
    if !cidr.contains(address) {
        Some(format!("is not in {cidr}, the network of cluster {cluster}"))
    } else if address == cidr.network() {
        Some(format!("is the address of the network {cidr} itself"))
    } else if address == cidr.broadcast() {
        Some(format!("is the broadcast address of {cidr}"))
    } else if address == *gateway {
        Some(format!("is the gateway of {cidr}"))
    } else if address == *host_address {
        Some(format!("is this host's own in {cidr}"))
    } else {
        None
    }
}
