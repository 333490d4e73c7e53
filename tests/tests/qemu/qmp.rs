//! What QEMU says, and a QEMU that says nothing.

use std::time::{Duration, Instant};

use goliath_agent::qemu::{ProcessExit, QmpError, qmp::schema};

use crate::host::{Host, wait_for_event};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_qemu_is_an_error_of_that_guest_and_delays_no_other() {
    let host = Host::new();
    let silent = host.launch(Host::paused()).await;
    let other = host.launch(Host::paused()).await;
    let stopped = nix::unistd::Pid::from_raw(silent.process.pid());
    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGSTOP).unwrap();

    let limit = Duration::from_secs(1);
    let asking = tokio::spawn({
        let qmp = silent.qmp.clone();
        async move { qmp.execute_within(schema::query_status {}, limit).await }
    });
    let began = Instant::now();
    for _ in 0..100 {
        other.qmp.execute(schema::query_status {}).await.unwrap();
    }
    assert!(began.elapsed() < limit, "the other one took {:?} for 100 answers", began.elapsed());
    assert!(matches!(asking.await.unwrap(), Err(QmpError::Timeout { command: "query-status", .. })));

    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGCONT).unwrap();
    let uuid = silent.qmp.execute(schema::query_uuid {}).await.unwrap();
    assert_eq!(uuid.UUID, silent.record.uid.to_string(), "the late answer was not taken for this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_a_shutdown_and_a_reset_are_told_apart() {
    let host = Host::new();
    for (wish, expected) in [
        ("guest=panic", schema::ShutdownCause::guest_panic),
        ("guest=off", schema::ShutdownCause::guest_shutdown),
        // A kernel that has no driver yet to tell of its panic only resets.
        ("rdinit=/nonexistent panic=-1", schema::ShutdownCause::guest_reset),
    ] {
        let mut running = host.launch(Host::machine(wish)).await;
        let mut panicked = false;
        let cause = wait_for_event(&mut running, |event| match event {
            schema::Event::SHUTDOWN { data, .. } => Some(data.reason),
            schema::Event::GUEST_PANICKED { .. } => {
                panicked = true;
                None
            }
            _ => None,
        })
        .await;
        assert_eq!(cause, expected, "{wish}");
        assert_eq!(panicked, wish == "guest=panic");
        assert_eq!(running.process.wait_exit().await, ProcessExit::Code(0));
    }
}
