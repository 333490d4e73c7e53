//! What becomes of candidates: they are bound, or told why not.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt as _, stream};
use goliath_proto::values::GuestUid;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Candidate, Kind, SCHEDULED, TELL_AGAIN, Waiting, Worker, is_unplaced};
use crate::{
    objects::{Binding, ConditionStatus, Guest, ResourceExt as _, whole_seconds},
    placement::{self, Choice, Decision},
    runtime::{
        Chain,
        events::{EventSubject, Severity},
        write,
    },
    store::{ResourceVersion, Store, StoreError},
};

/// Guests that are chosen for and written at once: they share the disk's flushes.
const BATCH: usize = 256;

impl<S: Store> Worker<S> {
    /// Gives each candidate a host, or says why not.
    pub(super) async fn place(&mut self) {
        while !self.candidates.is_empty() {
            let batch: Vec<_> = std::iter::from_fn(|| self.candidates.pop_first()).take(BATCH).collect();
            let mut objects = HashMap::new();
            let mut guests = Vec::new();
            for candidate in &batch {
                self.forget(&candidate.name);
                // The cluster's network comes first: then it is a candidate again.
                if let Some((object, guest)) = self.read_and_share(candidate) {
                    objects.insert(guest.uid, (object, guest.clone()));
                    guests.push(guest);
                }
            }
            let outcomes = self.fleet().place_all(&guests);
            let mut chosen = Vec::new();
            for outcome in outcomes {
                let Some((object, guest)) = objects.remove(&outcome.uid) else { continue };
                match outcome.decision {
                    Decision::Chosen(choice) => chosen.push((object, outcome.uid, choice)),
                    Decision::NoRoom => self.wait(&object, guest),
                    Decision::Bound(host) => debug!(guest = object.name_any(), %host, "is bound already"),
                }
            }
            self.write_bindings(chosen).await;
            self.tell().await;
        }
    }

    /// Whatever cannot be written is taken back, and tried again.
    async fn write_bindings(&mut self, chosen: Vec<(Arc<Guest>, GuestUid, Choice)>) {
        let store = &*self.store;
        let writes = chosen.into_iter().map(|(guest, uid, choice)| async move {
            let written = write_binding(store, &guest, &choice).await;
            (guest, uid, choice, written)
        });
        let outcomes: Vec<_> = stream::iter(writes).buffer_unordered(BATCH).collect().await;
        let mut newest: Option<ResourceVersion> = None;
        for (guest, uid, choice, written) in outcomes {
            let name = guest.name_any();
            match written {
                Ok(version) => {
                    debug!(guest = name, host = %choice.host, score = %choice.score, "bound");
                    newest = newest.max(version);
                    self.hosts.insert(choice.host.to_string());
                }
                Err(error) => {
                    self.fleet().unbind(uid);
                    self.hosts.insert(choice.host.to_string());
                    self.failed.insert(Candidate::of(&guest));
                    if !error.is_conflict() && !error.is_not_found() {
                        warn!(guest = name, error = %Chain(&error), "a binding cannot be written");
                    }
                }
            }
        }
        // What is read from now on says what was written.
        if let Some(newest) = newest {
            self.placement.caches.guests.reached(newest).await;
        }
    }

    fn wait(&mut self, object: &Guest, guest: placement::Guest) {
        let kind = (object.spec.cluster.to_string(), guest.group, guest.needs);
        self.kinds.insert(object.name_any(), kind.clone());
        self.waiting.entry(kind).or_default().guests.insert(Candidate::of(object));
    }

    /// Says why there is no room, to those that were not told.
    async fn tell(&mut self) {
        let mut untold = Vec::new();
        let kinds: Vec<Kind> = self.waiting.keys().cloned().collect();
        for kind in kinds {
            let Some(waiting) = self.waiting.get(&kind) else { continue };
            let is_fresh = waiting.told.as_ref().is_some_and(|(since, _)| since.elapsed() < TELL_AGAIN);
            if !is_fresh {
                let message = waiting.guests.first().and_then(|first| self.read(first)).and_then(|(_, guest)| {
                    let fleet = self.fleet();
                    fleet.explain(&guest).no_room().map(|no_room| no_room.to_string())
                });
                // Room came in between: it will be found.
                let Some(message) = message else { continue };
                if let Some(waiting) = self.waiting.get_mut(&kind) {
                    waiting.told = Some((Instant::now(), message));
                }
            }
            let Some(Waiting { guests, told: Some((_, message)) }) = self.waiting.get(&kind) else { continue };
            for candidate in guests {
                let guest = self.placement.caches.guests.get(&candidate.name);
                let guest = guest.filter(|guest| is_unplaced(guest) && !is_told(guest, message));
                untold.extend(guest.map(|guest| (guest, message.clone())));
            }
        }
        let (store, events) = (&*self.store, &self.events);
        let writes = untold.into_iter().map(|(guest, message)| async move {
            if say(store, &guest, (ConditionStatus::False, "NoRoom", &message)).await {
                events.record(&EventSubject::of(&*guest), Severity::Warning, "NoRoom", message);
            }
        });
        stream::iter(writes).buffer_unordered(BATCH).collect::<()>().await;
    }

    /// Guests that were bound are told so; whoever is not told for a conflict changed, and comes again.
    pub(super) async fn say_bound(&mut self) {
        let caches = &self.placement.caches;
        let guests: Vec<_> =
            std::mem::take(&mut self.unsaid).iter().filter_map(|name| caches.guests.get(name)).collect();
        let (store, events) = (&*self.store, &self.events);
        let writes = guests.into_iter().filter_map(|guest| {
            let Binding { host, reason, .. } = guest.spec.binding.clone()?;
            Some(async move {
                if say(store, &guest, (ConditionStatus::True, "Bound", &reason)).await {
                    let message = format!("host {host}: {reason}");
                    events.record(&EventSubject::of(&*guest), Severity::Normal, "Bound", message);
                }
            })
        });
        stream::iter(writes).buffer_unordered(BATCH).collect::<()>().await;
    }
}

fn is_told(guest: &Guest, message: &str) -> bool {
    let condition = guest.status.as_ref().and_then(|status| status.conditions.get(SCHEDULED));
    condition.is_some_and(|condition| condition.status == ConditionStatus::False && condition.message == message)
}

async fn write_binding<S: Store>(
    store: &S,
    guest: &Guest,
    choice: &Choice,
) -> Result<Option<ResourceVersion>, StoreError> {
    // Both names have the same rules; the store refuses what is no name.
    let Ok(host) = choice.host.as_str().parse() else { return Ok(None) };
    let binding = Binding { host, reason: choice.score.to_string(), time: whole_seconds(Timestamp::now()) };
    let written = write::object(store, guest, |guest| guest.spec.binding = Some(binding)).await?;
    Ok(written.and_then(|written| written.metadata.resource_version?.parse().ok()))
}

/// Whether it was news, and is written.
async fn say<S: Store>(store: &S, guest: &Guest, (status, reason, message): (ConditionStatus, &str, &str)) -> bool {
    let (generation, now) = (guest.metadata.generation, Timestamp::now());
    let written = write::status(store, guest, |written| {
        written.conditions.set(SCHEDULED, status, reason, message, generation, now);
    });
    match written.await {
        Ok(written) => written.is_some(),
        Err(error) => {
            if !error.is_conflict() && !error.is_not_found() {
                warn!(guest = guest.name_any(), error = %Chain(&error), "a condition cannot be written");
            }
            false
        }
    }
}
