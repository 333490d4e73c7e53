//! The controllers, one job each. Each is a pure decision and a thin driver that carries it out; they speak to each other
//! through objects alone.

pub mod authority;
pub mod cluster;
#[cfg(test)]
mod fleet;
pub mod guest;
pub mod host;
pub mod network;
pub mod placement;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod whole;

use std::sync::Arc;

use crate::{
    agents::{AgentConnector, Connections},
    context::Context,
    objects::Conditions,
    pki::Authorities,
    render::Templates,
    runtime::Tasks,
    store::Store,
};

/// What controllers need beside objects.
pub struct Outside<C> {
    /// Reaches hosts' agents.
    pub connector: Arc<C>,
    /// How.
    pub hosts: host::Settings,
    /// How clusters' networks are given out.
    pub network: network::Settings,
    /// What seeds are rendered from.
    pub templates: Arc<Templates>,
    /// Who issues certificates.
    pub authorities: Arc<Authorities>,
}

/// Starts all of them, until the tasks are stopped. The caches are to be synced.
pub fn start<S: Store, C: AgentConnector>(
    context: &Context<S, Connections<C::Agent>>,
    outside: Outside<C>,
    tasks: &Tasks,
) -> placement::Placement {
    let Outside { connector, hosts, network, templates, authorities } = outside;
    // Who listens stands ready before the first agent is heard.
    cluster::start(context, templates, tasks);
    authority::start(context, &authorities, tasks);
    let placement = placement::start(context, tasks);
    network::start(context, network, tasks);
    guest::start(context, tasks);
    host::start(context, connector, hosts, tasks);
    placement
}

/// The operator's own conditions, then those that an agent told: always in the same order, or a status that says the same
/// would be written again.
fn own_first(conditions: &Conditions, own: &[&str]) -> Conditions {
    let told = conditions.iter().filter(|condition| !own.contains(&condition.type_.as_str()));
    own.iter().filter_map(|type_| conditions.get(type_)).chain(told).cloned().collect()
}

/// What keeps an object until a controller has undone its part.
pub mod finalizer {
    /// On Clusters, by the cluster controller: guests and authority are gone.
    pub const CLUSTER: &str = "goliath.dev/cluster";
    /// On Clusters, by the network controller: no host has the network any more.
    pub const NETWORK: &str = "goliath.dev/network";
    /// By the authority controller. On CertificateAuthorities: the issuer holds nothing of it any more. On Hosts: no issuer
    /// lets it log in any more.
    pub const AUTHORITY: &str = "goliath.dev/authority";
    /// On Guests, by the guest controller: the host says that it is gone there.
    pub const GUEST: &str = "goliath.dev/guest";
}
