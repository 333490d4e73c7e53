//! What is known of a host, and what of that its status says. Pure.

use std::{sync::Arc, time::Duration};

use goliath_proto::agent::v1 as pb;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Settings;
use crate::{
    agents::{AgentError, convert::host_status},
    controllers::own_first,
    objects::{ConditionStatus, Conditions, Host, HostStatus, whole_seconds},
};

/// Conditions that are the operator's own; the others are the agent's.
pub mod condition {
    /// Its agent answers.
    pub const REACHABLE: &str = "Reachable";
    /// It runs guests: its agent answers and nothing that guests need is missing.
    pub const READY: &str = "Ready";
    /// What guests will need was tried, and works.
    pub const DOCTOR: &str = "DoctorPassed";
    /// Guests are there that nobody asked for.
    pub const STRANGERS: &str = "Strangers";
}
use condition::{DOCTOR, REACHABLE, READY, STRANGERS};

/// What guests need of a host, as its agent tells it.
const NEEDED: [&str; 2] = ["AcceleratorReady", "LedgerReadable"];

/// Whether the agent can be asked.
#[derive(Debug, Clone)]
pub(super) enum Contact {
    /// It can.
    Connected,
    /// It cannot since then.
    Silent {
        /// Of this life of the operator.
        since: Instant,
        /// Of the last try; none: none has failed yet.
        error: Option<AgentError>,
    },
}

/// What is known of a host.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) contact: Contact,
    /// When it last answered.
    pub(super) heard: Option<Timestamp>,
    /// What it told then.
    pub(super) told: Option<Arc<pb::Host>>,
    pub(super) images: Arc<[pb::Image]>,
    /// What the doctor found last; none: not examined yet.
    pub(super) checks: Option<Arc<[pb::DoctorCheck]>>,
}

impl Report {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            contact: Contact::Silent { since: now, error: None },
            heard: None,
            told: None,
            images: Arc::default(),
            checks: None,
        }
    }

    /// It could not be asked, or not any more.
    pub(super) fn failed(&mut self, error: AgentError, now: Instant) {
        let since = match self.contact {
            Contact::Silent { since, .. } => since,
            Contact::Connected => now,
        };
        self.contact = Contact::Silent { since, error: Some(error) };
    }

    /// It told of itself.
    pub(super) fn told(&mut self, host: pb::Host, now: Timestamp) {
        self.heard = Some(now);
        self.told = Some(Arc::new(host));
    }
}

/// What the host's status shall say, and after how long to look again whatever happens. `strangers` tells of the guests
/// that are there without an object that says so.
pub(super) fn status(
    host: &Host,
    report: &Report,
    strangers: &[String],
    settings: &Settings,
    (now, time): (Instant, Timestamp),
) -> (HostStatus, Option<Duration>) {
    let before = host.status.clone().unwrap_or_default();
    let generation = host.metadata.generation;
    let mut next = match &report.told {
        Some(told) => {
            let mut next = host_status(told, &report.images);
            // First the operator's own, with their times; then the agent's.
            let own = before.conditions.iter().filter(|condition| OWN.contains(&condition.type_.as_str()));
            let told = next.conditions.iter().filter(|condition| !OWN.contains(&condition.type_.as_str()));
            next.conditions = own.chain(told).cloned().collect();
            next.heartbeat_time = report.heard.map(whole_seconds);
            next
        }
        None => before.clone(),
    };
    next.observed_generation = generation;
    let mut look_again = None;
    match &report.contact {
        Contact::Connected => {
            set(&mut next.conditions, REACHABLE, (ConditionStatus::True, "Connected", String::new()), generation, time);
        }
        Contact::Silent { since, error } => {
            match silence(&before, now.duration_since(*since), error.as_ref(), settings) {
                Silence::Said(status, reason, message) => {
                    set(&mut next.conditions, REACHABLE, (status, reason, message), generation, time);
                }
                Silence::Unsaid(for_now) => look_again = Some(for_now),
            }
        }
    }
    if let Some(checks) = &report.checks {
        set(&mut next.conditions, DOCTOR, doctor(checks), generation, time);
    }
    if matches!(report.contact, Contact::Connected) {
        let found = match strangers {
            [] => (ConditionStatus::False, "None", String::new()),
            some => (ConditionStatus::True, "Found", listed(some)),
        };
        set(&mut next.conditions, STRANGERS, found, generation, time);
    }
    let ready = ready(&next.conditions);
    set(&mut next.conditions, READY, ready, generation, time);
    next.conditions = own_first(&next.conditions, &OWN);
    (next, look_again)
}

const OWN: [&str; 4] = [REACHABLE, READY, DOCTOR, STRANGERS];

