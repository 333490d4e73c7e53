//! The shutdown contract: how a guest is ended, and when it is ended harder.
//!
//! ```text
//!  0          the ACPI power button, pressed again every few seconds: a guest that is still starting misses the first
//!  grace - a  the guest agent is asked            a = a fifth of the grace time, plus q
//!  grace - q  QMP `quit`, else SIGTERM: QEMU writes out what it holds; for the guest it is a power cut
//!  grace      SIGKILL, by pidfd                   q = a tenth of the grace time, but 2 s to 5 s, and at most half of it
//! ```
//!
//! A guest whose vCPUs never ran, or whose kernel is dead, is spared the wait. Time is counted from when the shutdown
//! began, which the caller remembers, so an agent that starts in the middle goes on where the one before it was.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    guest_agent::GuestAgent,
    process::{Process, ProcessError, ProcessExit},
    qmp::{Qmp, schema},
};
use crate::observed::ShutdownStep;

/// A shutdown that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownPlan {
    /// When.
    pub started_at: Timestamp,
    /// From the first press of the button to SIGKILL.
    pub grace: Duration,
}

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownEnd {
    /// The hardest step that was taken.
    pub step: ShutdownStep,
    /// QEMU's end.
    pub exit: ProcessExit,
}

const BUTTON_INTERVAL: Duration = Duration::from_secs(5);
const AGENT_INTERVAL: Duration = Duration::from_secs(10);
/// Of one word with QEMU or the guest agent.
const WORD_LIMIT: Duration = Duration::from_secs(3);

impl ShutdownPlan {
    /// How much of it has passed; a clock that was set back starts it anew, and none goes beyond its end.
    fn elapsed(&self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.started_at)).unwrap_or_default().min(self.grace)
    }

    /// When a step begins, counted from the start.
    fn begin_of(&self, step: ShutdownStep) -> Duration {
        let quit = (self.grace / 10).clamp(Duration::from_secs(2), Duration::from_secs(5)).min(self.grace / 2);
        match step {
            ShutdownStep::PowerButton => Duration::ZERO,
            ShutdownStep::GuestAgent => self.grace.saturating_sub(quit + self.grace / 5),
            ShutdownStep::Quit => self.grace.saturating_sub(quit),
            ShutdownStep::Kill => self.grace,
        }
    }

    fn step_at(&self, elapsed: Duration) -> ShutdownStep {
        let steps = [ShutdownStep::Kill, ShutdownStep::Quit, ShutdownStep::GuestAgent];
        steps.into_iter().find(|step| elapsed >= self.begin_of(*step)).unwrap_or(ShutdownStep::PowerButton)
    }

    /// What to do, and when to look again.
    fn next(&self, elapsed: Duration) -> (ShutdownStep, Duration) {
        let step = self.step_at(elapsed);
        let (end, again) = match step {
            ShutdownStep::PowerButton => (self.begin_of(ShutdownStep::GuestAgent), elapsed + BUTTON_INTERVAL),
            ShutdownStep::GuestAgent => (self.begin_of(ShutdownStep::Quit), elapsed + AGENT_INTERVAL),
            ShutdownStep::Quit => (self.grace, self.grace),
            ShutdownStep::Kill => (Duration::MAX, Duration::MAX),
        };
        (step, end.min(again))
    }
}

/// Ends a guest; when this returns there is no QEMU. Fails only when the kernel refuses the last step. Dropping it
/// leaves the guest where it is, and calling it again with the same plan goes on.
pub async fn shut_down(
    process: &Process,
    qmp: Option<&Qmp>,
    guest_agent_socket: &Path,
    plan: ShutdownPlan,
) -> Result<ShutdownEnd, ProcessError> {
    let began = Instant::now();
    let mut skipped = plan.elapsed(Timestamp::now());
    let ended = |step| move |exit| ShutdownEnd { step, exit };
    if plan.step_at(skipped) < ShutdownStep::Quit {
        tokio::select! {
            exit = process.wait_exit() => return Ok(ended(ShutdownStep::PowerButton)(exit)),
            has_ears = guest_can_hear(qmp) => if !has_ears {
                skipped = plan.begin_of(ShutdownStep::Quit);
            }
        }
    }
    loop {
        let (step, until) = plan.next(skipped + began.elapsed());
        if step == ShutdownStep::Kill {
            process.kill()?;
            return Ok(ended(step)(process.wait_exit().await));
        }
        let wait = until.saturating_sub(skipped + began.elapsed());
        let trying = async {
            take(step, process, qmp, guest_agent_socket).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            exit = process.wait_exit() => return Ok(ended(step)(exit)),
            // Whoever does not answer does not hold up the next step.
            _ = tokio::time::timeout(wait, trying) => {}
        }
    }
}

