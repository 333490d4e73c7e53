//! How far a guest has come on its way to what was asked for. Pure, so that it can be told for any guest.

use goliath_proto::agent::v1::{ConditionStatus, Guest, GuestPhase};

use crate::output::{
    text::printable,
    words::{self, RUNGS},
};

/// Where the waiting ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// This condition is true.
    Condition(&'static str),
    Paused,
    Stopped,
}

/// What was asked of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) goal: Goal,
    pub(super) generation: u64,
    /// A QEMU of an older generation is about to be replaced: what it has reached counts for nothing.
    pub(super) restarts: bool,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    Reached,
    /// The rungs behind it, and what it waits for.
    Climbing {
        done: Vec<&'static str>,
        waits_for: String,
    },
    /// It will not get there by itself.
    Ended(String),
}

pub(super) fn progress(guest: &Guest, asked: &Asked) -> Progress {
    let status = guest.status.clone().unwrap_or_default();
    let taken = status.observed_generation >= asked.generation
        && (!asked.restarts || status.running_generation >= asked.generation);
    if !taken {
        return Progress::Climbing {
            done: Vec::new(),
            waits_for: "the agent to take the new specification".to_owned(),
        };
    }
    let condition = |name: &str| status.conditions.iter().find(|condition| condition.r#type == name);
    let is_true = |name: &str| condition(name).is_some_and(|condition| condition.status() == ConditionStatus::True);
    let reached = match asked.goal {
        Goal::Condition(name) => is_true(name),
        Goal::Paused => status.phase() == GuestPhase::Paused,
        Goal::Stopped => status.phase() == GuestPhase::Stopped,
    };
    if reached {
        return Progress::Reached;
    }
    let why = |name: &str| match condition(name) {
        Some(condition) if !condition.message.is_empty() => format!("{name}: {}", printable(&condition.message)),
        Some(condition) if !condition.reason.is_empty() => format!("{name}: {}", condition.reason),
        _ => name.to_owned(),
    };
    if matches!(status.phase(), GuestPhase::Failed | GuestPhase::Quarantined) {
        let phase = words::phase(status.phase());
        return Progress::Ended(match &status.last_exit {
            Some(exit) if !exit.message.is_empty() => format!("is {phase}: {}", printable(&exit.message)),
            _ => format!("is {phase}: {}", why("Running")),
        });
    }
    let rungs: Vec<&'static str> = match asked.goal {
        // Not every guest has a network or certificates: a rung that nobody speaks of is not waited for.
        Goal::Condition(goal) => {
            let end = RUNGS.iter().position(|rung| *rung == goal).unwrap_or(RUNGS.len() - 1);
            RUNGS[..=end].iter().copied().filter(|rung| *rung == goal || condition(rung).is_some()).collect()
        }
        Goal::Paused | Goal::Stopped => Vec::new(),
    };
    let done = rungs.iter().copied().take_while(|rung| is_true(rung)).collect::<Vec<_>>();
    let waits_for = match rungs.get(done.len()) {
        Some(next) => why(next),
        None => format!(
            "it to be {}, now {}",
            if asked.goal == Goal::Paused { "paused" } else { "stopped" },
            words::phase(status.phase())
        ),
    };
    Progress::Climbing { done, waits_for }
}

#[cfg(test)]
mod tests {
    use goliath_proto::agent::v1::{Condition, Exit, GuestStatus};

    use super::*;

    fn guest(phase: GuestPhase, conditions: &[(&str, ConditionStatus, &str)]) -> Guest {
        let conditions = conditions
            .iter()
            .map(|(name, status, message)| Condition {
                r#type: (*name).to_owned(),
                status: i32::from(*status),
                message: (*message).to_owned(),
                ..Condition::default()
            })
            .collect();
        let status = GuestStatus {
            phase: i32::from(phase),
            conditions,
            observed_generation: 2,
            running_generation: 1,
            ..GuestStatus::default()
        };
        Guest { status: Some(status), ..Guest::default() }
    }

    const BOOTED: Asked = Asked { goal: Goal::Condition("Booted"), generation: 2, restarts: false };

    #[test]
    fn a_guest_climbs_rung_by_rung() {
        let there = guest(
            GuestPhase::Preparing,
            &[
                ("ImageReady", ConditionStatus::True, ""),
                ("NetworkReady", ConditionStatus::False, "the VNI is in use"),
                ("Running", ConditionStatus::False, ""),
            ],
        );
        let expected =
            Progress::Climbing { done: vec!["ImageReady"], waits_for: "NetworkReady: the VNI is in use".to_owned() };
        assert_eq!(progress(&there, &BOOTED), expected);
        let there = guest(GuestPhase::Running, &[("Booted", ConditionStatus::True, "")]);
        assert_eq!(progress(&there, &BOOTED), Progress::Reached);
    }

    #[test]
    fn what_an_older_qemu_reached_does_not_count() {
        let there = guest(GuestPhase::Running, &[("Booted", ConditionStatus::True, "")]);
        for asked in [Asked { generation: 3, ..BOOTED }, Asked { restarts: true, ..BOOTED }] {
            assert!(matches!(progress(&there, &asked), Progress::Climbing { done, .. } if done.is_empty()));
        }
    }

    #[test]
    fn a_guest_that_stays_down_ends_the_waiting() {
        let mut there = guest(GuestPhase::Failed, &[]);
        if let Some(status) = &mut there.status {
            status.last_exit = Some(Exit { message: "Kernel panic".to_owned(), ..Exit::default() });
        }
        assert_eq!(progress(&there, &BOOTED), Progress::Ended("is Failed: Kernel panic".to_owned()));
    }

    #[test]
    fn who_shall_be_stopped_is_waited_for_until_it_is() {
        let asked = Asked { goal: Goal::Stopped, ..BOOTED };
        assert_eq!(progress(&guest(GuestPhase::Stopped, &[]), &asked), Progress::Reached);
        assert!(matches!(progress(&guest(GuestPhase::Stopping, &[]), &asked), Progress::Climbing { .. }));
    }
}
