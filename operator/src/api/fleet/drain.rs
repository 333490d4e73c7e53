//! Moves a host's guests away, one of each cluster at a time. The host's agent stops each by the contract that its spec
//! names; the cluster controller makes it anew, and placement finds it another host.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::operator::v1::{self as pb, drain_host_response::Step};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Caller, Context, cordon, errors};
use crate::{
    objects::{Cluster, Guest, GuestRole, ResourceExt as _},
    runtime::GuestBy,
    store::{Preconditions, Store},
};

/// Clusters whose guests move at the same time.
const CLUSTERS_AT_ONCE: usize = 8;
/// After something changed it is looked at again at most this often: each look may be one at all hosts.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Steps that may wait for their reader.
const WAITING_STEPS: usize = 16;

pub(super) async fn drain<S: Store>(
    context: &Context<S>,
    caller: Caller,
    request: pb::DrainHostRequest,
) -> Result<BoxStream<'static, Result<pb::DrainHostResponse, Status>>, Status> {
    let pb::DrainHostRequest { name, without_room } = request;
    cordon(context, &caller, &name, true).await?;
    let (steps, told) = mpsc::channel(WAITING_STEPS);
    let guests = context.caches.guests.by(GuestBy::Host, &name);
    let drain = Arc::new(Drain {
        context: context.clone(),
        host: name,
        without_room,
        guests: u32::try_from(guests.len()).unwrap_or(u32::MAX),
        left: AtomicU32::new(0),
        steps,
    });
    tokio::spawn(async move {
        let shutdown = drain.context.shutdown.clone();
        let ended = shutdown.run_until_cancelled(drain.run(guests)).await;
        let end = match ended {
            Some(Ok(()) | Err(Stopped)) => return,
            None => errors::shutting_down(),
        };
        let _ = drain.steps.send(Err(end)).await;
    });
    Ok(ReceiverStream::new(told).boxed())
}

/// Nobody reads any more: begin nothing new.
struct Stopped;

struct Drain<S> {
    context: Context<S>,
    host: String,
    without_room: bool,
    guests: u32,
    left: AtomicU32,
    steps: mpsc::Sender<Result<pb::DrainHostResponse, Status>>,
}

impl<S: Store> Drain<S> {
    async fn run(&self, mut guests: Vec<Arc<Guest>>) -> Result<(), Stopped> {
        self.tell(Step::Cordoned, "", "it gets no new guests from now on").await?;
        // Some may have come while it was being cordoned.
        while !guests.is_empty() {
            let mut clusters: BTreeMap<String, Vec<Arc<Guest>>> = BTreeMap::new();
            for guest in guests {
                clusters.entry(guest.spec.cluster.to_string()).or_default().push(guest);
            }
            let clusters = stream::iter(clusters).map(|(_, guests)| self.cluster(guests));
            let mut clusters = clusters.buffer_unordered(CLUSTERS_AT_ONCE);
            while let Some(moved) = clusters.next().await {
                moved?;
            }
            guests = self.context.caches.guests.by(GuestBy::Host, &self.host);
        }
        self.tell(Step::Drained, "", "nothing is left on it").await
    }

    /// Guests of one cluster, one after the other: workers first, since the masters' work is done by the others meanwhile.
    async fn cluster(&self, mut guests: Vec<Arc<Guest>>) -> Result<(), Stopped> {
        guests.sort_by_key(|guest| (guest.spec.role == GuestRole::Master, guest.name_any()));
        for guest in guests {
            self.guest(&guest).await?;
        }
        Ok(())
    }

    async fn guest(&self, guest: &Guest) -> Result<(), Stopped> {
        let name = guest.name_any();
        self.until(&name, || self.obstacle(guest)).await?;
        if !self.is_there(guest) {
            return self.gone(&name, guest).await;
        }
        self.tell(Step::Deleting, &name, "it is being stopped").await?;
        let preconditions = Preconditions { uid: guest.uid(), resource_version: None };
        if let Err(error) = self.context.store.delete::<Guest>(&name, preconditions).await
            // It went by itself, and another has its name.
            && !(error.is_not_found() || error.is_conflict())
        {
            let _ = self.steps.send(Err(errors::of_store(&error, ""))).await;
            return Err(Stopped);
        }
        self.until(&name, || self.is_there(guest).then(|| "waits for the host to stop it".to_owned())).await?;
        self.gone(&name, guest).await
    }

    async fn gone(&self, name: &str, guest: &Guest) -> Result<(), Stopped> {
        self.left.fetch_add(1, Ordering::Relaxed);
        self.tell(Step::Gone, name, "it is gone from the host").await?;
        if !self.is_wanted(guest) {
            return self
                .tell(Step::Moved, name, "nothing takes its place: its cluster does not want it any more")
                .await;
        }
        self.until(name, || self.successor(guest)).await?;
        let host = self.context.caches.guests.get(name).and_then(|guest| guest.spec.host().cloned());
        let message =
            host.map_or_else(|| "nothing takes its place".to_owned(), |host| format!("it is ready on {host}"));
        self.tell(Step::Moved, name, &message).await
    }

