//! The agent may die at any moment: no guest is lost, doubled or stopped.

use std::time::Duration;

use anyhow::Result;
use goliath_lab::{Guest, Host, Lab, guest::is_true, run};
use goliath_proto::agent::v1::{GuestPhase, GuestStatus};

async fn is_the_same_run(host: &Host, guest: &Guest, boot_id: &str, pid: i32) -> Result<()> {
    let status = guest.until_booted().await?;
    assert_eq!(
        status.process.as_ref().map(|process| process.pid),
        Some(pid),
        "{}",
        goliath_lab::guest::describe(&status)
    );
    assert_eq!(status.restart_count, 0);
    assert_eq!(guest.report().await?.boot_id, boot_id, "the guest was booted anew");
    assert_eq!(host.qemus_of(guest.uid()).await?.len(), 1);
    Ok(())
}

#[test]
fn a_killed_agent_comes_back_and_its_guests_never_noticed() {
    run(async |lab: &Lab| {
        let (a, b) = (lab.host("a").start().await?, lab.host("b").start().await?);
        let cluster = lab.cluster("blue").over(&[&a, &b]).await?;
        let certified = cluster.guest("worker-0").certificate("local", Duration::from_hours(1));
        let guest = certified.on(&a).apply().await?;
        let neighbour = cluster.guest("worker-1").on(&b).apply().await?;
        neighbour.until_booted().await?;
        let pid = guest.until_booted().await?.process.unwrap().pid;
        let boot_id = guest.report().await?.boot_id;
        let before = guest.serves(lab.issuer().certificate()).await?;

        a.kill_agent().await?;
        assert!(neighbour.pings(guest.address()).await?, "a guest without an agent lost its network");
        a.start_agent().await?;
        is_the_same_run(&a, &guest, &boot_id, pid).await?;
        assert_eq!(guest.serves(lab.issuer().certificate()).await?, before);
        assert!(guest.pings(neighbour.address()).await?);

        // It is still ours to act on: the console, the certificates, its end.
        guest.rotate_certificates().await?;
        assert_ne!(guest.serves(lab.issuer().certificate()).await?, before);
        assert_eq!(guest.report().await?.boot_id, boot_id);

        a.stop_agent().await?;
        a.start_agent().await?;
        is_the_same_run(&a, &guest, &boot_id, pid).await?;
        guest.delete().await?;
        assert_eq!(a.traces_of(guest.uid()).await?, Vec::<String>::new());
        Ok(())
    });
}

/// What is seen of a guest, for people, and how it is told.
type Moment = (&'static str, fn(&GuestStatus) -> bool);

/// In this order, on its way up.
const ON_ITS_WAY: [Moment; 7] = [
    ("accepted", |_| true),
    ("with its image", |status| is_true(status, "ImageReady")),
    ("with its network", |status| is_true(status, "NetworkReady")),
    ("with its volumes", |status| is_true(status, "VolumesReady")),
    ("being started", |status| matches!(status.phase(), GuestPhase::Starting | GuestPhase::Running)),
    ("with a process", |status| status.process.is_some()),
    ("running", |status| is_true(status, "Running")),
];

#[test]
fn an_agent_killed_while_it_launches_starts_no_second_qemu() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        for (round, (moment, is_there)) in ON_ITS_WAY.into_iter().enumerate() {
            let guest = cluster.guest(&format!("worker-{round}")).on(&host).apply().await?;
            guest.until(moment, is_there).await?;
            host.kill_agent().await?;
            host.start_agent().await?;
            guest.until_running().await?;
            assert_eq!(host.qemus_of(guest.uid()).await?.len(), 1, "killed when it was seen {moment}");
            guest.delete().await?;
            assert_eq!(host.traces_of(guest.uid()).await?, Vec::<String>::new(), "killed when it was seen {moment}");
        }
        Ok(())
    });
}

/// When the agent is killed after it was told to delete a guest.
#[derive(Debug)]
enum OnItsWayDown {
    Asked,
    Stopping,
    QemuEnded,
}

#[test]
fn an_agent_killed_during_a_delete_finishes_it() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        for moment in [OnItsWayDown::Asked, OnItsWayDown::Stopping, OnItsWayDown::QemuEnded] {
            let guest = cluster.guest(&format!("{moment:?}").to_lowercase()).on(&host).apply().await?;
            guest.until_booted().await?;
            let qemus = host.qemus_of(guest.uid()).await?;
            let request = goliath_proto::agent::v1::DeleteGuestRequest { uid: guest.uid().to_owned() };
            host.client().await?.guests().delete_guest(request).await?;
            match moment {
                OnItsWayDown::Asked => {}
                OnItsWayDown::Stopping => drop(guest.until_phase(GuestPhase::Stopping).await?),
                OnItsWayDown::QemuEnded => {
                    for qemu in &qemus {
                        assert!(qemu.wait(Duration::from_secs(30))?, "QEMU did not end");
                    }
                }
            }
            host.kill_agent().await?;
            host.start_agent().await?;
            guest.until_gone().await?;
            assert_eq!(host.traces_of(guest.uid()).await?, Vec::<String>::new(), "{moment:?}");
        }
        Ok(())
    });
}

#[test]
fn a_guest_that_ended_while_no_agent_watched_is_started_again() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        guest.until_booted().await?;
        let qemus = host.qemus_of(guest.uid()).await?;
        host.kill_agent().await?;
        for qemu in &qemus {
            qemu.kill()?;
            assert!(qemu.wait(Duration::from_secs(10))?);
        }
        host.start_agent().await?;
        let status = guest.until_restarted(1).await?;
        assert_eq!(status.last_exit.unwrap().reason(), goliath_proto::agent::v1::ExitReason::Unobserved);
        assert_eq!(host.qemus_of(guest.uid()).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_killed_qemu_is_a_crash_and_is_started_again() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        guest.until_booted().await?;
        for qemu in host.qemus_of(guest.uid()).await? {
            qemu.kill()?;
        }
        let status = guest.until_restarted(1).await?;
        assert_eq!(status.last_exit.as_ref().unwrap().reason(), goliath_proto::agent::v1::ExitReason::Crashed);
        assert_eq!(status.phase(), GuestPhase::Running);
        Ok(())
    });
}

#[test]
fn a_guest_whose_qemu_was_silent_when_the_agent_came_back_is_seen_to_boot() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
        guest.until_running().await?;
        host.kill_agent().await?;
        let qemus = host.qemus_of(guest.uid()).await?;
        for qemu in &qemus {
            qemu.freeze()?;
        }
        host.start_agent().await?;
        let silent = |status: &goliath_proto::agent::v1::GuestStatus| {
            goliath_lab::guest::condition(status, "Running").is_some_and(|running| running.reason == "QmpSilent")
        };
        let status = guest.until("silent", silent).await?;
        assert!(!goliath_lab::guest::is_true(&status, "Booted"));
        for qemu in &qemus {
            qemu.thaw()?;
        }
        let status = guest.until_booted().await?;
        assert_eq!(status.process.unwrap().pid, qemus[0].pid);
        guest.until_running().await?;
        Ok(())
    });
}
