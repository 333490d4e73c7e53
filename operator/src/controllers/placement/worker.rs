//! The one worker that has the fleet.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use goliath_proto::values::{HostName, InvalidValue};
use tokio::time::Instant;
use tracing::warn;

use super::{Placement, convert, network};
use crate::{
    objects::{Cluster, Guest, GuestRole, Host, ResourceExt as _},
    placement::{self, Decision, Fleet, Group, Needs},
    runtime::{Change, GuestBy, events::Events},
    store::Store,
};

mod outcome;

/// The condition of Guests.
const SCHEDULED: &str = "Scheduled";
/// Guests without room are looked at again when something changes, but not more often than this.
const RETRY: Duration = Duration::from_millis(200);
/// What they are told changes with every number in it: it is written anew no more often than this.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// More kinds of guests than a fleet usually has.
const MOST_NEEDS: usize = 4096;

/// Guests that are all the same to placement: where one has no room, none has.
type Kind = (String, Group, Arc<Needs>);

/// Masters are placed before workers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    is_worker: bool,
    name: String,
}

impl Candidate {
    fn of(guest: &Guest) -> Self {
        Self { is_worker: guest.spec.role == GuestRole::Worker, name: guest.name_any() }
    }
}

/// Guests of a kind that has no room.
#[derive(Debug, Default)]
struct Waiting {
    guests: BTreeSet<Candidate>,
    /// What they are told, and since when.
    told: Option<(Instant, String)>,
}

pub(super) struct Worker<S> {
    store: Arc<S>,
    events: Events,
    placement: Placement,
    /// Guests of one kind share theirs.
    needs: HashSet<Arc<Needs>>,
    candidates: BTreeSet<Candidate>,
    /// Whose binding could not be written.
    failed: BTreeSet<Candidate>,
    /// Hosts to be looked at anew.
    hosts: BTreeSet<String>,
    /// Guests that are bound, and not told so.
    unsaid: BTreeSet<String>,
    waiting: HashMap<Kind, Waiting>,
    /// Of each guest that waits.
    kinds: HashMap<String, Kind>,
    room_may_have_come: bool,
    last_retry: Option<Instant>,
}

impl<S: Store> Worker<S> {
    pub(super) fn new(store: Arc<S>, events: Events, placement: Placement) -> Self {
        Self {
            store,
            events,
            placement,
            needs: HashSet::new(),
            candidates: BTreeSet::new(),
            failed: BTreeSet::new(),
            hosts: BTreeSet::new(),
            unsaid: BTreeSet::new(),
            waiting: HashMap::new(),
            kinds: HashMap::new(),
            room_may_have_come: false,
            last_retry: None,
        }
    }

