//! What can be seen of guests.

use jiff::{SignedDuration, Timestamp};

use crate::objects::{ConditionStatus, Guest, ResourceExt as _};

/// Whether a guest does its work, as far as can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It was last seen to be ready, on a host that answers.
    Serving,
    /// It was seen not to be.
    Down,
    /// Its host is silent: it may well serve.
    Unknown,
}

/// On a guest that goes nothing more can be built.
pub(super) fn is_leaving(guest: &Guest) -> bool {
    guest.metadata.deletion_timestamp.is_some()
}

/// Whether the guest does its work.
pub(super) fn health(guest: &Guest) -> Health {
    let Some(status) = &guest.status else { return Health::Down };
    let host = status.conditions.get("HostReachable").map(|condition| condition.status);
    if host.is_some_and(|host| host != ConditionStatus::True) {
        Health::Unknown
    } else if status.conditions.is_true("Ready") {
        Health::Serving
    } else {
        Health::Down
    }
}

/// Whether what was seen of a guest was seen of its latest spec.
pub(super) fn is_settled(guest: &Guest) -> bool {
    guest.status.as_ref().is_some_and(|status| {
        status.observed_generation == guest.metadata.generation && !status.conditions.is_true("RestartRequired")
    })
}

/// Whether its agent has something against its latest spec.
pub(super) fn is_refused(guest: &Guest) -> bool {
    let applied = guest.status.as_ref().and_then(|status| status.conditions.get("Applied"));
    applied.is_some_and(|applied| applied.status == ConditionStatus::False)
}

/// So long a host may refuse a new guest before another one is asked: room may come, or a cordon be lifted.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// Whether the host that was chosen does not take the guest: it was full by its own count, or was cordoned meanwhile. The
/// guest was never there.
pub(super) fn is_turned_away(guest: &Guest, now: Timestamp) -> bool {
    guest.status.as_ref().is_some_and(|status| {
        let refusal = status.conditions.get("Applied").filter(|applied| applied.status == ConditionStatus::False);
        let refusal = refusal.filter(|applied| ["HostFull", "HostCordoned"].contains(&applied.reason.as_str()));
        let is_unknown_there = status.phase.is_none() && status.observed_generation.is_none();
        is_unknown_there
            && refusal.is_some_and(|refusal| now.duration_since(refusal.last_transition_time.0) >= PATIENCE)
    })
}

/// Conditions in the order in which a guest gets them: the first that does not hold tells where it stands.
const WAY: [&str; 9] = [
    "Scheduled",
    "Applied",
    "ImageReady",
    "NetworkReady",
    "CertificatesReady",
    "VolumesReady",
    "Running",
    "Booted",
    "Ready",
];

/// What keeps a guest from being ready, for people.
pub(super) fn waits_for(guest: &Guest) -> String {
    let name = guest.name_any();
    if is_leaving(guest) {
        return match guest.spec.host() {
            Some(host) => format!("{name} goes, which its host {host} has to confirm"),
            None => format!("{name} goes"),
        };
    }
    let conditions = guest.status.as_ref().map(|status| &status.conditions);
    let holds_not = |type_: &&str| {
        let condition = conditions.and_then(|conditions| conditions.get(type_));
        condition.filter(|condition| condition.status == ConditionStatus::False)
    };
    if let (Some(silent), Some(host)) = (holds_not(&"HostReachable"), guest.spec.host()) {
        return format!("{name}: its host {host} is silent: {}", silent.message);
    }
    match WAY.iter().find_map(holds_not) {
        Some(condition) => {
            format!("{name}: {} is false: {}", condition.type_, words(&condition.reason, &condition.message))
        }
        None if guest.spec.host().is_none() => format!("{name} waits for a host"),
        None => match guest.status.as_ref().and_then(|status| status.phase) {
            Some(phase) => format!("{name} is {phase:?}"),
            None => format!("{name} waits for its host's agent"),
        },
    }
}

fn words<'a>(reason: &'a str, message: &'a str) -> &'a str {
    if message.is_empty() { reason } else { message }
}
