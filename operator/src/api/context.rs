//! What the methods work with.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{errors, questions::Questions};
use crate::{
    context::Caches,
    objects::Kind,
    runtime::events::Events,
    store::{AnyObject, Store},
};

/// So long a cache is waited for after a write: it is a moment behind, or something is wrong with it.
const CACHE_LIMIT: Duration = Duration::from_secs(5);

/// What the methods work with. Clones share it.
#[derive(Debug)]
pub(super) struct Context<S>(Arc<Shared<S>>);

#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) store: Arc<S>,
    pub(super) caches: Caches,
    pub(super) events: Events,
    pub(super) questions: Questions,
    /// Ends every stream when the operator ends.
    pub(super) shutdown: CancellationToken,
    turns: Semaphore,
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> std::ops::Deref for Context<S> {
    type Target = Shared<S>;

    fn deref(&self) -> &Shared<S> {
        &self.0
    }
}

impl<S: Store> Context<S> {
    pub(super) fn new(parts: super::Parts<S>, shutdown: CancellationToken) -> Self {
        let super::Parts { store, caches, events, questions } = parts;
        Self(Arc::new(Shared { store, caches, events, questions, shutdown, turns: Semaphore::new(1) }))
    }

    /// One that judges and writes at a time: what was judged must still be so when it is written.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Status> {
        tokio::select! {
            () = self.shutdown.cancelled() => Err(errors::shutting_down()),
            turn = self.turns.acquire() => turn.map_err(|_| errors::shutting_down()),
        }
    }

    /// Returns once the caches, by which the next call is judged, have what was written.
    pub(super) async fn seen(&self, object: &AnyObject) {
        let Some(version) = object.resource_version() else { return };
        let caches = &self.caches;
        let reached = async {
            match object.kind() {
                Kind::Cluster => caches.clusters.reached(version).await,
                Kind::CertificateAuthority => caches.authorities.reached(version).await,
                Kind::Certificate => caches.certificates.reached(version).await,
                Kind::Host => caches.hosts.reached(version).await,
                Kind::Guest => caches.guests.reached(version).await,
            }
        };
        if tokio::time::timeout(CACHE_LIMIT, reached).await.is_err() {
            tracing::warn!(?object, limit = ?CACHE_LIMIT, "a cache has not seen what was written");
        }
    }
}
