//! Authorities and the hosts' logins: what is declared, and which guests are bound to which hosts, becomes true at the
//! issuers.
//!
//! ```text
//!  CertificateAuthority ──► root, roles, policies          ──► its status: Ready, Deleting
//!  Guests bound to a Host ──► what the host's login may do ──► HostsGranted of the authorities
//!  Host that goes ──► its login ends
//! ```
//!
//! Each issuer has a queue and workers of its own, so that one that is away delays nobody else's clusters. A further queue
//! is for what is no issuer's: authorities of issuers that nobody configured, and hosts that go.
//!
//! An authority is destroyed last: when no guest of its cluster is left, and its cluster is gone or going.

mod decide;
mod grants;
mod status;
#[cfg(test)]
mod tests;
mod trouble;

use std::{sync::Arc, time::Duration};

use self::{
    decide::{Step, decide},
    grants::{Failures, login, moved},
    status::Told,
    trouble::Trouble,
};
use super::finalizer;
use crate::{
    context::{Caches, Context},
    objects::{CertificateAuthority, Cluster, Conditions, Guest, Host, IssuerName, Object, ResourceExt as _},
    pki::{Authorities, AuthorityState, PkiError},
    runtime::{
        Backoff, Change, Controller, GuestBy, Next, Queue, ReconcileError, Tasks, enqueue,
        events::{EventSubject, Events, Severity},
        run, write,
    },
    store::Store,
};

/// Of each queue. Issuers answer in milliseconds; more would only fall on one that is slow.
const WORKERS: usize = 4;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(10), longest: Duration::from_mins(1) };
/// For so long an issuer that turned out to be away is not asked again.
const QUIET: Duration = Duration::from_secs(3);
/// What people may have changed by hand at an issuer is looked for this often, at the least.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Look {
    /// An authority, by name.
    Authority(String),
    /// A host's login, by the host's name.
    Host(String),
    /// What an authority's status says of hosts' logins, by the authority's name.
    Grants(String),
}

/// Begins to reconcile, until the tasks are stopped.
pub fn start<S: Store, C>(context: &Context<S, C>, authorities: &Arc<Authorities>, tasks: &Tasks) {
    for issuer in authorities.issuers().cloned().map(Some).chain([None]) {
        let driver = Arc::new(Driver {
            issuer,
            store: Arc::clone(&context.store),
            caches: context.caches.clone(),
            events: context.events.clone(),
            authorities: Arc::clone(authorities),
            queue: Queue::new(BACKOFF),
            trouble: Trouble::none(QUIET),
            failures: Failures::default(),
        });
        driver.follow(tasks);
        let (caches, stop) = (context.caches.clone(), tasks.stop());
        tasks.spawn("authority", async move {
            // Before that a host would seem to run nothing, and lose what it may do.
            if stop.run_until_cancelled(caches.synced()).await.is_some() {
                let queue = driver.queue.clone();
                run(driver, queue, WORKERS, stop).await;
            }
        });
    }
}

/// What belongs to one issuer, or to none.
struct Driver<S> {
    issuer: Option<IssuerName>,
    store: Arc<S>,
    caches: Caches,
    events: Events,
    authorities: Arc<Authorities>,
    queue: Queue<Look>,
    trouble: Trouble,
    failures: Failures,
}

impl<S: Store> Controller for Driver<S> {
    type Key = Look;
    const NAME: &'static str = "authority";

    async fn reconcile(&self, look: &Look) -> Result<Next, ReconcileError> {
        match (look, &self.issuer) {
            (Look::Authority(name), _) => match self.caches.authorities.get(name) {
                Some(authority) if self.is_mine(&authority) => self.authority(&authority).await,
                _ => Ok(Next::Done),
            },
            (Look::Host(name), issuer) => match (self.caches.hosts.get(name), issuer) {
                (Some(host), Some(issuer)) if !is_deleting(&*host) => self.grant(issuer, &host).await,
                (Some(host), None) if is_deleting(&*host) => self.forget(&host).await,
                _ => {
                    self.failures.forget(name);
                    Ok(Next::Done)
                }
            },
            (Look::Grants(name), _) => match self.caches.authorities.get(name) {
                Some(authority) if self.is_mine(&authority) => self.tell_grants(&authority).await,
                _ => Ok(Next::Done),
            },
        }
    }
}

impl<S: Store> Driver<S> {
    fn is_mine(&self, authority: &CertificateAuthority) -> bool {
        match &self.issuer {
            Some(issuer) => authority.spec.issuer == *issuer,
            None => self.authorities.issuers().all(|issuer| authority.spec.issuer != *issuer),
        }
    }

