//! What every controller is given.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    objects::{Certificate, CertificateAuthority, Cluster, Guest, Host},
    runtime::{Cache, Tasks, events::Events},
    store::Store,
};

/// The store, what it holds, what happened, and `connections`, by which agents are reached. Clones are the same.
#[derive(Debug)]
pub struct Context<S, C> {
    /// Where objects are written.
    pub store: Arc<S>,
    /// Where objects are read.
    pub caches: Caches,
    /// Where decisions are told that people want to see.
    pub events: Events,
    /// The way to agents.
    pub connections: C,
}

/// A cache of each kind. Clones are the same.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the types tell")]
pub struct Caches {
    pub clusters: Cache<Cluster>,
    pub authorities: Cache<CertificateAuthority>,
    pub certificates: Cache<Certificate>,
    pub hosts: Cache<Host>,
    pub guests: Cache<Guest>,
}

impl<S: Store, C> Context<S, C> {
    /// Begins to follow the store, until the tasks are stopped.
    pub fn start(store: Arc<S>, connections: C, tasks: &Tasks) -> Self {
        let caches = Caches::start(&store, tasks);
        Self { store, caches, events: Events::default(), connections }
    }

    /// The time that is written into objects.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl<S, C: Clone> Clone for Context<S, C> {
    fn clone(&self) -> Self {
        let Self { store, caches, events, connections } = self;
        Self {
            store: Arc::clone(store),
            caches: caches.clone(),
            events: events.clone(),
            connections: connections.clone(),
        }
    }
}

impl Caches {
    /// Begins to follow a store, until the tasks are stopped.
    pub fn start<S: Store>(store: &Arc<S>, tasks: &Tasks) -> Self {
        Self {
            clusters: Cache::start(Arc::clone(store), tasks),
            authorities: Cache::start(Arc::clone(store), tasks),
            certificates: Cache::start(Arc::clone(store), tasks),
            hosts: Cache::start(Arc::clone(store), tasks),
            guests: Cache::start(Arc::clone(store), tasks),
        }
    }

    /// Returns once all of them have been filled: what decides earlier would take what it does not see for gone.
    pub async fn synced(&self) {
        let Self { clusters, authorities, certificates, hosts, guests } = self;
        tokio::join!(clusters.synced(), authorities.synced(), certificates.synced(), hosts.synced(), guests.synced());
    }
}
