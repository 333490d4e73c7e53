//! Hosts: one connection to each one's agent, kept and watched; what the agent tells of itself becomes the Host's status.
//!
//! ```text
//! Host ──► session (dial, list, publish, watch, heartbeat, doctor) ──report──► queue ──► Host.status
//!                     └── Connections: whom the other controllers can ask, and what each agent has
//! ```
//!
//! A host that is silent for a moment stays as it was last seen: agents are upgraded, and an operator that was restarted
//! has heard of nobody yet. After [`Settings::lost_after`] its condition `Reachable` becomes False. Nothing else follows
//! from that: its guests stay bound to it, since nobody can know that they do not run.

mod report;
mod session;
mod strangers;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use goliath_proto::values::GuestUid;
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};
use tokio_util::sync::DropGuard;

use report::Report;
pub use report::condition;
use session::{Session, SharedReport};
use strangers::{Departed, Standing};

use crate::{
    agents::{Agent as _, AgentConnector, AgentError, Connections, Link, Target},
    context::Context,
    objects::{ConditionStatus, Guest, Host, HostStatus, ResourceExt as _},
    runtime::{
        Backoff, Change, Controller, GuestBy, Next, Queue, ReconcileError, Tasks, enqueue,
        events::{EventSubject, Events, Severity},
        run, write,
    },
    store::Store,
};

/// How hosts are kept in touch with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// After a connection ended or could not be made.
    pub dial_again: Backoff,
    /// How many hosts are dialled at one time.
    pub dials: usize,
    /// How often a host is asked for its state, about.
    pub heartbeat: Duration,
    /// How old the heartbeat in a status may become while nothing else changes.
    pub heartbeat_written: Duration,
    /// How often its images are listed.
    pub images: Duration,
    /// How often it is examined.
    pub doctor: Duration,
    /// How long it may be silent before it counts as lost.
    pub lost_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dial_again: Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) },
            dials: 256,
            heartbeat: Duration::from_secs(10),
            heartbeat_written: Duration::from_mins(1),
            images: Duration::from_mins(5),
            doctor: Duration::from_hours(1),
            lost_after: Duration::from_secs(40),
        }
    }
}

/// How many statuses are written at one time: writes that come together share an fsync.
const WORKERS: usize = 32;

/// Begins to keep connections to all hosts, until the tasks are stopped. The caches are to be synced.
pub fn start<S: Store, C: AgentConnector>(
    context: &Context<S, Connections<C::Agent>>,
    connector: Arc<C>,
    settings: Settings,
    tasks: &Tasks,
) {
    let queue = Queue::default();
    let departed = Arc::new(Mutex::new(Departed::default()));
    enqueue(tasks, &context.caches.hosts, &queue, |change: &Change<Host>| {
        change.both().take(1).map(|host| host.name_any()).collect()
    });
    let noted = Arc::clone(&departed);
    enqueue(tasks, &context.caches.guests, &queue, move |change: &Change<Guest>| {
        if let Change { old: Some(old), new: None } = change
            && let Some(uid) = old.metadata.uid.as_ref().and_then(|uid| uid.parse().ok())
        {
            noted.lock().unwrap_or_else(PoisonError::into_inner).note(uid);
        }
        let host = |guest: &Arc<Guest>| guest.spec.host().map(ToString::to_string);
        // A guest that left a host may be a stranger there now.
        let (old, new) = (change.old.as_ref().and_then(host), change.new.as_ref().and_then(host));
        old.filter(|old| new.as_ref() != Some(old)).into_iter().collect()
    });
    let controller = Arc::new(HostController {
        context: context.clone(),
        connector,
        dials: Arc::new(Semaphore::new(settings.dials)),
        settings,
        queue: queue.clone(),
        departed,
        sessions: Mutex::default(),
        tasks: tasks.clone(),
    });
    tasks.spawn("hosts", run(controller, queue, WORKERS, tasks.stop()));
}

struct HostController<S, C: AgentConnector> {
    context: Context<S, Connections<C::Agent>>,
    connector: Arc<C>,
    dials: Arc<Semaphore>,
    settings: Settings,
    queue: Queue<String>,
    departed: Arc<Mutex<Departed>>,
    sessions: Mutex<HashMap<String, Kept>>,
    tasks: Tasks,
}

/// A session that runs; dropped, it ends.
struct Kept {
    target: Target,
    report: SharedReport,
    _stop: DropGuard,
    /// Done once nothing that was asked through it is under way any more.
    ended: oneshot::Receiver<()>,
}

impl<S: Store, C: AgentConnector> Controller for HostController<S, C> {
    type Key = String;
    const NAME: &'static str = "host";

