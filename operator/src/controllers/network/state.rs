//! What is known of all networks: the peer lists, and which agent has which network.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use goliath_proto::{
    agent::v1 as pb,
    values::{ClusterName, GuestUid, HostName},
};

use crate::network::{AgentHas, GuestPlace, HostPlace, PeerList, Peers};

/// A network as an agent has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    pub(super) spec: pb::NetworkSpec,
    pub(super) peers: AgentHas,
}

impl Held {
    pub(super) fn of(network: pb::Network) -> Option<(ClusterName, Self)> {
        let spec = network.spec?;
        let cluster = spec.cluster.parse().ok()?;
        let peers = network.peers.as_ref().and_then(|list| match PeerList::try_from(list) {
            Ok(list) => Some(list),
            // Nothing that we sent, so it is replaced: its generation is all that counts.
            Err(_) => Some(PeerList { generation: list.generation.try_into().ok()?, peers: Vec::new() }),
        });
        Some((cluster, Self { spec, peers: AgentHas::of(peers.as_ref()) }))
    }
}

/// A host's part in a cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) cluster: ClusterName,
    pub(super) host: HostName,
}

/// What one agent has, as long as it can be asked.
#[derive(Debug, Default)]
struct Agent {
    networks: HashMap<ClusterName, Held>,
}

/// What is known of all networks.
#[derive(Debug, Default)]
pub(super) struct State {
    peers: Peers,
    /// Those that listed their networks since they were connected.
    agents: HashMap<HostName, Agent>,
    /// Which of them have a cluster's, or are being told of it.
    holders: HashMap<ClusterName, BTreeSet<HostName>>,
    /// The clusters in which a host has an address.
    clusters: HashMap<HostName, BTreeSet<ClusterName>>,
    /// What agents have against a cluster's network.
    problems: HashMap<ClusterName, BTreeMap<HostName, String>>,
}

impl State {
    /// A guest is at a place, or at none any more. The hosts whose lists are not what they should be.
    pub(super) fn set_guest(&mut self, cluster: &ClusterName, uid: GuestUid, place: Option<GuestPlace>) -> Vec<Member> {
        let changed = self.peers.set_guest(cluster, uid, place);
        self.outdated_if(changed, cluster)
    }

    /// A host has an address in a cluster, or none; and a place, once it is known where it is. The hosts whose lists are
    /// not what they should be.
    pub(super) fn set_address(&mut self, member: &Member, has_address: bool, place: Option<HostPlace>) -> Vec<Member> {
        let Member { cluster, host } = member;
        let clusters = self.clusters.entry(host.clone()).or_default();
        if has_address {
            clusters.insert(cluster.clone());
        } else {
            clusters.remove(cluster);
        }
        if clusters.is_empty() {
            self.clusters.remove(host);
        }
        let changed = self.peers.set_host(cluster, host, place);
        self.outdated_if(changed, cluster)
    }

    fn outdated_if(&self, changed: bool, cluster: &ClusterName) -> Vec<Member> {
        let outdated = changed.then(|| self.peers.outdated(cluster)).into_iter().flatten();
        outdated.map(|host| Member { cluster: cluster.clone(), host: host.clone() }).collect()
    }

    /// The hosts that guests of a cluster are bound to.
    pub(super) fn wanted(&self, cluster: &ClusterName) -> Vec<HostName> {
        self.peers.hosts(cluster).cloned().collect()
    }

    /// Whether guests of the cluster are bound to the host.
    pub(super) fn is_wanted(&self, member: &Member) -> bool {
        self.peers.is_bound(&member.cluster, &member.host)
    }

    /// The clusters whose network a host has, or may be about to get.
    pub(super) fn clusters_of(&self, host: &HostName) -> BTreeSet<ClusterName> {
        let listed = self.agents.get(host).into_iter().flat_map(|agent| agent.networks.keys());
        let addressed = self.clusters.get(host).into_iter().flatten();
        listed.chain(addressed).cloned().collect()
    }