type Stated = (ConditionStatus, &'static str, String);

fn set(conditions: &mut Conditions, type_: &str, stated: Stated, generation: Option<i64>, time: Timestamp) {
    let (status, reason, message) = stated;
    conditions.set(type_, status, reason, message, generation, time);
}

/// What a silence is called.
enum Silence {
    Said(ConditionStatus, &'static str, String),
    /// Too short to be told: look again after this time.
    Unsaid(Duration),
}

fn silence(before: &HostStatus, lasted: Duration, error: Option<&AgentError>, settings: &Settings) -> Silence {
    let heard = before.heartbeat_time.as_ref();
    match (heard, error) {
        (None, None) => Silence::Said(ConditionStatus::Unknown, "Dialling", "no agent answered yet".to_owned()),
        // Whoever adds a host waits for this.
        (None, Some(error)) | (_, Some(error @ AgentError::WrongHost { .. })) => {
            Silence::Said(ConditionStatus::False, error.reason(), error.told())
        }
        (Some(heard), error) if lasted >= settings.lost_after => {
            let why = error.map_or_else(|| "no try has come to an end".to_owned(), AgentError::told);
            // Without a number that grows: it would be written again and again.
            let message = format!("last heard of at {}: {why}", heard.0);
            Silence::Said(ConditionStatus::False, error.map_or("Silent", AgentError::reason), message)
        }
        (Some(_), _) => Silence::Unsaid(settings.lost_after.saturating_sub(lasted)),
    }
}

fn doctor(checks: &[pb::DoctorCheck]) -> Stated {
    use pb::doctor_check::Verdict;
    let with = |verdict| checks.iter().filter(move |check| check.verdict() == verdict);
    let sentence = |check: &pb::DoctorCheck| {
        let hint = if check.hint.is_empty() { String::new() } else { format!(" ({})", check.hint) };
        format!("{}: {}{hint}", check.name, check.message)
    };
    let failed: Vec<_> = with(Verdict::Fail).map(sentence).collect();
    if !failed.is_empty() {
        return (ConditionStatus::False, "CheckFailed", failed.join("; "));
    }
    let warnings: Vec<_> = with(Verdict::Warning).map(sentence).collect();
    (ConditionStatus::True, if warnings.is_empty() { "Passed" } else { "PassedWithWarnings" }, warnings.join("; "))
}

fn listed(strangers: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = strangers.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    match strangers.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

fn ready(conditions: &Conditions) -> Stated {
    let Some(reachable) = conditions.get(REACHABLE) else {
        return (ConditionStatus::Unknown, "Dialling", "no agent answered yet".to_owned());
    };
    if reachable.status != ConditionStatus::True {
        return (ConditionStatus::False, "NotReachable", reachable.message.clone());
    }
    let missing = NEEDED.iter().chain([&DOCTOR]).filter_map(|type_| conditions.get(type_));
    match missing.into_iter().find(|condition| condition.status == ConditionStatus::False) {
        Some(missing) => (ConditionStatus::False, "Faulty", format!("{}: {}", missing.type_, missing.message)),
        None => (ConditionStatus::True, "Ready", String::new()),
    }
}

/// Whether a status differs in what matters, or is so old that its heartbeat must be told anew. A fleet's heartbeats
/// would be most of what is written; the free space of a disk changes all the time.
pub(super) fn is_worth_writing(before: Option<&HostStatus>, next: &HostStatus, settings: &Settings) -> bool {
    let Some(before) = before else { return true };
    let mut masked = next.clone();
    masked.heartbeat_time.clone_from(&before.heartbeat_time);
    if let (Some(was), Some(is), Some(all)) = (before.available, &mut masked.available, before.capacity)
        && was.disk.bytes().abs_diff(is.disk.bytes()) < all.disk.bytes() / 32
    {
        is.disk = was.disk;
    }
    if masked != *before {
        return true;
    }
    match (&before.heartbeat_time, &next.heartbeat_time) {
        (Some(was), Some(is)) => {
            let age = u64::try_from(is.0.as_second().saturating_sub(was.0.as_second())).unwrap_or_default();
            age >= settings.heartbeat_written.as_secs()
        }
        (was, is) => was != is,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::tests::host;

    const BEGIN: i64 = 1_700_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(BEGIN + second).unwrap()
    }

    fn told() -> pb::Host {
        let condition = |type_: &str, status: pb::ConditionStatus| pb::Condition {
            r#type: type_.to_owned(),
            status: status.into(),
            reason: "Seen".to_owned(),
            message: "it was seen".to_owned(),
            last_transition_time: None,
        };
        pb::Host {
            name: "host-a".to_owned(),
            boot_id: "1".to_owned(),
            capacity: Some(pb::Capacity { vcpus: 8, memory_bytes: 64 << 30, disk_bytes: 1 << 40 }),
            available: Some(pb::Capacity { vcpus: 8, memory_bytes: 64 << 30, disk_bytes: 1 << 40 }),
            conditions: vec![condition("AcceleratorReady", pb::ConditionStatus::True)],
            ..pb::Host::default()
        }
    }

    fn connected() -> Report {
        let mut report = Report::new(Instant::now());
        report.told(told(), at(0));
        report.contact = Contact::Connected;
        report
    }

    /// The status of a host that was silent for so long.
    fn look(host: &Host, report: &Report, silent: Duration) -> (HostStatus, Option<Duration>) {
        let since = match report.contact {
            Contact::Silent { since, .. } => since,
            Contact::Connected => Instant::now(),
        };
        status(host, report, &[], &Settings::default(), (since + silent, at(100)))
    }

    fn condition<'s>(status: &'s HostStatus, type_: &str) -> (&'s str, ConditionStatus) {
        let condition = status.conditions.get(type_).unwrap();
        (condition.reason.as_str(), condition.status)
    }

    fn seen() -> Host {
        let mut host = host("host-a");
        host.status = Some(look(&host, &connected(), Duration::ZERO).0);
        host
    }

    #[test]
    fn a_host_that_answers_is_ready_unless_something_is_missing() {
        let host = host("host-a");
        let mut report = connected();
        let status = look(&host, &report, Duration::ZERO).0;
        assert_eq!(condition(&status, REACHABLE), ("Connected", ConditionStatus::True));
        assert_eq!(condition(&status, READY), ("Ready", ConditionStatus::True));
        assert_eq!(status.heartbeat_time, Some(whole_seconds(at(0))));

        let failed = pb::DoctorCheck {
            name: "kvm".to_owned(),
            verdict: pb::doctor_check::Verdict::Fail.into(),
            message: "there is no /dev/kvm".to_owned(),
            hint: "load kvm_intel".to_owned(),
        };
        let again = Host { status: Some(status.clone()), ..host.clone() };
        assert_eq!(look(&again, &report, Duration::ZERO).0, status, "nothing is written twice");
        report.checks = Some([failed].into());
        let status = look(&host, &report, Duration::ZERO).0;
        assert_eq!(condition(&status, READY), ("Faulty", ConditionStatus::False));
        let message = &status.conditions.get(READY).unwrap().message;
        assert_eq!(message, "DoctorPassed: kvm: there is no /dev/kvm (load kvm_intel)");
    }

    #[test]
    fn a_host_that_is_silent_for_a_moment_stays_as_it_was_and_is_lost_after_a_while() {
        let host = seen();
        let mut report = Report::new(Instant::now());
        report.failed(AgentError::lost("no route to host"), Instant::now());
        let (status, again) = look(&host, &report, Duration::from_secs(10));
        assert_eq!(condition(&status, REACHABLE), ("Connected", ConditionStatus::True));
        assert_eq!(again, Some(Duration::from_secs(30)));

        let (status, again) = look(&host, &report, Duration::from_secs(40));
        assert_eq!(condition(&status, REACHABLE), ("Unreachable", ConditionStatus::False));
        assert_eq!(condition(&status, READY), ("NotReachable", ConditionStatus::False));
        assert_eq!((again, status.boot_id.as_deref()), (None, Some("1")), "what was seen stays");
        let message = &status.conditions.get(REACHABLE).unwrap().message;
        assert!(message.starts_with("last heard of at 2023-11-14T22:13:20Z: the agent cannot be reached"), "{message}");
    }

    #[test]
    fn whoever_adds_a_host_is_told_at_once_what_is_wrong() {
        let host = host("host-a");
        let mut report = Report::new(Instant::now());
        let (status, _) = look(&host, &report, Duration::ZERO);
        assert_eq!(condition(&status, REACHABLE), ("Dialling", ConditionStatus::Unknown));
        report.failed(AgentError::lost("connection refused"), Instant::now());
        let (status, _) = look(&host, &report, Duration::ZERO);
        assert_eq!(condition(&status, REACHABLE), ("Unreachable", ConditionStatus::False));
    }

    #[test]
    fn another_machine_at_the_address_is_told_at_once() {
        let mut report = Report::new(Instant::now());
        let wrong = AgentError::WrongHost { asked: "host-a".parse().unwrap(), answered: "host-b".to_owned() };
        report.failed(wrong, Instant::now());
        let (status, _) = look(&seen(), &report, Duration::ZERO);
        assert_eq!(condition(&status, REACHABLE), ("WrongHost", ConditionStatus::False));
    }

    #[test]
    fn heartbeats_and_a_disk_that_breathes_are_written_now_and_then() {
        let before = seen().status.unwrap();
        let settings = Settings::default();
        assert!(is_worth_writing(None, &before, &settings));
        assert!(!is_worth_writing(Some(&before), &before, &settings));
        let mut next = before.clone();
        next.heartbeat_time = Some(whole_seconds(at(59)));
        next.available.as_mut().unwrap().disk = ((1 << 40) - (1 << 30)).try_into().unwrap();
        assert!(!is_worth_writing(Some(&before), &next, &settings));
        next.heartbeat_time = Some(whole_seconds(at(60)));
        assert!(is_worth_writing(Some(&before), &next, &settings));
        let mut next = before.clone();
        next.guests = 1;
        assert!(is_worth_writing(Some(&before), &next, &settings));
    }
}
