//! What to do next for one guest: a pure function of what is desired and what was seen.
//!
//! ```text
//!              start                    QMP says so
//!   Absent ──────────────► (prepare, launch) ──────► Up ─────────┐
//!     ▲  ▲                        │ fails             │ ▲         │ exits
//!     │  └── back-off ◄───────────┘        pause/resume └─┘       │
//!     │         ▲                                                 │
//!     │         └───────── restart policy says again ◄────────────┤
//!     └─────────────────── restart policy says no, or stopped ◄───┘
//! ```

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    observed::{Exit, ExitReason},
    spec::{DesiredState, Generation, RestartPolicy},
};

/// What shall be, as far as the next step depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) goal: Goal,
    pub(super) generation: Generation,
    pub(super) restart_policy: RestartPolicy,
    pub(super) restart_on_change: bool,
}

/// Where the guest shall get to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Running,
    Paused,
    Stopped,
    Gone,
}

impl Goal {
    pub(super) fn of(state: DesiredState, deleting: bool) -> Self {
        match state {
            _ if deleting => Self::Gone,
            DesiredState::Running => Self::Running,
            DesiredState::Paused => Self::Paused,
            DesiredState::Stopped => Self::Stopped,
        }
    }

    fn wants_qemu(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// What is, as far as the next step depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Situation {
    pub(super) qemu: Qemu,
    /// The last end of QEMU that no start has followed yet.
    pub(super) ended: Option<Ended>,
    /// Whether taps, sockets and helpers of a run may still be there.
    pub(super) holds_runtime: bool,
    /// Not before this time is it tried again.
    pub(super) retry_at: Option<Timestamp>,
}

/// The guest's QEMU, as seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qemu {
    Absent,
    /// One that we started or found again.
    Up {
        vcpus: Vcpus,
        /// Its spec differs from the desired one in what a running QEMU cannot take.
        outdated: bool,
        /// A shutdown was begun, by us or by the agent before us.
        stopping: bool,
    },
    /// One that we do not know.
    Stranger,
}

/// What QMP last said of the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vcpus {
    Running,
    Paused,
    /// Stopped by QEMU itself, for an error of the disk or of the machine: going on is a person's decision.
    Stuck(&'static str),
    /// QMP does not answer, or did not yet.
    Unknown,
}

/// An end, and what was running then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) generation: Generation,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Nothing, until then.
    WaitUntil(Timestamp),
    /// Prepare what it needs and launch QEMU.
    Start,
    Resume,
    Pause,
    /// By the shutdown contract; afterwards there is no QEMU.
    ShutDown,
    /// Give back what only a running guest needs.
    Park,
    /// Remove everything of the guest.
    Release,
}

pub(super) fn plan(desired: &Desired, situation: &Situation, now: Timestamp) -> Step {
    match situation.qemu {
        Qemu::Stranger => Step::Wait,
        Qemu::Up { stopping: true, .. } => Step::ShutDown,
        Qemu::Up { .. } if !desired.goal.wants_qemu() => Step::ShutDown,
        Qemu::Up { outdated: true, .. } if desired.restart_on_change => Step::ShutDown,
        Qemu::Up { vcpus, .. } => match (desired.goal, vcpus) {
            (Goal::Running, Vcpus::Paused) => Step::Resume,
            (Goal::Paused, Vcpus::Running) => Step::Pause,
            _ => Step::Wait,
        },
        Qemu::Absent if desired.goal == Goal::Gone => Step::Release,
        Qemu::Absent if desired.goal == Goal::Stopped => park_or_wait(situation),
        Qemu::Absent if stays_ended(desired, situation) => park_or_wait(situation),
        Qemu::Absent => match situation.retry_at {
            Some(time) if time > now => Step::WaitUntil(time),
            _ => Step::Start,
        },
    }
}

fn park_or_wait(situation: &Situation) -> Step {
    if situation.holds_runtime { Step::Park } else { Step::Wait }
}

/// Whether the restart policy keeps an ended guest as it is. A newer generation is a new wish to run it.
pub(super) fn stays_ended(desired: &Desired, situation: &Situation) -> bool {
    situation.ended.as_ref().is_some_and(|ended| {
        ended.generation == desired.generation && !starts_again(desired.restart_policy, ended.exit.reason)
    })
}

fn starts_again(policy: RestartPolicy, reason: ExitReason) -> bool {
    match (policy, reason) {
        // It never ran, or we ended it: that it shall run is then decided by the desired state alone. A reset is a
        // guest's way to go on.
        (_, ExitReason::LaunchFailed | ExitReason::Stopped { .. } | ExitReason::GuestReset)
        | (RestartPolicy::Always, _) => true,
        (RestartPolicy::OnFailure, reason) => reason != ExitReason::GuestShutdown,
        (RestartPolicy::Never, _) => false,
    }
}

/// Failures in a row, and how long to wait after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(5);
    /// A run of this length clears the record.
    const CLEARED_BY: Duration = Duration::from_mins(10);
    /// A guest that resets itself sooner than this after its start is in a loop.
    const LOOP: Duration = Duration::from_secs(10);

    pub(super) fn after(failures: u32) -> Self {
        Self { failures }
    }

    pub(super) fn failures(self) -> u32 {
        self.failures
    }

    /// Something failed before QEMU ran: the time to wait.
    pub(super) fn failed(&mut self) -> Duration {
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// QEMU ended after it ran for so long: the time to wait before it may start again.
    pub(super) fn ended(&mut self, reason: ExitReason, ran: SignedDuration) -> Duration {
        let ran = Duration::try_from(ran).unwrap_or_default();
        if ran >= Self::CLEARED_BY {
            self.failures = 0;
        }
        match reason {
            ExitReason::Stopped { .. } => Duration::ZERO,
            ExitReason::GuestReset | ExitReason::GuestShutdown if ran >= Self::LOOP => Duration::ZERO,
            _ => self.failed(),
        }
    }
}

#[cfg(test)]
mod tests;
