//! One host's part in one cluster's network: what its agent is told.

use std::{sync::Arc, time::Duration};

use goliath_proto::{
    agent::v1 as pb,
    values::{ClusterName, Generation, HostName},
};
use tracing::{debug, info, warn};

use super::{
    Shared,
    state::{Held, Member},
};
use crate::{
    agents::{
        Agent, AgentError, Connections, Link, RefusalKind,
        convert::{self, network_spec},
    },
    context::Context,
    network,
    objects::Cluster,
    runtime::{Controller, GuestBy, Next, ReconcileError},
    store::Store,
};

/// Before an agent is asked whether a network is gone by now.
const GOING: Duration = Duration::from_millis(500);
/// Before an agent that is in the way of itself is asked again.
const SOON: Duration = Duration::from_secs(5);
/// Before an agent that refused is asked again: something may have changed there.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Key {
    /// All that an agent has, which is asked for once after it connected.
    Host(HostName),
    /// A host's part in a cluster.
    Member(Member),
}

/// Tells agents of networks and peers.
pub(super) struct Members<S, A> {
    pub(super) context: Context<S, Connections<A>>,
    pub(super) shared: Arc<Shared>,
}

/// What to do for a member.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// The agent did not say yet what it has; then its members are looked at.
    Wait,
    /// It has what it shall have.
    Nothing,
    /// One message with all that differs.
    Tell(Box<pb::ApplyNetworkRequest>),
    Remove,
}

impl<S: Store, A: Agent> Controller for Members<S, A> {
    type Key = Key;
    const NAME: &'static str = "network of host";

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        match key {
            Key::Host(host) => self.list(host).await,
            Key::Member(member) => {
                let Some(link) = self.context.connections.get(member.host.as_str()) else { return Ok(Next::Done) };
                match self.decide(member) {
                    Step::Wait => Ok(Next::Done),
                    Step::Nothing => {
                        // As it is now the agent has nothing against it.
                        self.problem(member, None);
                        Ok(Next::Done)
                    }
                    Step::Tell(request) => {
                        let told = self.tell(member, &link, *request).await;
                        self.shared.state().was_told(member);
                        // What waited for its end looks again.
                        self.shared.allocate.push(member.cluster.to_string());
                        told
                    }
                    Step::Remove => self.remove(member, &link).await,
                }
            }
        }
    }
}

impl<S: Store, A: Agent> Members<S, A> {
    async fn list(&self, host: &HostName) -> Result<Next, ReconcileError> {
        let Some(link) = self.context.connections.get(host.as_str()) else { return Ok(Next::Done) };
        let networks = match link.call(|agent| async move { agent.networks().await }).await {
            Ok(networks) => networks,
            Err(error) if error.ends_connection() => return Ok(Next::Done),
            Err(error) => return Err(ReconcileError::Retry(format!("{host} does not list its networks: {error}"))),
        };
        let clusters = {
            let mut state = self.shared.state();
            state.listed(host, networks);
            state.clusters_of(host)
        };
        for cluster in clusters {
            // Its address may be free now, and the network's end may wait for this host.
            self.shared.allocate.push(cluster.to_string());
            self.shared.members.push(Key::Member(Member { cluster, host: host.clone() }));
        }
        Ok(Next::Done)
    }

    fn decide(&self, member: &Member) -> Step {
        let cluster = self.context.caches.clusters.get(member.cluster.as_str());
        let mut state = self.shared.state();
        if !state.is_listed(&member.host) {
            return Step::Wait;
        }
        let wanted = cluster.as_deref().filter(|_| state.is_wanted(member)).and_then(|cluster| wanted(cluster, member));
        match (wanted, state.held(member)) {
            (Some(mut spec), held) => {
                let (generation, differs) = match held {
                    Some(held) => {
                        spec.generation = held.spec.generation;
                        (held.spec.generation.saturating_add(1), held.spec != spec)
                    }
                    None => (1, true),
                };
                spec.generation = generation;
                let peers = match state.next_peers(member) {
                    network::Next::Send(list) => Some(pb::PeerList::from(&list)),
                    network::Next::Ask | network::Next::Nothing => None,
                };
                if !differs && peers.is_none() {
                    return Step::Nothing;
                }
                state.is_being_told(member);
                Step::Tell(Box::new(pb::ApplyNetworkRequest {
                    spec: differs.then_some(spec),
                    peers,
                    cluster: member.cluster.to_string(),
                    dry_run: false,
                }))
            }
            // Another operator's, perhaps: what no object tells of is left alone.
            (None, Some(_)) if cluster.is_some() && !state.is_wanted(member) && !self.has_guests(member) => {
                Step::Remove
            }
            (None, _) => Step::Nothing,
        }
    }

