//! Ends told apart, restarts by policy, and the shutdown contract.

use std::time::Duration;

use anyhow::Result;
use goliath_lab::{Guest, Lab, guest::is_true, run};
use goliath_proto::agent::v1::{
    DesiredState, Exit, ExitReason, GuestPhase, GuestStatus, Lifecycle, RestartPolicy, ShutdownStep,
};

fn last_exit(status: &GuestStatus) -> Exit {
    status.last_exit.clone().unwrap_or_default()
}

async fn after_the_end(guest: &Guest, phase: GuestPhase) -> Result<Exit> {
    let seen = guest.until(phase.as_str_name(), |status| status.phase() == phase && status.last_exit.is_some()).await?;
    Ok(last_exit(&seen))
}

#[test]
fn power_off_reset_and_panic_are_told_apart() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let never = |lifecycle: &mut Lifecycle| lifecycle.set_restart_policy(RestartPolicy::Never);
        let on_failure = |lifecycle: &mut Lifecycle| lifecycle.set_restart_policy(RestartPolicy::OnFailure);
        let off = cluster.guest("off").lifecycle(on_failure).on(&host).apply().await?;
        let panics = cluster.guest("panics").lifecycle(never).on(&host).apply().await?;
        let resets = cluster.guest("resets").lifecycle(never).on(&host).apply().await?;
        let comes_back = cluster.guest("comes-back").lifecycle(on_failure).on(&host).apply().await?;
        for (guest, command) in [(&off, "poweroff"), (&panics, "panic"), (&resets, "reboot"), (&comes_back, "panic")] {
            guest.until_booted().await?;
            guest.console().await?.last_command(command).await?;
        }

        assert_eq!(after_the_end(&off, GuestPhase::Stopped).await?.reason(), ExitReason::GuestShutdown);
        assert_eq!(after_the_end(&panics, GuestPhase::Failed).await?.reason(), ExitReason::GuestPanic);
        // A reset is a guest's way to go on, whatever the policy.
        assert_eq!(last_exit(&resets.until_restarted(1).await?).reason(), ExitReason::GuestReset);
        assert_eq!(last_exit(&comes_back.until_restarted(1).await?).reason(), ExitReason::GuestPanic);
        assert_eq!(off.status().await?.restart_count, 0);
        assert_eq!(panics.status().await?.restart_count, 0);
        Ok(())
    });
}

#[test]
fn a_guest_that_always_fails_waits_longer_each_time() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        guest.until_booted().await?;
        for end in 1..=2 {
            guest.console().await?.last_command("panic").await?;
            let status = guest.until_phase(GuestPhase::Backoff).await?;
            let (exit, next) = (last_exit(&status).time.unwrap(), status.next_attempt_time.unwrap());
            let wait = (next.seconds - exit.seconds) * 1000 + i64::from(next.nanos - exit.nanos) / 1_000_000;
            assert!((wait - 1000 * end).abs() < 500, "end {end}: it waits for {wait} ms");
            guest.until_restarted(u32::try_from(end)?).await?;
        }
        Ok(())
    });
}

#[test]
fn a_guest_that_hears_the_power_button_ends_by_it() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let mut guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        guest.until_booted().await?;
        let boot_id = guest.report().await?.boot_id;
        guest.change(|spec| spec.lifecycle.get_or_insert_default().set_desired_state(DesiredState::Stopped)).await?;
        let exit = after_the_end(&guest, GuestPhase::Stopped).await?;
        assert_eq!((exit.reason(), exit.shutdown_step()), (ExitReason::Stopped, ShutdownStep::PowerButton));
        assert_eq!(host.qemus_of(guest.uid()).await?.len(), 0);

        guest.change(|spec| spec.lifecycle.get_or_insert_default().set_desired_state(DesiredState::Running)).await?;
        guest.until("booted again", |status| status.running_generation == 3 && is_true(status, "Booted")).await?;
        assert_ne!(guest.report().await?.boot_id, boot_id);
        Ok(())
    });
}

#[test]
fn a_guest_that_ignores_the_power_button_is_ended_within_its_grace() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let grace = Duration::from_secs(6);
        let plan = cluster.guest("deaf").kernel_words("goliath.ignore_power_button").lifecycle(|lifecycle| {
            lifecycle.shutdown_grace = prost_types::Duration::try_from(grace).ok();
        });
        let mut guest = plan.on(&host).apply().await?;
        guest.until_booted().await?;
        let start = tokio::time::Instant::now();
        guest.change(|spec| spec.lifecycle.get_or_insert_default().set_desired_state(DesiredState::Stopped)).await?;
        guest.until_phase(GuestPhase::Stopping).await?;
        let exit = after_the_end(&guest, GuestPhase::Stopped).await?;
        assert_eq!(exit.reason(), ExitReason::Stopped);
        assert!(exit.shutdown_step() > ShutdownStep::PowerButton, "{exit:?}");
        assert!(start.elapsed() < grace + Duration::from_secs(4), "it took {:?}", start.elapsed());
        Ok(())
    });
}

#[test]
fn a_guest_that_never_says_so_is_running_and_not_booted() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let guest = cluster.guest("silent").kernel_words("goliath.no_ready").on(&host).apply().await?;
        guest.until_running().await?;
        guest.until_it_says("goliath-init: ready").await?;
        let status = guest.status().await?;
        assert!(!is_true(&status, "Booted"));
        Ok(())
    });
}

#[test]
fn the_console_log_survives_the_agent() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        guest.until_booted().await?;
        host.kill_agent().await?;
        host.start_agent().await?;
        guest.until_booted().await?;
        assert!(guest.console().await?.command("status").await?.contains("worker-0"));
        guest.until_it_says("goliath-init: ready").await?;
        guest.until_it_says("goliath-init: status ").await?;
        Ok(())
    });
}
