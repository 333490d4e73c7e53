//! Guests: each is told to the agent of the host that it is bound to, and what the agent sees becomes the Guest's status.
//!
//! One uid, one host: an agent hears of a guest only after its binding is written, and a guest that goes stays bound, by
//! its finalizer, until its agent says that it has no such guest. Where the agent cannot be asked everything stays as it
//! is; only `host forget`, which takes bindings away, ends that.

mod decide;
mod status;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use goliath_proto::{agent::v1::ApplyOutcome, values::GuestUid};
use tracing::debug;

use decide::{Reach, Step, decide};
pub use status::condition;
use status::{HostView, View, Word};

use super::host::condition::REACHABLE;
use crate::{
    agents::{
        Agent, AgentError, Connections, Heard, HeldGuest, Link,
        convert::{GuestIdentity, guest_spec},
    },
    context::Context,
    controllers::finalizer,
    objects::{ConditionStatus, Guest, Host, ResourceExt as _},
    runtime::{
        Change, Controller, GuestBy, Next, Queue, ReconcileError, Tasks, enqueue,
        events::{EventSubject, Severity},
        run, write,
    },
    store::{Store, StoreError},
};

/// How many guests are looked at at one time: their writes share an fsync, and an agent that is slow holds up its own.
const WORKERS: usize = 64;
/// Before an agent that refused is asked again: something may have changed there.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Before a deletion that the watch did not tell the end of is asked for again.
const DELETE_AGAIN: Duration = Duration::from_secs(30);

/// Begins to look after all guests, until the tasks are stopped. The caches are to be synced.
pub fn start<S: Store, A: Agent>(context: &Context<S, Connections<A>>, tasks: &Tasks) {
    let queue = Queue::default();
    enqueue(tasks, &context.caches.guests, &queue, |change: &Change<Guest>| {
        let name = |guest: &Arc<Guest>| guest.name_any();
        match (&change.old, &change.new) {
            // Statuses are this controller's own, or of no concern to it.
            (Some(old), Some(new)) if is_asked_the_same(old, new) => Vec::new(),
            (_, new) => new.iter().map(name).collect(),
        }
    });
    let guests = context.caches.guests.clone();
    enqueue(tasks, &context.caches.hosts, &queue, move |change: &Change<Host>| {
        let is_same = change.old.as_deref().map(is_lost) == change.new.as_deref().map(is_lost);
        let host = change.both().next().filter(|_| !is_same).map(|host| host.name_any());
        let bound = host.map(|host| guests.by(GuestBy::Host, &host)).unwrap_or_default();
        bound.iter().map(|guest| guest.name_any()).collect()
    });
    let (guests, heard) = (context.caches.guests.clone(), queue.clone());
    context.connections.listen(move |event| {
        let concerned = match event {
            Heard::Connected(host) => guests.by(GuestBy::Host, host.as_str()),
            Heard::Guest(_, uid) => guests.by(GuestBy::Uid, &uid.to_string()),
            Heard::Lost(_) => Vec::new(),
        };
        for guest in concerned {
            heard.push(guest.name_any());
        }
    });
    let controller = Arc::new(GuestController { context: context.clone() });
    tasks.spawn("guests", run(controller, queue, WORKERS, tasks.stop()));
}

fn is_asked_the_same(old: &Guest, new: &Guest) -> bool {
    let asked = |guest: &Guest| {
        let metadata = &guest.metadata;
        (metadata.uid.clone(), metadata.generation, metadata.deletion_timestamp.clone(), metadata.finalizers.clone())
    };
    asked(old) == asked(new)
}

fn is_lost(host: &Host) -> bool {
    let reachable = host.status.as_ref().and_then(|status| status.conditions.get(REACHABLE));
    reachable.is_some_and(|reachable| reachable.status == ConditionStatus::False)
}

struct GuestController<S, A> {
    context: Context<S, Connections<A>>,
}

impl<S: Store, A: Agent> Controller for GuestController<S, A> {
    type Key = String;
    const NAME: &'static str = "guest";

    async fn reconcile(&self, name: &String) -> Result<Next, ReconcileError> {
        let Some(guest) = self.context.caches.guests.get(name) else { return Ok(Next::Done) };
        let GuestIdentity { uid, .. } =
            GuestIdentity::of(&guest).map_err(|problem| ReconcileError::Retry(problem.to_string()))?;
        let host = guest.spec.host().map(AsRef::as_ref);
        let link = host.and_then(|host: &str| self.context.connections.get(host));
        let held = link.as_ref().map(|link| link.guest(uid));
        let word = match (decide(&guest, reach(host, held.as_ref())), &link) {
            (Step::AddFinalizer, _) => {
                write::add_finalizer(&*self.context.store, &*guest, finalizer::GUEST).await?;
                return Ok(Next::Done);
            }
            (Step::LetGo, _) => return self.let_go(&guest).await,
            (Step::Apply, Some(link)) => self.apply(&guest, link).await,
            (Step::Delete, Some(link)) => match self.delete(&guest, uid, link).await {
                Some(word) => word,
                None => return self.let_go(&guest).await,
            },
            (Step::Nothing | Step::Apply | Step::Delete, _) => Word::None,
        };
        let after = match &word {
            Word::Refused(..) | Word::Failed(..) => Some(ASK_AGAIN),
            Word::Deleting => Some(DELETE_AGAIN),
            Word::None | Word::Applied => None,
        };
        let held = link.as_ref().map(|link| link.guest(uid));
        let again = self.write_status(&guest, reach(host, held.as_ref()), word).await?;
        Ok(after.into_iter().chain(again).min().map_or(Next::Done, Next::After))
    }
}