    /// Whether guests of the cluster are bound to the host, as the cache has it at this moment.
    fn has_guests(&self, member: &Member) -> bool {
        let bound = self.context.caches.guests.by(GuestBy::Host, member.host.as_str());
        bound.iter().any(|guest| guest.spec.cluster.as_str() == member.cluster.as_str())
    }

    async fn tell(
        &self,
        member: &Member,
        link: &Link<A>,
        request: pb::ApplyNetworkRequest,
    ) -> Result<Next, ReconcileError> {
        let Member { cluster, host } = member;
        let is_new = self.shared.state().held(member).is_none();
        match link.call(|agent| async move { agent.apply_network(request).await }).await {
            Ok(answer) => {
                if is_new {
                    info!(%cluster, %host, "the host joins the cluster's network");
                }
                let held = answer.network.and_then(Held::of).map(|(_, held)| held);
                self.shared.state().set_held(member, held);
                self.problem(member, None);
                Ok(Next::Done)
            }
            Err(error) if error.ends_connection() => Ok(Next::Done),
            Err(AgentError::Refused(refusal)) => match refusal.kind {
                RefusalKind::NewerGenerationHeld | RefusalKind::GenerationReused => {
                    debug!(%cluster, %host, "the agent has another generation than it said: {refusal}");
                    self.ask(member, link).await?;
                    Err(ReconcileError::Conflict)
                }
                RefusalKind::Deleting => Ok(Next::After(GOING)),
                _ => {
                    if self.problem(member, Some(refusal.to_string())) {
                        warn!(%cluster, %host, reason = refusal.kind.reason(), "the agent refused the network: {refusal}");
                    }
                    Ok(Next::After(ASK_AGAIN))
                }
            },
            Err(AgentError::NotFound) => {
                self.shared.state().set_held(member, None);
                Err(ReconcileError::Conflict)
            }
            Err(error) => {
                self.problem(member, Some(error.told()));
                Err(ReconcileError::Retry(format!("{host} does not take the network of {cluster}: {}", error.told())))
            }
        }
    }

    async fn remove(&self, member: &Member, link: &Link<A>) -> Result<Next, ReconcileError> {
        let Member { cluster, host } = member;
        let name = cluster.clone();
        match link.call(|agent| async move { agent.delete_network(&name).await }).await {
            Ok(()) => Ok(Next::After(GOING)),
            Err(AgentError::NotFound) => {
                info!(%cluster, %host, "the host has left the cluster's network");
                self.shared.state().set_held(member, None);
                self.problem(member, None);
                self.shared.allocate.push(cluster.to_string());
                Ok(Next::Done)
            }
            Err(error) if error.ends_connection() => Ok(Next::Done),
            Err(error) => {
                if self.problem(member, Some(error.told())) {
                    warn!(%cluster, %host, error = error.told(), "the agent keeps the cluster's network");
                }
                Ok(Next::After(SOON))
            }
        }
    }

    async fn ask(&self, member: &Member, link: &Link<A>) -> Result<(), ReconcileError> {
        let name = member.cluster.clone();
        let held = match link.call(|agent| async move { agent.network(&name).await }).await {
            Ok(network) => Held::of(network).map(|(_, held)| held),
            Err(AgentError::NotFound) => None,
            Err(error) => return Err(ReconcileError::Retry(error.told())),
        };
        self.shared.state().set_held(member, held);
        Ok(())
    }

    /// Tells whether it is news; then the cluster says so.
    fn problem(&self, member: &Member, problem: Option<String>) -> bool {
        let is_news = self.shared.state().set_problem(member, problem);
        if is_news {
            self.shared.allocate.push(member.cluster.to_string());
        }
        is_news
    }
}

/// The network as the host shall have it; none before it is allocated. The generation is still to be given.
fn wanted(cluster: &Cluster, member: &Member) -> Option<pb::NetworkSpec> {
    let allocation = cluster.status.as_ref()?.network.as_ref()?;
    let host: crate::objects::HostName = member.host.as_str().parse().ok()?;
    let address = *allocation.host_addresses.get(&host)?;
    let generation = Generation::try_from(1).ok()?;
    Some(network_spec(cluster, allocation, convert::Member { address, generation }))
}

impl Member {
    pub(super) fn new(cluster: &ClusterName, host: &HostName) -> Self {
        Self { cluster: cluster.clone(), host: host.clone() }
    }
}
