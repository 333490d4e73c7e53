//! How a guest says that it is up.

use std::time::Duration;

use goliath_agent::qemu::{BootSignal, BootWatch, qmp::schema};
use tokio::sync::watch;

use crate::host::{Host, connected, wait_for_event};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_said_it_is_up_while_no_agent_listened_is_heard() {
    let host = Host::new();
    let mut running = host.launch(Host::machine("guest=ready")).await;
    let (uid, paths) = (running.record.uid, host.paths(running.record.uid));
    wait_for_event(&mut running, |event| match event {
        schema::Event::VSERPORT_CHANGE { data, .. } if data.open && data.id == "notify" => Some(()),
        _ => None,
    })
    .await;
    let log = host.wait_for_console(uid, "GUEST-UP").await;
    assert!(!log.contains("NOTIFIED"), "it waits for somebody to listen");

    let mut boot = BootWatch::start(paths.clone(), running.process.clone(), connected(&running));
    let booted = tokio::time::timeout(Duration::from_secs(30), boot.booted()).await.unwrap();
    assert_eq!(booted.signal, BootSignal::Notified);
    host.wait_for_console(uid, "NOTIFIED").await;
    drop(boot);

    // It says so once; the next agent reads what this one saw.
    let mut again = BootWatch::start(paths, running.process.clone(), connected(&running));
    let remembered = tokio::time::timeout(Duration::from_secs(5), again.booted()).await.unwrap();
    assert_eq!(remembered, booted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_agent_is_asked_when_qmp_answers_late() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=agent")).await;
    let qmp = watch::Sender::new(None);
    let mut boot = BootWatch::start(host.paths(running.record.uid), running.process.clone(), qmp.subscribe());
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    assert!(tokio::time::timeout(Duration::from_secs(1), boot.booted()).await.is_err());
    qmp.send_replace(Some(running.qmp.clone()));
    let booted = tokio::time::timeout(Duration::from_mins(2), boot.booted()).await.unwrap();
    assert_eq!(booted.signal, BootSignal::GuestAgent);
}
