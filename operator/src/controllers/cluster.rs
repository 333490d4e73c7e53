//! The cluster controller: a Cluster becomes an authority, guests and their certificates, and stays so.
//!
//! ```text
//! Cluster ──► CertificateAuthority ──Ready──► masters ──serving──► workers
//!         deletion:  guests ──gone──► network (its own finalizer) ──► CertificateAuthority ──► Cluster
//! ```
//!
//! [`decide`] is pure; what is here reads the caches, carries actions out, and waits until the caches have seen them. So
//! it never decides by what it has changed itself, and gives no address or name twice.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use crate::{
    context::{Caches, Context},
    controllers::finalizer,
    objects::{Cluster, Object, ResourceExt as _},
    render::Templates,
    runtime::{
        Cache, CertificateBy, Controller, GuestBy, Indexed, Next, Queue, ReconcileError, Tasks, enqueue,
        events::{EventSubject, Events, Severity},
        run, write,
    },
    store::{Deletion, Preconditions, ResourceVersion, Store, StoreError},
};

mod addresses;
mod certificates;
mod change;
mod decide;
pub(crate) mod group;
mod health;
mod owner;
mod status;
#[cfg(test)]
mod tests;

pub use decide::{Action, DISCARD_MASTER_DATA, Decision, View, decide};

/// Clusters that are looked at side by side.
const WORKERS: usize = 4;
/// Writes of one cluster that are under way at once: they share the disk's flushes.
const WRITES: usize = 64;
/// Every cluster is looked at again after a while, since some things come with time alone.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Keeps clusters as their manifests have them, until the tasks are stopped.
pub fn start<S: Store, C>(context: &Context<S, C>, templates: Arc<Templates>, tasks: &Tasks) {
    let queue = Queue::<String>::default();
    let caches = context.caches.clone();
    enqueue(tasks, &caches.clusters, &queue, |change| change.both().map(|cluster| cluster.name_any()).collect());
    enqueue(tasks, &caches.guests, &queue, |change| {
        change.both().map(|guest| guest.spec.cluster.to_string()).collect()
    });
    enqueue(tasks, &caches.authorities, &queue, |change| change.both().map(|authority| authority.name_any()).collect());
    enqueue(tasks, &caches.certificates, &queue, |change| {
        change.both().map(|certificate| certificate.spec.cluster.to_string()).collect()
    });
    let (store, events, stop) = (Arc::clone(&context.store), context.events.clone(), tasks.stop());
    tasks.spawn("clusters", async move {
        if stop.run_until_cancelled(caches.synced()).await.is_some() {
            let controller = Arc::new(Clusters { store, caches, events, templates });
            run(controller, queue, WORKERS, stop).await;
        }
    });
}

struct Clusters<S> {
    store: Arc<S>,
    caches: Caches,
    events: Events,
    templates: Arc<Templates>,
}

impl<S: Store> Controller for Clusters<S> {
    type Key = String;
    const NAME: &'static str = "cluster";

    async fn reconcile(&self, name: &String) -> Result<Next, ReconcileError> {
        let Some(cluster) = self.caches.clusters.get(name) else { return Ok(Next::Done) };
        let authority = self.caches.authorities.get(name);
        let guests = self.caches.guests.by(GuestBy::Cluster, name);
        let certificates = self.caches.certificates.by(CertificateBy::Cluster, name);
        let view = View {
            cluster: &cluster,
            authority: authority.as_deref(),
            guests: &guests,
            certificates: &certificates,
            templates: &self.templates,
            now: Timestamp::now(),
        };
        let Decision { actions, status } = decide(&view);
        // The status first: what it reserves must be written down before the actions take it away.
        let cluster = match write::status(&*self.store, &*cluster, |written| *written = status).await? {
            Some(written) => {
                self.seen(&self.caches.clusters, &written).await;
                Arc::new(written)
            }
            None => cluster,
        };
        // All of them, since each is for itself; then whatever failed is told.
        let outcomes: Vec<_> = stream::iter(actions.into_iter().map(|action| self.carry_out(&cluster, action)))
            .buffered(WRITES)
            .collect()
            .await;
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(Next::After(LOOK_AGAIN))
    }
}

impl<S: Store> Clusters<S> {
    /// Does it, and waits until it is seen.
    async fn carry_out(&self, cluster: &Cluster, action: Action) -> Result<(), StoreError> {
        let Caches { clusters, authorities, certificates, guests, .. } = &self.caches;
        let tell = |reason, message| {
            self.events.record(&EventSubject::of(cluster), Severity::Normal, reason, message);
        };
        match action {
            Action::KeepCluster => {
                if let Some(written) = write::add_finalizer(&*self.store, cluster, finalizer::CLUSTER).await? {
                    self.seen(clusters, &written).await;
                }
            }
            Action::ReleaseCluster => {
                write::remove_finalizer(&*self.store, cluster, finalizer::CLUSTER).await?;
                tell("Deleted", "nothing is left of it".to_owned());
            }
            Action::CreateAuthority(authority) => self.create(authorities, *authority).await?,
            Action::UpdateAuthority(authority) => self.replace(authorities, *authority).await?,
            Action::DeleteAuthority(authority) => self.delete(authorities, &*authority).await?,
            Action::CreateGuest(guest) => {
                let name = guest.name_any();
                self.create(guests, *guest).await?;
                tell("GuestCreated", format!("{name} was made"));
            }
            Action::UpdateGuest(guest) => {
                let name = guest.name_any();
                self.replace(guests, *guest).await?;
                tell("GuestChanged", format!("{name} follows the manifest"));
            }
            Action::DeleteGuest(guest) => {
                self.delete(guests, &*guest).await?;
                tell("GuestDeleted", format!("{} is to go", guest.name_any()));
            }
            Action::CreateCertificate(certificate) => self.create(certificates, *certificate).await?,
            Action::UpdateCertificate(certificate) => self.replace(certificates, *certificate).await?,
            Action::DeleteCertificate(certificate) => self.delete(certificates, &*certificate).await?,
            Action::CertificateStatus(certificate) => {
                let written = self.store.replace_status(&*certificate).await?;
                self.seen(certificates, &written).await;
            }
        }
        Ok(())
    }

    async fn create<T: Indexed>(&self, cache: &Cache<T>, object: T) -> Result<(), StoreError> {
        let written = self.store.create(&object).await?;
        self.seen(cache, &written).await;
        Ok(())
    }

    async fn replace<T: Indexed>(&self, cache: &Cache<T>, object: T) -> Result<(), StoreError> {
        let written = self.store.replace(&object).await?;
        self.seen(cache, &written).await;
        Ok(())
    }

    /// This very object, and no other of its name.
    async fn delete<T: Indexed>(&self, cache: &Cache<T>, object: &T) -> Result<(), StoreError> {
        let preconditions = Preconditions { uid: object.uid(), resource_version: None };
        match self.store.delete::<T>(&object.name_any(), preconditions).await {
            Ok(Deletion::Pending(written)) => self.seen(cache, &written).await,
            Ok(Deletion::Removed(_)) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits until a cache has what was written.
    async fn seen<T: Indexed + Object>(&self, cache: &Cache<T>, written: &T) {
        let version =
            written.meta().resource_version.as_ref().and_then(|version| version.parse::<ResourceVersion>().ok());
        if let Some(version) = version {
            cache.reached(version).await;
        }
    }
}
