//! PID 1 of the tiny image.
//!
//! Boots in the order of `boot` below, one line on the console for each step, then serves:
//! HTTPS on 8443 with the certificate of the volume, HTTP on 8080, a line shell on the serial console.
//! Switches on the kernel's command line: `goliath.ignore_power_button`, `goliath.no_ready`.

mod certificates;
mod console;
mod kernel;
mod medium;
mod network;
mod ping;
mod power;
mod ready;
mod seed;
mod serve;
mod status;

use std::{path::Path, process::ExitCode, thread};

use nix::sys::signal::{SigSet, Signal};

/// Says one line on the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::print(&format!("goliath-init: {}\n", format_args!($($argument)*))) };
}

/// Where the certificate volume is mounted.
const CERTIFICATES: &str = "/run/goliath/certs";

fn main() -> ExitCode {
    if !nix::unistd::getpid().eq(&nix::unistd::Pid::from_raw(1)) {
        eprintln!("goliath-guest-init is PID 1 of the tiny guest image; it does nothing on a running system");
        return ExitCode::FAILURE;
    }
    // Before any thread exists, so that all of them inherit it and the reaper alone hears of children.
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    if let Err(error) = children.thread_block() {
        say!("error: SIGCHLD cannot be blocked: {error}");
    }
    boot();
    reap(&children)
}

/// A step that fails is said and skipped: a guest that can be reached by its console alone is still better than none.
fn boot() {
    if let Err(error) = kernel::mount_system() {
        say!("error: {error}");
    }
    let switches = kernel::Switches::read();
    let modules = kernel::load_modules(Path::new("/lib/modules"));
    say!("modules {}", modules.loaded.join(" "));
    for failure in modules.failed {
        say!("error: {failure}");
    }
    if switches.ignore_power_button {
        say!("power button is ignored");
    } else {
        power::watch_buttons();
    }
    match seed::read() {
        Ok(Some(seed)) => apply(&seed),
        Ok(None) => say!("no seed disk: no hostname and no network"),
        Err(error) => say!("error: {error}"),
    }
    match kernel::mount_certificates(Path::new(CERTIFICATES)) {
        Ok(true) => say!("certificates at {CERTIFICATES}"),
        Ok(false) => match medium::follow(Path::new(CERTIFICATES)) {
            Ok(true) => say!("certificates at {CERTIFICATES}, copied from their disk"),
            Ok(false) => say!("no certificate volume"),
            Err(error) => say!("error: {error}"),
        },
        Err(error) => say!("error: {error}"),
    }
    for outcome in [serve::http(8080), serve::https(8443, Path::new(CERTIFICATES))] {
        match outcome {
            Ok(service) => say!("serving {service}"),
            Err(error) => say!("error: {error}"),
        }
    }
    if switches.no_ready {
        say!("ready is not told");
    } else {
        ready::tell();
    }
    say!("ready");
    thread::spawn(console::run);
}

fn apply(seed: &seed::Seed) {
    if let Some(hostname) = &seed.hostname {
        match nix::unistd::sethostname(hostname) {
            Ok(()) => say!("hostname {hostname}"),
            Err(error) => say!("error: the hostname {hostname} was refused: {error}"),
        }
    }
    for interface in &seed.interfaces {
        match network::configure(interface) {
            Ok(name) => say!("network {name} {interface}"),
            Err(error) => say!("error: {error}"),
        }
    }
}

/// Orphans become PID 1's children.
fn reap(children: &SigSet) -> ! {
    loop {
        if children.wait().is_err() {
            thread::park();
        }
        while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status != nix::sys::wait::WaitStatus::StillAlive)
        {}
    }
}