    /// Pushes what a change makes worth a look.
    fn follow(self: &Arc<Self>, tasks: &Tasks) {
        let driver = Arc::clone(self);
        enqueue(tasks, &self.caches.authorities, &self.queue, move |change| driver.on_authority(change));
        let driver = Arc::clone(self);
        enqueue(tasks, &self.caches.guests, &self.queue, move |change| driver.on_guest(change));
        enqueue(tasks, &self.caches.clusters, &self.queue, |change: &Change<Cluster>| {
            let going = change.new.as_ref().is_none_or(|cluster| is_deleting(&**cluster));
            change.both().take(1).filter(|_| going).map(|cluster| Look::Authority(cluster.name_any())).collect()
        });
        enqueue(tasks, &self.caches.hosts, &self.queue, |change: &Change<Host>| {
            // Heartbeats are many.
            let seen = |host: Option<&Arc<Host>>| host.map(|host| (host.uid(), is_deleting(&**host)));
            let differs = seen(change.old.as_ref()) != seen(change.new.as_ref());
            change.both().take(1).filter(|_| differs).map(|host| Look::Host(host.name_any())).collect()
        });
    }

    fn on_authority(&self, change: &Change<CertificateAuthority>) -> Vec<Look> {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        let seen = |authority: Option<&Arc<CertificateAuthority>>| {
            authority.map(|authority| (authority.uid(), authority.metadata.generation, is_deleting(&**authority)))
        };
        // Its status is our own.
        if seen(old) == seen(new) {
            return Vec::new();
        }
        let mut looks: Vec<_> = change.both().map(|authority| Look::Authority(authority.name_any())).collect();
        // Which issuer it is at, and whether it is there, decides what hosts may do.
        if old.map(|authority| &authority.spec.issuer) != new.map(|authority| &authority.spec.issuer) {
            for authority in change.both() {
                for guest in self.caches.guests.by(GuestBy::Cluster, authority.spec.cluster.as_str()) {
                    looks.extend(guest.spec.host().map(|host| Look::Host(host.to_string())));
                }
            }
        }
        looks.sort();
        looks.dedup();
        looks
    }

    fn on_guest(&self, change: &Change<Guest>) -> Vec<Look> {
        let mut looks: Vec<_> = moved(change).into_iter().map(|host| Look::Host(host.to_string())).collect();
        // The last one that goes lets a deletion go on.
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        let waits = |guest: &&Arc<Guest>| {
            self.caches.authorities.get(guest.spec.cluster.as_str()).is_some_and(|authority| is_deleting(&*authority))
        };
        looks.extend(gone.filter(waits).map(|guest| Look::Authority(guest.spec.cluster.to_string())));
        looks
    }

    async fn authority(&self, authority: &CertificateAuthority) -> Result<Next, ReconcileError> {
        let cluster = authority.spec.cluster.as_str();
        let guests = self.caches.guests.by(GuestBy::Cluster, cluster);
        match decide(authority, self.caches.clusters.get(cluster).as_deref(), &guests) {
            Step::Tell(told) => {
                self.tell(authority, told, None).await?;
                Ok(Next::Done)
            }
            Step::Make => {
                let kept = match &self.issuer {
                    Some(_) => write::add_finalizer(&*self.store, authority, finalizer::AUTHORITY).await?,
                    // Nothing can be made, so nothing has to be undone.
                    None => None,
                };
                let authority = kept.as_ref().unwrap_or(authority);
                let made = self.trouble.unless(self.authorities.ensure_cluster(authority)).await;
                self.tell(authority, vec![status::ready(authority, &made)], made.as_ref().ok()).await?;
                self.settle(made.map(drop))
            }
            Step::Destroy => match self.destroy(authority).await {
                Ok(()) => {
                    write::remove_finalizer(&*self.store, authority, finalizer::AUTHORITY).await?;
                    let message = format!("issuer {} holds nothing of it any more", authority.spec.issuer);
                    self.events.record(&EventSubject::of(authority), Severity::Normal, "Destroyed", message);
                    Ok(Next::Done)
                }
                Err(error) => {
                    self.tell(authority, status::stays(&error), None).await?;
                    self.settle(Err(error))
                }
            },
        }
    }

    /// A mount with much in it may take Vault long to remove: that is no trouble of others.
    async fn destroy(&self, authority: &CertificateAuthority) -> Result<(), PkiError> {
        match self.trouble.now() {
            Some(error) => Err(error),
            None => self.authorities.remove_cluster(authority).await,
        }
    }