    /// Whether this very guest is on the host still.
    fn is_there(&self, guest: &Guest) -> bool {
        let now = self.context.caches.guests.get(&guest.name_any());
        now.is_some_and(|now| {
            now.uid() == guest.uid() && now.spec.host().is_some_and(|host| host.as_str() == self.host)
        })
    }

    /// Why the guest cannot be moved now.
    fn obstacle(&self, guest: &Guest) -> Option<String> {
        if !self.is_there(guest) || guest.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let caches = &self.context.caches;
        if caches.clusters.get(guest.spec.cluster.as_str()).is_some_and(|cluster| cluster.spec.paused) {
            return Some(format!("cluster {} is paused, so nothing would take its place", guest.spec.cluster));
        }
        let others = caches.guests.by(GuestBy::Cluster, guest.spec.cluster.as_str());
        // One that is not ready on this very host gets better by moving.
        let elsewhere = |other: &Guest| other.spec.host().is_none_or(|host| host.as_str() != self.host);
        let unready: Vec<_> =
            others.iter().filter(|other| elsewhere(other) && !is_ready(other)).map(|other| other.name_any()).collect();
        if let Some(first) = unready.first() {
            let unready = goliath_server::errors::and_more(first, unready.len() - 1);
            return Some(format!("waits until the rest of its cluster is ready: {unready} is not"));
        }
        if self.without_room {
            return None;
        }
        let explained = self.context.questions.explain(&guest.name_any())?;
        if explained.hosts.iter().any(|verdict| verdict.fits && verdict.host != self.host) {
            return None;
        }
        Some(format!("no other host has room: {}", explained.no_room.unwrap_or_default()))
    }

    /// What the guest that takes the place waits for; none: it is ready, or none is wanted any more.
    fn successor(&self, guest: &Guest) -> Option<String> {
        if !self.is_wanted(guest) {
            return None;
        }
        match self.context.caches.guests.get(&guest.name_any()) {
            Some(now) if is_ready(&now) => None,
            Some(now) => Some(match now.spec.host() {
                Some(host) => format!("waits until it is ready on {host}"),
                None => "waits for another host".to_owned(),
            }),
            None => Some("waits until it is made anew".to_owned()),
        }
    }

    /// Whether its cluster wants a guest of this name.
    fn is_wanted(&self, guest: &Guest) -> bool {
        let cluster = self.context.caches.clusters.get(guest.spec.cluster.as_str());
        cluster.is_some_and(|cluster| cluster.metadata.deletion_timestamp.is_none() && wants(&cluster, guest))
    }

    /// Waits until nothing stands in the way; what does is told whenever it is something else.
    async fn until(&self, name: &str, obstacle: impl Fn() -> Option<String> + Send) -> Result<(), Stopped> {
        if obstacle().is_none() {
            return Ok(());
        }
        let caches = &self.context.caches;
        let (mut guests, mut hosts) = (caches.guests.changes(), caches.hosts.changes());
        let mut clusters = caches.clusters.changes();
        let mut told = HashSet::new();
        while let Some(message) = obstacle() {
            if told.insert(message.clone()) {
                self.tell(Step::Waiting, name, &message).await?;
            }
            tokio::select! {
                () = self.steps.closed() => return Err(Stopped),
                _ = guests.next() => {}
                _ = hosts.next() => {}
                _ = clusters.next() => {}
            }
            // What changed together is looked at together.
            tokio::time::sleep(LOOK_INTERVAL).await;
            while guests.try_next().is_some() || hosts.try_next().is_some() || clusters.try_next().is_some() {}
        }
        Ok(())
    }

    async fn tell(&self, step: Step, guest: &str, message: &str) -> Result<(), Stopped> {
        let step = pb::DrainHostResponse {
            step: step.into(),
            guest: guest.to_owned(),
            message: message.to_owned(),
            left: self.left.load(Ordering::Relaxed),
            guests: self.guests,
        };
        self.steps.send(Ok(step)).await.map_err(|_| Stopped)
    }
}

fn is_ready(guest: &Guest) -> bool {
    let seen = guest.status.as_ref().is_some_and(|status| status.conditions.is_true("Ready"));
    seen && guest.metadata.deletion_timestamp.is_none()
}

fn wants(cluster: &Cluster, guest: &Guest) -> bool {
    let index = guest.spec.index.get();
    match &guest.spec.pool {
        None => u32::from(index) < u32::from(cluster.spec.masters.replicas.get()),
        Some(name) => {
            let pool = cluster.spec.workers.iter().find(|pool| pool.name == *name);
            pool.is_some_and(|pool| u32::from(index) < u32::from(pool.replicas.get()))
        }
    }
}
