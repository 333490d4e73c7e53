//! What a guest's status says: what its agent saw, and what the operator knows beside that. Pure.

use std::time::Duration;

use goliath_proto::agent::v1 as pb;
use jiff::Timestamp;

use super::decide::Reach;
use crate::{
    agents::{HeldGuest, convert::guest_status},
    controllers::own_first,
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
    next.conditions = own_first(&next.conditions, &OWN);
    (next, again)
}

const OWN: [&str; 5] = [SCHEDULED, APPLIED, HOST_REACHABLE, READY, DELETING];

fn is_own(condition: &Condition) -> bool {
    OWN.contains(&condition.type_.as_str())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controllers::tests::guest,
        objects::{Time, whole_seconds},
    };

    const BEGIN: i64 = 1_700_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(BEGIN + second).unwrap()
    }

    fn told(type_: &str, status: pb::ConditionStatus) -> pb::Condition {
        pb::Condition {
            r#type: type_.to_owned(),
            status: status.into(),
            reason: "Seen".to_owned(),
            message: format!("{type_} was seen"),
            last_transition_time: Some(prost_types::Timestamp { seconds: BEGIN, nanos: 0 }),
        }
    }

    /// What an agent has, at the object's generation, with a QEMU since the beginning.
    fn held(conditions: Vec<pb::Condition>) -> HeldGuest {
        let process = pb::Process {
            pid: 7,
            started_at: Some(prost_types::Timestamp { seconds: BEGIN, nanos: 0 }),
            accelerator: pb::Accelerator::Kvm.into(),
            qemu_version: "10.0.2".to_owned(),
        };
        HeldGuest {
            revision: 1,
            generation: 2,
            name: None,
            cluster: "acme".to_owned(),
            status: pb::GuestStatus {
                phase: pb::GuestPhase::Running.into(),
                conditions,
                process: Some(process),
                ..pb::GuestStatus::default()
            },
        }
    }

    fn fine() -> HostView {
        HostView::Fine("host-a".parse().unwrap())
    }

    fn lost() -> HostView {
        HostView::Lost("host-a".parse().unwrap())
    }

    fn look(
        guest: &Guest,
        host: HostView,
        reach: Reach<'_>,
        word: Word,
        second: i64,
    ) -> (GuestStatus, Option<Duration>) {
        status(&View { guest, host, reach, word, now: at(second) })
    }

    fn said(status: &GuestStatus, type_: &str) -> Option<(ConditionStatus, String)> {
        status.conditions.get(type_).map(|condition| (condition.status, condition.reason.clone()))
    }

    #[test]
    fn a_guest_is_ready_when_it_runs_and_has_booted_or_had_long_enough() {
        use pb::ConditionStatus::{False, True, Unknown};
        let guest = guest("acme.default-0", Some("host-a"));
        let rows = [
            (vec![], 10, (ConditionStatus::False, "NotRunning"), None),
            (vec![told("Running", False)], 10, (ConditionStatus::False, "NotRunning"), None),
            (vec![told("Running", Unknown)], 10, (ConditionStatus::Unknown, "NotRunning"), None),
            (vec![told("Running", True)], 10, (ConditionStatus::False, "NotBooted"), Some(290)),
            (vec![told("Running", True)], 300, (ConditionStatus::True, "RunsUnreported"), None),
            (vec![told("Running", True), told("Booted", True)], 10, (ConditionStatus::True, "Booted"), None),
            (vec![told("Running", True), told("Booted", False)], 900, (ConditionStatus::False, "NotBooted"), None),
            (vec![told("Running", True), told("Ready", False)], 900, (ConditionStatus::False, "AgentSaidSo"), None),
        ];
        for (row, (conditions, second, (ready, reason), again)) in rows.into_iter().enumerate() {
            let held = held(conditions);
            let (status, look_again) = look(&guest, fine(), Reach::Connected(Some(&held)), Word::None, second);
            assert_eq!(said(&status, READY), Some((ready, reason.to_owned())), "row {row}");
            assert_eq!(look_again, again.map(Duration::from_secs), "row {row}");
        }
    }

    #[test]
    fn what_was_seen_stays_while_the_agent_is_silent_and_is_not_said_again() {
        let mut guest = guest("acme.default-0", Some("host-a"));
        let held = held(vec![told("Running", pb::ConditionStatus::True), told("Booted", pb::ConditionStatus::True)]);
        guest.status = Some(look(&guest, fine(), Reach::Connected(Some(&held)), Word::Applied, 10).0);
        let again = |host, reach| look(&guest, host, reach, Word::None, 99).0;
        let before = guest.status.clone().unwrap();
        assert_eq!(again(fine(), Reach::Connected(Some(&held))), before, "nothing is written twice");
        assert_eq!(again(fine(), Reach::Silent), before, "a moment is no loss");

        let status = again(lost(), Reach::Silent);
        assert_eq!((status.phase, &status.process), (before.phase, &before.process));
        assert_eq!(said(&status, HOST_REACHABLE), Some((ConditionStatus::False, "HostLost".to_owned())));
        assert_eq!(said(&status, READY), Some((ConditionStatus::Unknown, "HostLost".to_owned())));

        let status = again(fine(), Reach::Connected(None));
        assert_eq!((status.phase, status.process), (None, None), "the agent says that it has no such guest");
        let status = again(HostView::None, Reach::Unbound);
        assert_eq!(status, GuestStatus::default(), "its host was forgotten");
    }

    #[test]
    fn what_placement_says_is_kept() {
        let mut guest = guest("acme.default-0", Some("host-a"));
        let status = guest.status.get_or_insert_default();
        status.conditions.set(SCHEDULED, ConditionStatus::True, "Chosen", "", None, at(0));
        for reach in [Reach::Silent, Reach::Connected(None), Reach::Connected(Some(&held(Vec::new())))] {
            let (status, _) = look(&guest, fine(), reach, Word::None, 10);
            assert_eq!(said(&status, SCHEDULED), Some((ConditionStatus::True, "Chosen".to_owned())), "{reach:?}");
        }
    }

    #[test]
    fn a_refusal_is_told_until_it_holds_no_more() {
        let mut guest = guest("acme.default-0", Some("host-a"));
        let refused = Word::Refused("HostFull", "host-a: memory is short".to_owned());
        guest.status = Some(look(&guest, fine(), Reach::Connected(None), refused, 10).0);
        let applied = |status: &GuestStatus| said(status, APPLIED);
        assert_eq!(applied(guest.status.as_ref().unwrap()), Some((ConditionStatus::False, "HostFull".to_owned())));
        let silent = look(&guest, fine(), Reach::Silent, Word::None, 20).0;
        assert_eq!(applied(&silent), Some((ConditionStatus::False, "HostFull".to_owned())));
        let taken = look(&guest, fine(), Reach::Connected(Some(&held(Vec::new()))), Word::None, 20).0;
        assert_eq!(applied(&taken), Some((ConditionStatus::True, "Applied".to_owned())));
        let newer = HeldGuest { generation: 3, ..held(Vec::new()) };
        let newer = look(&guest, fine(), Reach::Connected(Some(&newer)), Word::None, 20).0;
        assert_eq!(applied(&newer), Some((ConditionStatus::False, "NewerGenerationHeld".to_owned())));
    }

    #[test]
    fn a_guest_that_goes_says_on_what_it_waits() {
        let mut guest = guest("acme.default-0", Some("host-a"));
        let now: Time = whole_seconds(at(0));
        guest.metadata.deletion_timestamp = Some(now);
        let held = held(Vec::new());
        let missing = HostView::Missing("host-a".parse().unwrap());
        let failed = Word::Failed("AgentFailed", "host-a does not delete it: disk".to_owned());
        let rows = [
            (
                lost(),
                Reach::Silent,
                Word::None,
                "only host-a can say that the guest is gone: bring it back, or forget it",
            ),
            (
                missing,
                Reach::Silent,
                Word::None,
                "only host-a can say that the guest is gone: bring it back, or forget it",
            ),
            (fine(), Reach::Silent, Word::None, "the agent of host-a does not answer"),
            (fine(), Reach::Connected(Some(&held)), Word::Deleting, "host-a stops and removes it"),
            (fine(), Reach::Connected(Some(&held)), failed, "host-a does not delete it: disk"),
        ];
        for (host, reach, word, message) in rows {
            let (status, _) = look(&guest, host, reach, word, 10);
            assert_eq!(status.conditions.get(DELETING).unwrap().message, message);
        }
    }
}
