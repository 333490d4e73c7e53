//! A cluster's network on the machine.

use goliath_proto::agent::v1 as pb;
use tokio::time::Instant;

use super::{Due, Machine, is_held, refused};
use crate::agents::{AgentError, RefusalKind};

#[derive(Debug)]
pub(super) struct SimulatedNetwork {
    spec: pb::NetworkSpec,
    peers: Option<pb::PeerList>,
    deleting: bool,
}

impl SimulatedNetwork {
    fn rendered(&self) -> pb::Network {
        let status = pb::NetworkStatus {
            observed_generation: self.spec.generation,
            observed_peers_generation: self.peers.as_ref().map_or(0, |peers| peers.generation),
            mtu: 1450,
            namespace: format!("/run/netns/goliath-{}", self.spec.cluster),
            ..pb::NetworkStatus::default()
        };
        pb::Network { spec: Some(self.spec.clone()), peers: self.peers.clone(), status: Some(status) }
    }
}

impl Machine {
    pub(super) fn has_network(&self, cluster: &str) -> bool {
        self.networks.get(cluster).is_some_and(|network| !network.deleting)
    }

    pub(in crate::agents::simulated) fn network_changes(&self) -> u64 {
        self.network_changes
    }

    pub(in crate::agents::simulated) fn networks(&self) -> Vec<pb::Network> {
        self.networks.values().map(SimulatedNetwork::rendered).collect()
    }

    pub(in crate::agents::simulated) fn network(&self, cluster: &str) -> Option<pb::Network> {
        self.networks.get(cluster).map(SimulatedNetwork::rendered)
    }

    pub(in crate::agents::simulated) fn apply_network(
        &mut self,
        request: pb::ApplyNetworkRequest,
        now: Instant,
    ) -> Result<pb::ApplyNetworkResponse, AgentError> {
        let pb::ApplyNetworkRequest { spec, peers, cluster, .. } = request;
        let cluster = spec.as_ref().map_or(cluster, |spec| spec.cluster.clone());
        let vni = spec.as_ref().map(|spec| spec.vni);
        if let Some((other, _)) =
            self.networks.iter().find(|(name, held)| **name != cluster && Some(held.spec.vni) == vni)
        {
            return Err(refused(RefusalKind::Other, "spec.vni", format!("is the VNI of {other}")));
        }
        let changed = match (self.networks.get_mut(&cluster), spec) {
            (None, None) => return Err(AgentError::NotFound),
            (None, Some(spec)) => {
                self.networks.insert(cluster.clone(), SimulatedNetwork { spec, peers, deleting: false });
                true
            }
            (Some(held), _) if held.deleting => {
                return Err(refused(RefusalKind::Deleting, "network", format!("{cluster} is being deleted")));
            }
            (Some(held), spec) => {
                // Both are looked at before either is taken.
                let spec = match spec {
                    Some(spec) => {
                        let same = spec == held.spec;
                        let held = is_held(held.spec.generation, spec.generation, same, "spec.generation")?;
                        (!held).then_some(spec)
                    }
                    None => None,
                };
                let peers = match (peers, &held.peers) {
                    (Some(peers), Some(had)) => {
                        let held = is_held(had.generation, peers.generation, peers == *had, "peers.generation")?;
                        (!held).then_some(peers)
                    }
                    (peers, _) => peers,
                };
                let changed = spec.is_some() || peers.is_some();
                held.spec = spec.unwrap_or_else(|| held.spec.clone());
                held.peers = peers.or_else(|| held.peers.take());
                changed
            }
        };
        self.network_changes += u64::from(changed);
        self.wake_guests(&cluster, now);
        Ok(pb::ApplyNetworkResponse { network: self.network(&cluster), changed })
    }

    pub(in crate::agents::simulated) fn delete_network(
        &mut self,
        cluster: String,
        now: Instant,
    ) -> Result<(), AgentError> {
        if self.has_guests_in(&cluster) {
            return Err(refused(RefusalKind::InUse, "network", format!("{cluster} has guests on this host")));
        }
        let held = self.networks.get_mut(&cluster).ok_or(AgentError::NotFound)?;
        if !std::mem::replace(&mut held.deleting, true) {
            self.due.insert((now + self.paces.stop, Due::Network(cluster)));
        }
        Ok(())
    }
}