    async fn reconcile(&self, name: &String) -> Result<Next, ReconcileError> {
        let host = self.context.caches.hosts.get(name);
        let Some(host) = host.filter(|host| host.metadata.deletion_timestamp.is_none()) else {
            // Its connection ends with its session.
            drop(self.sessions().remove(name));
            return Ok(Next::Done);
        };
        let report = self.keep(name, &host).map_err(|problem| ReconcileError::Retry(problem.to_string()))?;
        let report = report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let link = self.context.connections.get(name);
        let strangers = match &link {
            Some(link) => self.strangers(&host, link).await,
            None => Vec::new(),
        };
        let now = (Instant::now(), self.context.now());
        let (status, look_again) = report::status(&host, &report, &strangers, &self.settings, now);
        if report::is_worth_writing(host.status.as_ref(), &status, &self.settings) {
            let (before, next) = (host.status.as_ref(), status.clone());
            write::status(&*self.context.store, &*host, |written| *written = status).await?;
            tell_what_changed(&self.context.events, &EventSubject::of(&*host), before, &next);
        }
        Ok(look_again.map_or(Next::Done, Next::After))
    }
}

impl<S: Store, C: AgentConnector> HostController<S, C> {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a session to the host as it is declared now; what is known of it.
    fn keep(&self, name: &str, host: &Host) -> Result<SharedReport, goliath_proto::values::InvalidValue> {
        let target = Target {
            host: name.parse()?,
            address: host.spec.address.clone(),
            server_name: host.spec.server_name.clone(),
        };
        let mut sessions = self.sessions();
        let previous = match sessions.remove(name) {
            Some(kept) if kept.target == target => {
                let report = Arc::clone(&kept.report);
                sessions.insert(name.to_owned(), kept);
                return Ok(report);
            }
            previous => previous.map(|kept| kept.ended),
        };
        let report = Arc::new(Mutex::new(Report::new(Instant::now())));
        let (stop, (done, ended)) = (self.tasks.stop().child_token(), oneshot::channel());
        let (queue, key) = (self.queue.clone(), name.to_owned());
        let session = Session {
            connector: Arc::clone(&self.connector),
            connections: self.context.connections.clone(),
            target: target.clone(),
            report: Arc::clone(&report),
            dials: Arc::clone(&self.dials),
            settings: self.settings,
            news: Box::new(move || queue.push(key.clone())),
        };
        let token = stop.clone();
        self.tasks.spawn("host session", async move {
            if let Some(previous) = previous {
                // It was told to stop; an error says that it has.
                let _ = previous.await;
            }
            session.run(token).await;
            drop(done);
        });
        let kept = Kept { target, report: Arc::clone(&report), _stop: stop.drop_guard(), ended };
        sessions.insert(name.to_owned(), kept);
        Ok(report)
    }

    /// Has what certainly shall not be there deleted, and tells of what perhaps should not.
    async fn strangers(&self, host: &Host, link: &Link<C::Agent>) -> Vec<String> {
        let name = host.name_any();
        let mut told = Vec::new();
        for (uid, held) in link.held() {
            let object = self.context.caches.guests.by(GuestBy::Uid, &uid.to_string()).into_iter().next();
            let was_seen_to_go = self.departed.lock().unwrap_or_else(PoisonError::into_inner).contains(uid);
            match strangers::standing(&name, uid, &held, object.as_deref(), was_seen_to_go) {
                Standing::Ours => {}
                Standing::Unwanted(_) if held.is_deleting() => {}
                Standing::Unwanted(why) => self.delete(&EventSubject::of(host), link, uid, &why).await,
                Standing::Stranger(what) => told.push(what),
            }
        }
        told.sort_unstable();
        told
    }

    async fn delete(&self, about: &EventSubject, link: &Link<C::Agent>, uid: GuestUid, why: &str) {
        let message = match link.call(|agent| async move { agent.delete_guest(uid).await }).await {
            Ok(()) => format!("guest {uid} shall not be here and is deleted: {why}"),
            Err(AgentError::NotFound) => return,
            // The next heartbeat brings it up again.
            Err(error) => {
                let error = error.told();
                format!("guest {uid} shall not be here and is not deleted ({error}): {why}")
            }
        };
        self.context.events.record(about, Severity::Warning, "UnwantedGuest", message);
    }
}

/// What somebody who looks after hosts wants to know.
fn tell_what_changed(events: &Events, about: &EventSubject, before: Option<&HostStatus>, next: &HostStatus) {
    for type_ in [condition::REACHABLE, condition::READY] {
        let was = before.and_then(|before| before.conditions.get(type_)).map(|condition| condition.status);
        let Some(is) = next.conditions.get(type_).filter(|is| Some(is.status) != was) else { continue };
        match is.status {
            ConditionStatus::True => events.record(about, Severity::Normal, type_, "its agent says so"),
            ConditionStatus::False => {
                events.record(
                    about,
                    Severity::Warning,
                    &format!("Not{type_}"),
                    format!("{}: {}", is.reason, is.message),
                );
            }
            ConditionStatus::Unknown => {}
        }
    }
    let boot = before.and_then(|before| before.boot_id.as_ref());
    if boot.is_some() && boot != next.boot_id.as_ref() {
        events.record(about, Severity::Warning, "Restarted", "the machine was restarted");
    }
}
