//! What a guest's status says: what its agent saw, and what the operator knows beside that. Pure.

use std::time::Duration;

use goliath_proto::agent::v1 as pb;
use jiff::Timestamp;

use super::decide::Reach;
use crate::{
    agents::{HeldGuest, convert::guest_status},
    objects::{Condition, ConditionStatus, Conditions, Guest, GuestStatus, HostName},
};

/// Conditions that are the operator's own; the others are the agent's.
pub mod condition {
    /// A host was chosen; written by placement.
    pub const SCHEDULED: &str = "Scheduled";
    /// The agent has the guest as its object says.
    pub const APPLIED: &str = "Applied";
    /// The host's agent answers.
    pub const HOST_REACHABLE: &str = "HostReachable";
    /// What the guest is for can be done.
    pub const READY: &str = "Ready";
    /// It shall go; what that waits for.
    pub const DELETING: &str = "Deleting";
}
use condition::{APPLIED, DELETING, HOST_REACHABLE, READY, SCHEDULED};

/// Told by the agent.
const RUNNING: &str = "Running";
const BOOTED: &str = "Booted";

/// An image that does not say when it has booted counts as booted after this time.
const BOOT_LIMIT: Duration = Duration::from_mins(5);

/// What became of the last word to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// None was needed.
    None,
    /// The agent has this generation, but its watch did not tell yet.
    Applied,
    /// The agent will not, or the guest cannot be told to it: reason and message.
    Refused(&'static str, String),
    /// The agent was asked to delete it.
    Deleting,
    /// Asking failed for now: reason and message.
    Failed(&'static str, String),
}

/// What the operator knows of the guest's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostView {
    /// None was chosen.
    None,
    /// No object says so: it was deleted without being forgotten.
    Missing(HostName),
    /// Its agent was not heard for long.
    Lost(HostName),
    /// There is nothing to say against it.
    Fine(HostName),
}

/// What is known of a guest now.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    pub(super) guest: &'a Guest,
    pub(super) host: HostView,
    pub(super) reach: Reach<'a>,
    pub(super) word: Word,
    pub(super) now: Timestamp,
}

/// The status, and after how long it may say something else though nothing happens.
pub(super) fn status(view: &View<'_>) -> (GuestStatus, Option<Duration>) {
    let before = view.guest.status.clone().unwrap_or_default();
    let mut next = match (&view.host, view.reach) {
        (HostView::Missing(host) | HostView::Lost(host) | HostView::Fine(host), Reach::Connected(Some(held))) => {
            let mut next = guest_status(host, &held.status);
            let told = next.conditions.iter().filter(|condition| !is_own(condition));
            next.conditions =
                before.conditions.iter().filter(|condition| is_own(condition)).chain(told).cloned().collect();
            next
        }
        // As it was last seen.
        (HostView::Missing(_) | HostView::Lost(_) | HostView::Fine(_), Reach::Silent) => before.clone(),
        // It was there, perhaps, and is not any more.
        (HostView::None, _) | (_, Reach::Connected(None) | Reach::Unbound) => nothing_seen(&before),
    };
    let mut set = |conditions: &mut Conditions, type_: &str, status, reason: &str, message: String| {
        conditions.set(type_, status, reason, message, view.guest.metadata.generation, view.now);
    };
    let conditions = &mut next.conditions;
    match &view.host {
        HostView::None => {
            for type_ in [APPLIED, HOST_REACHABLE, READY] {
                conditions.remove(type_);
            }
            return (next, None);
        }
        HostView::Missing(host) => {
            let message = format!("there is no Host {host}: add it again, or forget it to free its guests");
            set(conditions, HOST_REACHABLE, ConditionStatus::False, "NoHost", message);
        }
        HostView::Lost(host) => {
            let message = format!("{host} does not answer; what it ran may run on");
            set(conditions, HOST_REACHABLE, ConditionStatus::False, "HostLost", message);
        }
        HostView::Fine(_) if view.reach.is_connected() => {
            set(conditions, HOST_REACHABLE, ConditionStatus::True, "Connected", String::new());
        }
        HostView::Fine(_) => {}
    }
    applied(view, conditions, &mut set);
    if view.guest.metadata.deletion_timestamp.is_some() {
        let (reason, message) = deleting(view);
        set(conditions, DELETING, ConditionStatus::True, reason, message);
    } else if view.reach.held().is_some_and(HeldGuest::is_deleting) {
        let message = "somebody deleted it at its agent: when it is gone there, it is made anew".to_owned();
        set(conditions, DELETING, ConditionStatus::True, "DeletedAtAgent", message);
    } else {
        conditions.remove(DELETING);
    }
    let started = next.process.as_ref().map(|process| process.started_at.0);
    let Readiness { status, reason, message, again } = readiness(view, conditions, started);
    set(conditions, READY, status, reason, message);
    (next, again)
}