    /// Makes a host's login true.
    async fn grant(&self, issuer: &IssuerName, host: &Host) -> Result<Next, ReconcileError> {
        if self.authorities.with_logins().all(|with_logins| with_logins != issuer) {
            return Ok(Next::Done);
        }
        let name = host.name_any();
        write::add_finalizer(&*self.store, host, finalizer::AUTHORITY).await?;
        let guests = self.caches.guests.by(GuestBy::Host, &name);
        let authority = |cluster: &str| self.caches.authorities.get(cluster);
        let granted = match login(host, &guests, issuer, authority) {
            Ok(login) => self.trouble.unless(self.authorities.ensure_host(issuer, &login)).await,
            Err(error) => Err(error),
        };
        let news = self.failures.note(&name, &granted);
        for cluster in grants::clusters(&guests) {
            // An operator before this one may have told of a failure.
            let untold = || authority(&cluster).is_some_and(|authority| !status::tells_granted(&authority));
            if news || untold() {
                self.queue.push(Look::Grants(cluster));
            }
        }
        self.settle(granted)
    }

    async fn tell_grants(&self, authority: &CertificateAuthority) -> Result<Next, ReconcileError> {
        let cluster = authority.spec.cluster.as_str();
        let runs = |host: &str| {
            self.caches.guests.by(GuestBy::Host, host).iter().any(|guest| guest.spec.cluster.as_str() == cluster)
        };
        let told = status::hosts_granted(&self.failures.of(runs));
        self.tell(authority, vec![told], None).await?;
        Ok(Next::Done)
    }

    /// Ends the logins of a host that goes, once nothing is bound to it.
    async fn forget(&self, host: &Host) -> Result<Next, ReconcileError> {
        if !write::has_finalizer(host, finalizer::AUTHORITY) {
            return Ok(Next::Done);
        }
        let guests = self.caches.guests.by(GuestBy::Host, &host.name_any());
        if !guests.is_empty() {
            self.tell_host(host, status::guests_remain(&guests)).await?;
            return Ok(Next::Done);
        }
        let ended = match grants::identity(host) {
            Ok((name, uid)) => self.authorities.forget_host(&name, uid).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => {
                write::remove_finalizer(&*self.store, host, finalizer::AUTHORITY).await?;
                Ok(Next::Done)
            }
            Err(error) => {
                self.tell_host(host, status::login_stays(&error)).await?;
                self.settle(Err(error))
            }
        }
    }

    async fn tell_host(&self, host: &Host, told: Told) -> Result<(), ReconcileError> {
        let generation = host.metadata.generation;
        let set = told.clone();
        write::status(&*self.store, host, |status| set.set(&mut status.conditions, generation)).await?;
        self.report(host, host.status.as_ref().map(|status| &status.conditions), &[told]);
        Ok(())
    }

    async fn tell(
        &self,
        authority: &CertificateAuthority,
        told: Vec<Told>,
        made: Option<&AuthorityState>,
    ) -> Result<(), ReconcileError> {
        let generation = authority.metadata.generation;
        let set = told.clone();
        write::status(&*self.store, authority, |status| {
            for told in set {
                told.set(&mut status.conditions, generation);
            }
            status.observed_generation = generation;
            if let Some(made) = made {
                status::show(status, made);
            }
        })
        .await?;
        self.report(authority, authority.status.as_ref().map(|status| &status.conditions), &told);
        Ok(())
    }

    /// Records what was not told before.
    fn report<T: Object>(&self, object: &T, before: Option<&Conditions>, told: &[Told]) {
        for told in told.iter().filter(|told| told.is_news(before)) {
            self.events.record(&EventSubject::of(object), told.severity(), &told.reason, told.message.as_str());
        }
    }

    /// What follows from an attempt. An issuer that is away is tried again soon, and told of once.
    fn settle(&self, attempt: Result<(), PkiError>) -> Result<Next, ReconcileError> {
        match attempt {
            Ok(()) => Ok(Next::After(LOOK_AGAIN.mul_f64(1.0 - fastrand::f64() / 3.0))),
            Err(error) if error.is_of_issuer() => Ok(Next::After(self.trouble.pause())),
            Err(error) => Err(ReconcileError::Retry(error.to_string())),
        }
    }
}

fn is_deleting<T: Object>(object: &T) -> bool {
    object.meta().deletion_timestamp.is_some()
}
