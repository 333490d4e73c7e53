use proptest::prelude::*;

use super::*;
use crate::observed::ShutdownStep;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn generation(number: u64) -> Generation {
    Generation::try_from(number).unwrap()
}

fn desired(goal: Goal) -> Desired {
    Desired { goal, generation: generation(2), restart_policy: RestartPolicy::Always, restart_on_change: false }
}

fn situation(qemu: Qemu) -> Situation {
    Situation { qemu, ended: None, holds_runtime: false, retry_at: None }
}

fn up(vcpus: Vcpus) -> Qemu {
    Qemu::Up { vcpus, outdated: false, stopping: false }
}

fn ended(reason: ExitReason, at: u64) -> Ended {
    Ended { exit: Exit { reason, message: String::new(), time: NOW }, generation: generation(at) }
}

#[test]
fn a_guest_goes_where_it_is_wanted() {
    let table = [
        (Goal::Running, Qemu::Absent, Step::Start),
        (Goal::Running, up(Vcpus::Running), Step::Wait),
        (Goal::Running, up(Vcpus::Paused), Step::Resume),
        (Goal::Paused, Qemu::Absent, Step::Start),
        (Goal::Paused, up(Vcpus::Running), Step::Pause),
        (Goal::Paused, up(Vcpus::Paused), Step::Wait),
        (Goal::Stopped, Qemu::Absent, Step::Wait),
        (Goal::Stopped, up(Vcpus::Running), Step::ShutDown),
        (Goal::Gone, up(Vcpus::Running), Step::ShutDown),
        (Goal::Gone, Qemu::Absent, Step::Release),
    ];
    for (goal, qemu, step) in table {
        assert_eq!(plan(&desired(goal), &situation(qemu), NOW), step, "{goal:?} {qemu:?}");
    }
}

#[test]
fn a_guest_whose_qemu_is_silent_or_stuck_is_left_as_it_is() {
    for vcpus in [Vcpus::Unknown, Vcpus::Stuck("io-error")] {
        assert_eq!(plan(&desired(Goal::Running), &situation(up(vcpus)), NOW), Step::Wait);
    }
}

#[test]
fn a_shutdown_that_was_begun_is_finished_whatever_is_wanted_meanwhile() {
    let qemu = Qemu::Up { vcpus: Vcpus::Running, outdated: false, stopping: true };
    for goal in [Goal::Running, Goal::Paused, Goal::Stopped, Goal::Gone] {
        assert_eq!(plan(&desired(goal), &situation(qemu), NOW), Step::ShutDown);
    }
}

#[test]
fn a_changed_spec_restarts_a_guest_only_where_it_may() {
    let qemu = Qemu::Up { vcpus: Vcpus::Running, outdated: true, stopping: false };
    let mut wish = desired(Goal::Running);
    assert_eq!(plan(&wish, &situation(qemu), NOW), Step::Wait);
    wish.restart_on_change = true;
    assert_eq!(plan(&wish, &situation(qemu), NOW), Step::ShutDown);
}

#[test]
fn the_restart_policy_decides_what_follows_an_end() {
    use ExitReason::{Crashed, GuestPanic, GuestReset, GuestShutdown, LaunchFailed, Unobserved};
    use RestartPolicy::{Always, Never, OnFailure};
    let table = [
        (Always, GuestShutdown, Step::Start),
        (Always, Crashed, Step::Start),
        (OnFailure, GuestShutdown, Step::Wait),
        (OnFailure, GuestPanic, Step::Start),
        (OnFailure, Unobserved, Step::Start),
        (Never, Crashed, Step::Wait),
        (Never, GuestPanic, Step::Wait),
        (Never, GuestReset, Step::Start),
        (Never, LaunchFailed, Step::Start),
        (Never, ExitReason::Stopped { step: ShutdownStep::PowerButton }, Step::Start),
    ];
    for (policy, reason, step) in table {
        let wish = Desired { restart_policy: policy, ..desired(Goal::Running) };
        let seen = Situation { ended: Some(ended(reason, 2)), ..situation(Qemu::Absent) };
        assert_eq!(plan(&wish, &seen, NOW), step, "{policy:?} {reason:?}");
    }
}