fn is_own(condition: &Condition) -> bool {
    [SCHEDULED, APPLIED, HOST_REACHABLE, READY, DELETING].contains(&condition.type_.as_str())
}

/// Without all that an agent told.
fn nothing_seen(before: &GuestStatus) -> GuestStatus {
    GuestStatus {
        conditions: before.conditions.iter().filter(|condition| is_own(condition)).cloned().collect(),
        ..GuestStatus::default()
    }
}

fn applied(
    view: &View<'_>,
    conditions: &mut Conditions,
    set: &mut impl FnMut(&mut Conditions, &str, ConditionStatus, &str, String),
) {
    let wanted =
        view.guest.metadata.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default();
    match (&view.word, view.reach.held()) {
        (Word::Refused(reason, message) | Word::Failed(reason, message), _) => {
            set(conditions, APPLIED, ConditionStatus::False, reason, message.clone());
        }
        (Word::Applied, _) => set(conditions, APPLIED, ConditionStatus::True, "Applied", String::new()),
        (_, Some(held)) if held.generation == wanted => {
            set(conditions, APPLIED, ConditionStatus::True, "Applied", String::new());
        }
        (_, Some(held)) if held.generation > wanted => {
            let message = format!(
                "the agent has generation {}, and this object is at {wanted}: was the store restored from a copy?",
                held.generation
            );
            set(conditions, APPLIED, ConditionStatus::False, "NewerGenerationHeld", message);
        }
        // Not asked now: as it was.
        _ => {}
    }
}

fn deleting(view: &View<'_>) -> (&'static str, String) {
    match (&view.host, &view.word) {
        (HostView::Missing(host) | HostView::Lost(host), _) => {
            ("WaitsForHost", format!("only {host} can say that the guest is gone: bring it back, or forget it"))
        }
        (HostView::Fine(host), _) if !view.reach.is_connected() => {
            ("WaitsForHost", format!("the agent of {host} does not answer"))
        }
        (HostView::Fine(_), Word::Failed(_, message)) => ("AgentFailed", message.clone()),
        (HostView::Fine(host), _) => ("Stopping", format!("{host} stops and removes it")),
        (HostView::None, _) => ("Stopping", String::new()),
    }
}

struct Readiness {
    status: ConditionStatus,
    reason: &'static str,
    message: String,
    again: Option<Duration>,
}

impl Readiness {
    fn is(status: ConditionStatus, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), again: None }
    }
}

/// Whether the guest is ready: as its agent says; where it leaves that to the operator, when it runs and has booted.
fn readiness(view: &View<'_>, conditions: &Conditions, started: Option<Timestamp>) -> Readiness {
    use ConditionStatus::{False, True, Unknown};
    match &view.host {
        HostView::Missing(host) | HostView::Lost(host) => {
            return Readiness::is(Unknown, "HostLost", format!("nobody knows while {host} does not answer"));
        }
        HostView::None | HostView::Fine(_) => {}
    }
    let told = view.reach.held().and_then(|held| held.status.conditions.iter().find(|told| told.r#type == READY));
    match told.map(pb::Condition::status) {
        Some(pb::ConditionStatus::True) => return Readiness::is(True, "AgentSaidSo", told_message(told)),
        Some(pb::ConditionStatus::False) => return Readiness::is(False, "AgentSaidSo", told_message(told)),
        _ => {}
    }
    match conditions.get(RUNNING) {
        Some(running) if running.status == True => {}
        Some(running) => return Readiness::is(running.status, "NotRunning", running.message.clone()),
        None => return Readiness::is(False, "NotRunning", "no QEMU was seen yet"),
    }
    match conditions.get(BOOTED) {
        Some(booted) if booted.status == True => return Readiness::is(True, "Booted", ""),
        Some(booted) if booted.status == False => return Readiness::is(False, "NotBooted", booted.message.clone()),
        _ => {}
    }
    let runs = started.map(|started| view.now.duration_since(started).unsigned_abs()).unwrap_or_default();
    match BOOT_LIMIT.checked_sub(runs).filter(|left| !left.is_zero()) {
        Some(left) => {
            let waits = Readiness::is(False, "NotBooted", "it runs, and did not say yet that it has booted");
            Readiness { again: Some(left), ..waits }
        }
        None => {
            let message =
                format!("it runs for {} minutes; it never said that it has booted", BOOT_LIMIT.as_secs() / 60);
            Readiness::is(True, "RunsUnreported", message)
        }
    }
}

fn told_message(told: Option<&pb::Condition>) -> String {
    told.map(|told| told.message.clone()).unwrap_or_default()
}