    /// An agent told of all its networks.
    pub(super) fn listed(&mut self, host: &HostName, networks: Vec<pb::Network>) {
        self.lost(host);
        let networks: HashMap<_, _> = networks.into_iter().filter_map(Held::of).collect();
        for cluster in networks.keys() {
            self.holders.entry(cluster.clone()).or_default().insert(host.clone());
        }
        self.agents.insert(host.clone(), Agent { networks });
    }

    /// An agent cannot be asked any more.
    pub(super) fn lost(&mut self, host: &HostName) {
        let Some(agent) = self.agents.remove(host) else { return };
        for cluster in agent.networks.keys() {
            self.peers.agent_has(cluster, host, AgentHas::Unknown);
            self.forget_holder(cluster, host);
        }
    }

    fn forget_holder(&mut self, cluster: &ClusterName, host: &HostName) {
        if let Some(holders) = self.holders.get_mut(cluster) {
            holders.remove(host);
            if holders.is_empty() {
                self.holders.remove(cluster);
            }
        }
    }

    /// Whether the agent has said since it was connected what it has.
    pub(super) fn is_listed(&self, host: &HostName) -> bool {
        self.agents.contains_key(host)
    }

    /// What the agent has of a cluster.
    pub(super) fn held(&self, member: &Member) -> Option<&Held> {
        self.agents.get(&member.host)?.networks.get(&member.cluster)
    }

    /// What the agent has of a cluster was told anew; none: nothing. Without effect where it is lost meanwhile.
    pub(super) fn set_held(&mut self, member: &Member, held: Option<Held>) {
        let Member { cluster, host } = member;
        let Some(agent) = self.agents.get_mut(host) else { return };
        self.peers.agent_has(cluster, host, held.as_ref().map_or(AgentHas::Nothing, |held| held.peers));
        match held {
            Some(held) => {
                agent.networks.insert(cluster.clone(), held);
                self.holders.entry(cluster.clone()).or_default().insert(host.clone());
            }
            None => {
                agent.networks.remove(cluster);
                self.forget_holder(cluster, host);
            }
        }
    }

    /// From now on the agent may have the network, whatever it answers, until [`State::was_told`].
    pub(super) fn is_being_told(&mut self, member: &Member) {
        self.holders.entry(member.cluster.clone()).or_default().insert(member.host.clone());
    }

    /// The agent has answered, or its connection ended.
    pub(super) fn was_told(&mut self, member: &Member) {
        if self.held(member).is_none() {
            self.forget_holder(&member.cluster, &member.host);
        }
    }

    /// Whether an agent has the cluster's network, as far as all that are connected have told.
    pub(super) fn has_holders(&self, cluster: &ClusterName) -> bool {
        self.holders.contains_key(cluster)
    }

    /// Whether the host may have the cluster's network: it has, is being told of it, or cannot be asked.
    pub(super) fn may_have_it(&self, member: &Member) -> bool {
        let holds = self.holders.get(&member.cluster).is_some_and(|holders| holders.contains(&member.host));
        holds || !self.is_listed(&member.host)
    }

    /// The peer list that the agent needs and does not have.
    pub(super) fn next_peers(&mut self, member: &Member) -> crate::network::Next {
        let Member { cluster, host } = member;
        let has = self.held(member).map_or(AgentHas::Nothing, |held| held.peers);
        self.peers.agent_has(cluster, host, has);
        self.peers.next(cluster, host)
    }

    /// An agent has something against a cluster's network, or nothing any more; whether that is news.
    pub(super) fn set_problem(&mut self, member: &Member, problem: Option<String>) -> bool {
        let Member { cluster, host } = member;
        match problem {
            Some(problem) => {
                let problems = self.problems.entry(cluster.clone()).or_default();
                problems.insert(host.clone(), problem.clone()) != Some(problem)
            }
            None => {
                let Some(problems) = self.problems.get_mut(cluster) else { return false };
                let was_there = problems.remove(host).is_some();
                if problems.is_empty() {
                    self.problems.remove(cluster);
                }
                was_there
            }
        }
    }

    /// What agents have against a cluster's network, in the order of their hosts.
    pub(super) fn problems(&self, cluster: &ClusterName) -> Vec<String> {
        let problems = self.problems.get(cluster).into_iter().flatten();
        problems.map(|(host, problem)| format!("{host}: {problem}")).collect()
    }
}