    pub(super) async fn run(&mut self) {
        let caches = self.placement.caches.clone();
        // A guest whose binding is not seen would be given another host; the store would refuse it, but why try.
        caches.synced().await;
        let (mut hosts, mut guests, mut clusters) =
            (caches.hosts.changes(), caches.guests.changes(), caches.clusters.changes());
        loop {
            let again = self.look_again();
            tokio::select! {
                change = hosts.next() => self.host_changed(&change),
                change = guests.next() => self.guest_changed(&change),
                change = clusters.next() => self.cluster_changed(&change),
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                    self.candidates.append(&mut self.failed);
                }
            }
            // Everything that is known, before anything is decided.
            while let Some(change) = hosts.try_next() {
                self.host_changed(&change);
            }
            while let Some(change) = clusters.try_next() {
                self.cluster_changed(&change);
            }
            while let Some(change) = guests.try_next() {
                self.guest_changed(&change);
            }
            self.look_at_hosts();
            self.retry();
            self.place().await;
            self.say_bound().await;
        }
    }

    /// When something is to be done though nothing changes.
    fn look_again(&self) -> Option<Instant> {
        let retry = self.last_retry.map_or_else(Instant::now, |last| last + RETRY);
        let waits = self.room_may_have_come && !self.waiting.is_empty();
        let failed = (!self.failed.is_empty()).then(|| Instant::now() + RETRY);
        waits.then_some(retry).into_iter().chain(failed).min()
    }

    fn host_changed(&mut self, change: &Change<Host>) {
        self.hosts.extend(change.both().map(|host| host.name_any()));
    }

    fn cluster_changed(&mut self, change: &Change<Cluster>) {
        let network = |cluster: &Option<Arc<Cluster>>| {
            cluster.as_ref().and_then(|cluster| network(cluster).map(|(cidr, network)| (*cidr, network.vni)))
        };
        if network(&change.old) != network(&change.new) {
            let name = change.both().map(|cluster| cluster.name_any()).next().unwrap_or_default();
            let guests = self.placement.caches.guests.by(GuestBy::Cluster, &name);
            self.candidates.extend(guests.iter().filter(|guest| is_unplaced(guest)).map(|guest| Candidate::of(guest)));
        }
    }

    fn guest_changed(&mut self, change: &Change<Guest>) {
        let Change { old, new } = change;
        if let Some(old) = old
            && new.as_ref().is_none_or(|new| new.metadata.uid != old.metadata.uid)
        {
            self.forget(&old.name_any());
            self.unbind(old);
        }
        let Some(new) = new else { return };
        if let Some(host) = new.spec.host() {
            self.forget(&new.name_any());
            if let Err(problem) = self.bind(new, host.as_str()) {
                warn!(guest = new.name_any(), %problem, "a binding cannot be read");
            }
            let counted = |guest: &Option<Arc<Guest>>| {
                guest.as_ref().is_some_and(|guest| convert::is_counted(guest, host.as_str()))
            };
            if counted(old) != counted(&change.new) {
                self.hosts.insert(host.to_string());
            }
            let is_told = new.status.as_ref().is_some_and(|status| status.conditions.is_true(SCHEDULED));
            if !is_told {
                self.unsaid.insert(new.name_any());
            }
        } else {
            self.unbind(new);
            let is_news = old.as_ref().is_none_or(|old| old.spec != new.spec || old.metadata.uid != new.metadata.uid);
            if !is_unplaced(new) {
                self.forget(&new.name_any());
            } else if is_news {
                self.candidates.insert(Candidate::of(new));
            }
        }
    }

    /// It is not to be placed, or not for now.
    fn forget(&mut self, name: &str) {
        if let Some(kind) = self.kinds.remove(name)
            && let Some(waiting) = self.waiting.get_mut(&kind)
        {
            waiting.guests.retain(|guest| guest.name != name);
            if waiting.guests.is_empty() {
                self.waiting.remove(&kind);
            }
        }
        for is_worker in [false, true] {
            let candidate = Candidate { is_worker, name: name.to_owned() };
            self.candidates.remove(&candidate);
            self.failed.remove(&candidate);
        }
    }

    fn bind(&mut self, guest: &Guest, host: &str) -> Result<(), InvalidValue> {
        let needs = self.shared(convert::needs(guest)?);
        let placed = convert::guest(guest, needs, None)?;
        let host: HostName = host.parse()?;
        let mut fleet = self.fleet();
        let is_bound = fleet.host_of(placed.uid) == Some(&host) && fleet.needs_of(placed.uid) == Some(&placed.needs);
        if !is_bound {
            fleet.bind(&placed, &host);
            drop(fleet);
            self.hosts.insert(host.to_string());
        }
        Ok(())
    }

    fn unbind(&mut self, guest: &Guest) {
        let Some(uid) = convert::uid(guest) else { return };
        let mut fleet = self.fleet();
        let host = fleet.host_of(uid).map(ToString::to_string);
        fleet.unbind(uid);
        drop(fleet);
        if let Some(host) = host {
            self.hosts.insert(host);
            self.room_may_have_come = true;
        }
    }

    fn look_at_hosts(&mut self) {
        for name in std::mem::take(&mut self.hosts) {
            let caches = &self.placement.caches;
            let Some(host) = caches.hosts.get(&name) else {
                if let Ok(name) = name.parse() {
                    self.fleet().remove_host(&name);
                }
                continue;
            };
            match convert::host(&host, &caches.guests.by(GuestBy::Host, &name)) {
                Ok(host) => {
                    let mut fleet = self.fleet();
                    if fleet.host(&host.name) != Some(&host) {
                        fleet.upsert_host(host);
                        drop(fleet);
                        self.room_may_have_come = true;
                    }
                }
                Err(problem) => warn!(host = name, %problem, "a host cannot be placed on"),
            }
        }
    }

    /// Those of the kinds for which there is room now are placed; one of each kind is asked for.
    fn retry(&mut self) {
        let is_due = self.last_retry.is_none_or(|last| last.elapsed() >= RETRY);
        if !self.room_may_have_come || self.waiting.is_empty() || !is_due {
            return;
        }
        self.room_may_have_come = false;
        self.last_retry = Some(Instant::now());
        for waiting in self.waiting.values() {
            // It tells their new situation too, from time to time.
            let is_told_long_ago = waiting.told.as_ref().is_none_or(|(since, _)| since.elapsed() >= TELL_AGAIN);
            let first = waiting.guests.first().and_then(|first| self.read(first));
            let has_room = first.is_some_and(|(_, guest)| matches!(self.fleet().choose(&guest), Decision::Chosen(_)));
            if has_room || is_told_long_ago {
                self.candidates.extend(waiting.guests.iter().cloned());
            }
        }
    }

    /// A guest that is to be placed, where it still is and its cluster has a network.
    fn read(&self, candidate: &Candidate) -> Option<(Arc<Guest>, placement::Guest)> {
        let object = self.placement.caches.guests.get(&candidate.name).filter(|guest| is_unplaced(guest))?;
        let cluster = self.placement.caches.clusters.get(object.spec.cluster.as_str());
        let network = cluster.as_deref().and_then(network);
        if object.spec.network.is_some() && network.is_none() {
            return None;
        }
        let needs =
            convert::needs(&object).map(|needs| self.needs.get(&needs).cloned().unwrap_or_else(|| needs.into()));
        match needs.and_then(|needs| convert::guest(&object, needs, network)) {
            Ok(guest) => Some((object, guest)),
            Err(problem) => {
                warn!(guest = candidate.name, %problem, "a guest cannot be placed");
                None
            }
        }
    }

    fn read_and_share(&mut self, candidate: &Candidate) -> Option<(Arc<Guest>, placement::Guest)> {
        let (object, mut guest) = self.read(candidate)?;
        guest.needs = self.share(guest.needs);
        Some((object, guest))
    }

    fn shared(&mut self, needs: Needs) -> Arc<Needs> {
        match self.needs.get(&needs) {
            Some(shared) => Arc::clone(shared),
            None => self.share(Arc::new(needs)),
        }
    }

    fn share(&mut self, needs: Arc<Needs>) -> Arc<Needs> {
        if self.needs.len() >= MOST_NEEDS {
            self.needs.retain(|needs| Arc::strong_count(needs) > 1);
        }
        if !self.needs.contains(&needs) {
            self.needs.insert(Arc::clone(&needs));
        }
        needs
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.placement.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it waits for a host.
fn is_unplaced(guest: &Guest) -> bool {
    guest.spec.binding.is_none() && guest.metadata.deletion_timestamp.is_none()
}