#[test]
fn a_newer_generation_runs_a_guest_that_had_ended() {
    let wish = Desired { restart_policy: RestartPolicy::Never, ..desired(Goal::Running) };
    let seen = Situation { ended: Some(ended(ExitReason::Crashed, 1)), ..situation(Qemu::Absent) };
    assert_eq!(plan(&wish, &seen, NOW), Step::Start);
}

#[test]
fn what_only_a_running_guest_needs_is_given_back_when_it_stays_ended() {
    let seen = Situation { holds_runtime: true, ..situation(Qemu::Absent) };
    assert_eq!(plan(&desired(Goal::Stopped), &seen, NOW), Step::Park);
}

#[test]
fn a_retry_waits_for_its_time_but_a_deletion_does_not() {
    let later = NOW + SignedDuration::from_secs(5);
    let seen = Situation { retry_at: Some(later), ..situation(Qemu::Absent) };
    assert_eq!(plan(&desired(Goal::Running), &seen, NOW), Step::WaitUntil(later));
    assert_eq!(plan(&desired(Goal::Running), &seen, later), Step::Start);
    assert_eq!(plan(&desired(Goal::Gone), &seen, NOW), Step::Release);
}

#[test]
fn a_reboot_is_not_a_failure_and_a_loop_of_them_is() {
    let mut backoff = Backoff::default();
    assert_eq!(backoff.ended(ExitReason::GuestReset, SignedDuration::from_mins(1)), Duration::ZERO);
    assert_eq!(backoff.ended(ExitReason::GuestReset, SignedDuration::from_secs(2)), Duration::from_secs(1));
    assert_eq!(backoff.ended(ExitReason::GuestReset, SignedDuration::from_secs(2)), Duration::from_secs(2));
}

#[test]
fn ten_minutes_of_running_clear_the_record() {
    let mut backoff = Backoff::after(9);
    assert_eq!(backoff.ended(ExitReason::Crashed, SignedDuration::from_mins(10)), Duration::from_secs(1));
}

fn any_qemu() -> impl Strategy<Value = Qemu> {
    let vcpus = prop_oneof![Just(Vcpus::Running), Just(Vcpus::Paused), Just(Vcpus::Stuck("x")), Just(Vcpus::Unknown)];
    prop_oneof![
        Just(Qemu::Absent),
        Just(Qemu::Stranger),
        (vcpus, any::<bool>(), any::<bool>()).prop_map(|(vcpus, outdated, stopping)| Qemu::Up {
            vcpus,
            outdated,
            stopping
        }),
    ]
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let goal = prop_oneof![Just(Goal::Running), Just(Goal::Paused), Just(Goal::Stopped), Just(Goal::Gone)];
    let policy = prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    (goal, policy, any::<bool>(), 1_u64..4).prop_map(|(goal, restart_policy, restart_on_change, number)| Desired {
        goal,
        generation: generation(number),
        restart_policy,
        restart_on_change,
    })
}

proptest! {
    #[test]
    fn qemu_is_started_only_where_none_is_and_stopped_only_where_it_was_asked(
        desired in any_desired(), qemu in any_qemu(), holds_runtime: bool, retry in proptest::option::of(-5_i64..5),
    ) {
        let retry_at = retry.map(|seconds| NOW + SignedDuration::from_secs(seconds));
        let seen = Situation { qemu, ended: None, holds_runtime, retry_at };
        match plan(&desired, &seen, NOW) {
            Step::Start => {
                prop_assert_eq!(qemu, Qemu::Absent);
                prop_assert!(matches!(desired.goal, Goal::Running | Goal::Paused));
            }
            Step::Release | Step::Park => prop_assert_eq!(qemu, Qemu::Absent),
            Step::ShutDown => {
                let Qemu::Up { outdated, stopping, .. } = qemu else { panic!("nothing to shut down") };
                let unwanted = matches!(desired.goal, Goal::Stopped | Goal::Gone);
                prop_assert!(unwanted || stopping || (outdated && desired.restart_on_change));
            }
            _ => {}
        }
        if qemu == Qemu::Stranger {
            prop_assert_eq!(plan(&desired, &seen, NOW), Step::Wait);
        }
    }

    #[test]
    fn back_off_grows_from_a_second_to_five_minutes_and_no_further(failures in 0_u32..10_000) {
        let mut backoff = Backoff::after(failures);
        let (first, second) = (backoff.failed(), backoff.failed());
        prop_assert!(first >= Duration::from_secs(1) && second >= first && second <= Duration::from_mins(5));
    }
}
