//! How a guest ends.

use std::time::{Duration, Instant};

use goliath_agent::{
    observed::ShutdownStep,
    qemu::{BootSignal, BootWatch, ProcessExit, Running, ShutdownPlan, arguments::Listener, shut_down},
};

use crate::host::{Host, connected};

async fn end(host: &Host, running: &Running, grace: Duration) -> (ShutdownStep, Duration) {
    let began = Instant::now();
    let plan = ShutdownPlan { started_at: jiff::Timestamp::now(), grace };
    let socket = host.paths(running.record.uid).socket(Listener::GuestAgent);
    let end = shut_down(&running.process, Some(&running.qmp), &socket, plan).await.unwrap();
    (end.step, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hears_the_power_button_ends_by_it() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=button")).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    let (step, _) = end(&host, &running, Duration::from_mins(1)).await;
    assert_eq!(step, ShutdownStep::PowerButton);
    host.wait_for_console(running.record.uid, "BUTTON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_deaf_to_the_button_ends_by_its_agent() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=agent")).await;
    let uid = running.record.uid;
    let mut boot = BootWatch::start(host.paths(uid), running.process.clone(), connected(&running));
    let booted = tokio::time::timeout(Duration::from_mins(2), boot.booted()).await.unwrap();
    assert_eq!(booted.signal, BootSignal::GuestAgent);
    let (step, _) = end(&host, &running, Duration::from_secs(20)).await;
    assert_eq!(step, ShutdownStep::GuestAgent);
    host.wait_for_console(uid, "SHUTDOWN-BY-AGENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_deaf_to_all_ends_by_quit_within_its_grace_time() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    let (step, took) = end(&host, &running, Duration::from_secs(3)).await;
    assert_eq!(step, ShutdownStep::Quit);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_qemu_is_killed_when_the_grace_time_is_over() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    let pid = nix::unistd::Pid::from_raw(running.process.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let (step, took) = end(&host, &running, Duration::from_secs(4)).await;
    assert_eq!(step, ShutdownStep::Kill);
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(running.process.wait_exit().await, ProcessExit::Signal(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_ran_is_not_waited_for() {
    let host = Host::new();
    let running = host.launch(Host::paused()).await;
    let (step, took) = end(&host, &running, Duration::from_mins(10)).await;
    assert_eq!(step, ShutdownStep::Quit);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_goes_on_where_the_agent_before_left_it() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    let socket = host.paths(running.record.uid).socket(Listener::GuestAgent);
    let grace = Duration::from_mins(10);
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(599);
    let plan = ShutdownPlan { started_at: long_ago, grace };
    let end = tokio::time::timeout(Duration::from_secs(30), shut_down(&running.process, None, &socket, plan));
    assert_eq!(end.await.unwrap().unwrap().step, ShutdownStep::Quit, "without QMP by SIGTERM");
}