/// Whether a button or the guest agent could reach anybody. A paused guest is let go on, or it could not.
async fn guest_can_hear(qmp: Option<&Qmp>) -> bool {
    let Some(qmp) = qmp else { return true };
    let Ok(status) = qmp.execute_within(schema::query_status {}, WORD_LIMIT).await else { return true };
    match status.status {
        schema::RunState::prelaunch
        | schema::RunState::guest_panicked
        | schema::RunState::internal_error
        | schema::RunState::shutdown => false,
        schema::RunState::paused | schema::RunState::suspended => {
            // When it cannot go on it will not hear either, and time will tell.
            let _ = qmp.execute_within(schema::cont {}, WORD_LIMIT).await;
            true
        }
        _ => true,
    }
}

/// Failures are not told: each step has the next one as its answer to them.
async fn take(step: ShutdownStep, process: &Process, qmp: Option<&Qmp>, guest_agent_socket: &Path) {
    match step {
        ShutdownStep::PowerButton => {
            if let Some(qmp) = qmp {
                let _ = qmp.execute_within(schema::system_powerdown {}, WORD_LIMIT).await;
            }
        }
        ShutdownStep::GuestAgent => match GuestAgent::connect(guest_agent_socket, WORD_LIMIT).await {
            Ok(agent) => {
                if let Err(reason) = agent.shut_down(WORD_LIMIT).await {
                    tracing::debug!(pid = process.pid(), %reason, "no help from the guest agent");
                }
            }
            Err(reason) => tracing::debug!(pid = process.pid(), %reason, "no help from the guest agent"),
        },
        ShutdownStep::Quit => {
            let told = match qmp {
                Some(qmp) => qmp.execute_within(schema::quit {}, WORD_LIMIT).await.is_ok(),
                None => false,
            };
            if !told && let Err(reason) = process.terminate() {
                tracing::debug!(pid = process.pid(), %reason, "no SIGTERM");
            }
        }
        ShutdownStep::Kill => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(grace: Duration) -> ShutdownPlan {
        ShutdownPlan { started_at: Timestamp::UNIX_EPOCH, grace }
    }

    #[test]
    fn the_grace_time_is_split_as_documented() {
        let plan = plan(Duration::from_mins(1));
        let steps: Vec<(u64, ShutdownStep)> = (0..=60)
            .map(|second| (second, plan.step_at(Duration::from_secs(second))))
            .scan(None, |last, (second, step)| Some((last.replace(step) != Some(step)).then_some((second, step))))
            .flatten()
            .collect();
        let expected = [
            (0, ShutdownStep::PowerButton),
            (43, ShutdownStep::GuestAgent),
            (55, ShutdownStep::Quit),
            (60, ShutdownStep::Kill),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn no_grace_is_a_kill_at_once() {
        assert_eq!(plan(Duration::ZERO).next(Duration::ZERO).0, ShutdownStep::Kill);
    }

    #[test]
    fn a_clock_that_jumps_neither_hurries_nor_prolongs_beyond_the_grace_time() {
        let grace = Duration::from_mins(1);
        let elapsed = |seconds| plan(grace).elapsed(Timestamp::from_second(seconds).unwrap());
        assert_eq!(elapsed(-1_000_000), Duration::ZERO);
        assert_eq!(elapsed(10), Duration::from_secs(10));
        assert_eq!(elapsed(1_000_000), grace);
    }

    proptest! {
        #[test]
        fn it_only_gets_harder_and_always_ends(grace_ms in 0_u64..86_400_000, starts_at in 0.0_f64..1.0) {
            let grace = Duration::from_millis(grace_ms);
            let plan = plan(grace);
            let mut elapsed = grace.mul_f64(starts_at);
            let mut last = ShutdownStep::PowerButton;
            for _ in 0..86_400 {
                let (step, until) = plan.next(elapsed);
                prop_assert!(step >= last);
                last = step;
                if step == ShutdownStep::Kill {
                    prop_assert!(elapsed >= grace);
                    return Ok(());
                }
                prop_assert!(until > elapsed, "time goes on");
                prop_assert!(until <= grace);
                elapsed = until;
            }
            prop_assert!(false, "it never ended");
        }
    }
}
