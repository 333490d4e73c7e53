//! What happened that people want to see: decisions, refusals, recoveries. Kept in memory, bounded, and in the log.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::objects::{Kind, Object, ResourceExt as _};

#[cfg(test)]
mod tests;

/// Events that are kept where nothing else is said.
const CAPACITY: usize = 16_384;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventSubject {
    /// Of the object.
    pub kind: Kind,
    /// Of the object.
    pub name: String,
    /// Tells apart objects that had the same name one after the other; empty where it is not known.
    pub uid: String,
}

impl EventSubject {
    /// An object as it is.
    pub fn of<T: Object>(object: &T) -> Self {
        Self { kind: T::KIND, name: object.name_any(), uid: object.uid().unwrap_or_default() }
    }
}

impl fmt::Display for EventSubject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Something is in the way.
    Warning,
}

/// What happened, once or again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Grows with everything that is recorded: when it last happened, in the order of all events.
    pub revision: u64,
    /// What it is about.
    pub subject: EventSubject,
    /// Whether somebody should look.
    pub severity: Severity,
    /// One word in CamelCase for programs: `Scheduled`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// How often it happened.
    pub count: u64,
    /// When it happened first.
    pub first_time: Timestamp,
    /// When it happened last.
    pub last_time: Timestamp,
}

/// All events, the oldest first, and from where to watch for what happens after.
#[derive(Debug, Clone)]
pub struct EventList {
    /// By revision.
    pub events: Vec<Arc<Event>>,
    /// Watch from here.
    pub revision: u64,
}

/// The events after this revision are not all remembered: list, and watch from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the events after revision {0} are not all remembered: list them and watch from there")]
pub struct Forgotten(pub u64);

/// The events of this life of the operator, a bounded number of them. Clones are the same.
///
/// What happens again is counted and becomes the newest; so a fault that lasts takes one place, and whoever watches is
/// told of it anew.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The newest revision.
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    capacity: usize,
    newest: u64,
    /// Everything after it is remembered.
    forgotten: u64,
    by_revision: BTreeMap<u64, Arc<Event>>,
    /// Where what happens again stands.
    alike: HashMap<Identity, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    subject: EventSubject,
    severity: Severity,
    reason: String,
    message: String,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Events {
    /// None yet; so many are remembered.
    pub fn new(capacity: usize) -> Self {
        // A revision of an earlier life is older than all of this one.
        let start = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        let ring = Ring {
            capacity: capacity.max(1),
            newest: start,
            forgotten: start,
            by_revision: BTreeMap::new(),
            alike: HashMap::new(),
        };
        Self(Arc::new(Shared { ring: Mutex::new(ring), newest: watch::Sender::new(start) }))
    }

    /// Something happened now.
    pub fn record(&self, about: &EventSubject, severity: Severity, reason: &str, message: impl Into<String>) {
        let message = message.into();
        match severity {
            Severity::Normal => info!(%about, reason, "{message}"),
            Severity::Warning => warn!(%about, reason, "{message}"),
        }
        let identity = Identity { subject: about.clone(), severity, reason: reason.to_owned(), message };
        let newest = self.ring().record(identity, Timestamp::now());
        // Two that record at once may get here in any order.
        self.0.newest.send_if_modified(|known| {
            let grows = newest > *known;
            *known = newest.max(*known);
            grows
        });
    }

    /// Those that a filter takes.
    pub fn list(&self, filter: impl Fn(&Event) -> bool) -> EventList {
        let ring = self.ring();
        EventList {
            events: ring.by_revision.values().filter(|event| filter(event)).cloned().collect(),
            revision: ring.newest,
        }
    }

    /// What happens after a revision that a list or a watch gave.
    pub fn watch(&self, after: u64) -> EventWatch {
        EventWatch { events: self.clone(), position: after, newest: self.0.newest.subscribe() }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn record(&mut self, identity: Identity, now: Timestamp) -> u64 {
        self.newest += 1;
        let earlier =
            self.alike.insert(identity.clone(), self.newest).and_then(|revision| self.by_revision.remove(&revision));
        let Identity { subject, severity, reason, message } = identity;
        let event = Event {
            revision: self.newest,
            subject,
            severity,
            reason,
            message,
            count: earlier.as_ref().map_or(1, |earlier| earlier.count + 1),
            first_time: earlier.map_or(now, |earlier| earlier.first_time),
            last_time: now,
        };
        self.by_revision.insert(self.newest, Arc::new(event));
        while self.by_revision.len() > self.capacity {
            let Some((revision, oldest)) = self.by_revision.pop_first() else { break };
            self.forgotten = revision;
            let Event { subject, severity, reason, message, .. } = (*oldest).clone();
            self.alike.remove(&Identity { subject, severity, reason, message });
        }
        self.newest
    }

    fn after(&self, position: u64, most: usize) -> Result<Vec<Arc<Event>>, Forgotten> {
        // A revision that is still to come is of another operator, or of this machine before its clock was set back.
        if position < self.forgotten || position > self.newest {
            return Err(Forgotten(position));
        }
        Ok(self.by_revision.range(position + 1..).take(most).map(|(_, event)| Arc::clone(event)).collect())
    }
}

/// How many events a watch takes at once.
const BATCH: usize = 64;

/// Events as they happen. Whoever reads slowly is told of what happened often once; nothing waits for it.
#[derive(Debug)]
pub struct EventWatch {
    events: Events,
    position: u64,
    newest: watch::Receiver<u64>,
}

impl EventWatch {
    /// Waits for the next ones, by revision; a few at a time. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Forgotten> {
        loop {
            // Marked as seen before the ring is read, so that nothing falls between the two.
            self.newest.borrow_and_update();
            let events = self.events.ring().after(self.position, BATCH)?;
            if let Some(last) = events.last() {
                self.position = last.revision;
                return Ok(events);
            }
            // The sender lives as long as these events.
            let _ = self.newest.changed().await;
        }
    }
}