fn reach<'a>(host: Option<&str>, held: Option<&'a Option<Arc<HeldGuest>>>) -> Reach<'a> {
    match (host, held) {
        (None, _) => Reach::Unbound,
        (Some(_), None) => Reach::Silent,
        (Some(_), Some(held)) => Reach::Connected(held.as_deref()),
    }
}

impl<S: Store, A: Agent> GuestController<S, A> {
    async fn let_go(&self, guest: &Guest) -> Result<Next, ReconcileError> {
        match write::remove_finalizer(&*self.context.store, guest, finalizer::GUEST).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let message = match guest.spec.host() {
            Some(host) => format!("{host} says that it is gone there"),
            None => "no host has it".to_owned(),
        };
        self.context.events.record(&EventSubject::of(guest), Severity::Normal, "Gone", message);
        Ok(Next::Done)
    }

    async fn write_status(
        &self,
        guest: &Guest,
        reach: Reach<'_>,
        word: Word,
    ) -> Result<Option<Duration>, ReconcileError> {
        let host = match guest.spec.host() {
            None => HostView::None,
            Some(host) => match self.context.caches.hosts.get(host.as_ref()) {
                None => HostView::Missing(host.clone()),
                Some(object) if object.metadata.deletion_timestamp.is_some() => HostView::Missing(host.clone()),
                // Where it answers, its Host will say so in a moment.
                Some(object) if !reach.is_connected() && is_lost(&object) => HostView::Lost(host.clone()),
                Some(_) => HostView::Fine(host.clone()),
            },
        };
        let view = View { guest, host, reach, word, now: self.context.now() };
        let (status, again) = status::status(&view);
        write::status(&*self.context.store, guest, |written| *written = status).await?;
        Ok(again)
    }

    async fn apply(&self, guest: &Guest, link: &Link<A>) -> Word {
        let (about, host) = (EventSubject::of(guest), link.host());
        let events = &self.context.events;
        let spec = match guest_spec(guest) {
            Ok(spec) => spec,
            Err(problem) => return Word::Refused("Untellable", problem.to_string()),
        };
        match link.call(|agent| async move { agent.apply_guest(spec).await }).await {
            Ok(answer) => {
                let message = match answer.outcome() {
                    ApplyOutcome::Updated if answer.restart_required_by.is_empty() => {
                        Some(("Changed", format!("{host} has the change")))
                    }
                    ApplyOutcome::Updated => {
                        let fields = answer.restart_required_by.join(", ");
                        Some(("Changed", format!("{host} has the change, which needs a restart: {fields}")))
                    }
                    ApplyOutcome::Created => Some(("Told", format!("{host} has the guest and starts it"))),
                    ApplyOutcome::Unchanged | ApplyOutcome::Unspecified => None,
                };
                if let Some((reason, message)) = message {
                    events.record(&about, Severity::Normal, reason, message);
                }
                if let Some(guest) = answer.guest {
                    link.answered(guest);
                }
                Word::Applied
            }
            // The next connection brings it up again.
            Err(error) if error.ends_connection() => {
                debug!(guest = about.name, %host, error = error.told(), "the agent was not told, perhaps");
                Word::None
            }
            Err(AgentError::Refused(refusal)) => {
                let message = format!("{host}: {refusal}");
                events.record(&about, Severity::Warning, refusal.kind.reason(), message.as_str());
                Word::Refused(refusal.kind.reason(), message)
            }
            Err(error) => Word::Failed(error.reason(), format!("{host}: {}", error.told())),
        }
    }

    /// None: the agent has no such guest.
    async fn delete(&self, guest: &Guest, uid: GuestUid, link: &Link<A>) -> Option<Word> {
        let (about, host) = (EventSubject::of(guest), link.host());
        match link.call(|agent| async move { agent.delete_guest(uid).await }).await {
            Err(AgentError::NotFound) => None,
            Ok(()) => {
                debug!(guest = about.name, %host, "the agent removes the guest");
                Some(Word::Deleting)
            }
            Err(error) if error.ends_connection() => Some(Word::None),
            Err(error) => {
                let message = format!("{host} does not delete it: {}", error.told());
                self.context.events.record(&about, Severity::Warning, error.reason(), message.as_str());
                Some(Word::Failed(error.reason(), message))
            }
        }
    }
}
