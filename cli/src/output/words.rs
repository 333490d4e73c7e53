//! The API's enumerations in words, and how bad each is.

use goliath_proto::agent::v1::{
    Condition, ConditionStatus, ExitReason, GuestPhase, ShutdownStep, doctor_check::Verdict,
};

use crate::style::Tone;

pub(crate) fn phase(phase: GuestPhase) -> &'static str {
    match phase {
        GuestPhase::Unspecified => "Unknown",
        GuestPhase::Accepted => "Accepted",
        GuestPhase::Preparing => "Preparing",
        GuestPhase::Starting => "Starting",
        GuestPhase::Running => "Running",
        GuestPhase::Paused => "Paused",
        GuestPhase::Stopping => "Stopping",
        GuestPhase::Stopped => "Stopped",
        GuestPhase::Backoff => "Backoff",
        GuestPhase::Failed => "Failed",
        GuestPhase::Quarantined => "Quarantined",
    }
}

pub(crate) fn phase_tone(phase: GuestPhase) -> Tone {
    match phase {
        GuestPhase::Running => Tone::Good,
        GuestPhase::Backoff | GuestPhase::Stopping => Tone::Warn,
        GuestPhase::Failed | GuestPhase::Quarantined => Tone::Bad,
        GuestPhase::Unspecified | GuestPhase::Paused | GuestPhase::Stopped => Tone::Dim,
        GuestPhase::Accepted | GuestPhase::Preparing | GuestPhase::Starting => Tone::Note,
    }
}

pub(crate) fn exit_reason(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Unspecified => "Unknown",
        ExitReason::GuestShutdown => "GuestShutdown",
        ExitReason::GuestPanic => "GuestPanic",
        ExitReason::GuestReset => "GuestReset",
        ExitReason::Stopped => "Stopped",
        ExitReason::Crashed => "Crashed",
        ExitReason::Unobserved => "Unobserved",
        ExitReason::LaunchFailed => "LaunchFailed",
    }
}

/// What ended it; none where we did not end it.
pub(crate) fn shutdown_step(step: ShutdownStep) -> Option<&'static str> {
    match step {
        ShutdownStep::Unspecified => None,
        ShutdownStep::PowerButton => Some("PowerButton"),
        ShutdownStep::GuestAgent => Some("GuestAgent"),
        ShutdownStep::Quit => Some("Quit"),
        ShutdownStep::Kill => Some("Kill"),
    }
}

pub(crate) fn verdict(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Pass => ("pass", Tone::Good),
        Verdict::Warning => ("warning", Tone::Warn),
        Verdict::Fail => ("FAIL", Tone::Bad),
        Verdict::Unspecified => ("unknown", Tone::Warn),
    }
}

/// What a guest reaches one after the other.
pub(crate) const RUNGS: [&str; 7] =
    ["ImageReady", "NetworkReady", "CertificatesReady", "VolumesReady", "Running", "Booted", "Ready"];

/// In the order in which they come true; what is no rung follows, by name.
pub(crate) fn in_order(conditions: &[Condition]) -> Vec<&Condition> {
    let mut conditions: Vec<&Condition> = conditions.iter().collect();
    let rung = |name: &str| RUNGS.iter().position(|rung| *rung == name).unwrap_or(RUNGS.len());
    conditions.sort_by(|one, other| (rung(&one.r#type), &one.r#type).cmp(&(rung(&other.r#type), &other.r#type)));
    conditions
}

/// Conditions that tell of trouble by being true.
const UNWELCOME: [&str; 6] = ["RestartRequired", "Deleting", "Drift", "Degraded", "Cordoned", "Quarantined"];

/// How a condition looks: its mark and its colour.
pub(crate) fn condition_mark(condition: &Condition) -> (&'static str, Tone) {
    let unwelcome = UNWELCOME.contains(&condition.r#type.as_str());
    match (condition.status(), unwelcome) {
        (ConditionStatus::True, false) => ("✓", Tone::Good),
        (ConditionStatus::True, true) => ("!", Tone::Warn),
        (ConditionStatus::False, true) => ("-", Tone::Dim),
        (ConditionStatus::False, false) => ("✗", Tone::Bad),
        _ => ("?", Tone::Dim),
    }
}
