//! Tries what guests will need, and says what it found.

use std::{path::Path, process::Stdio, time::Duration};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tokio::process::Command;

use crate::{
    accelerator::Known,
    config::Config,
    errors::{and_more, with_causes},
    ledger::Ledger,
    observed::ChosenAccelerator,
    qemu::{Discovery, discover, known_guests},
    reconcile::Rooms,
};

/// A tool that does not tell its version within this time does not work.
const TOOL_LIMIT: Duration = Duration::from_secs(10);

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// For example `qemu`, `kvm`.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was tried and seen.
    pub message: String,
    /// What to do about it; empty when it passed.
    pub hint: String,
}

/// How a check went, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Works, but not as well as it could.
    Warning,
    /// Guests, or some of them, will not run.
    Fail,
}

impl Check {
    /// It is as it should be.
    pub fn pass(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Pass, message: message.into(), hint: String::new() }
    }

    /// It works, but not as well as it could.
    pub fn warning(name: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Warning, message: message.into(), hint: hint.into() }
    }

    /// Guests, or some of them, will not run.
    pub fn fail(name: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.to_owned(), verdict: Verdict::Fail, message: message.into(), hint: hint.into() }
    }
}

/// Tries everything.
pub async fn examine(config: &Config, rooms: &Rooms) -> Vec<Check> {
    let (qemu, image_tool, virtiofsd, nft) = tokio::join!(
        tool(
            "qemu",
            &config.qemu.binary,
            "-version",
            "install qemu-system-x86, or name it as qemu.binary",
            Verdict::Fail
        ),
        tool(
            "qemu-img",
            &config.qemu.image_tool,
            "--version",
            "install qemu-utils, or name it as qemu.image_tool",
            Verdict::Fail
        ),
        tool(
            "virtiofsd",
            &config.qemu.virtiofsd,
            "--version",
            "install the Rust virtiofsd, or name it as qemu.virtiofsd; without it no guest gets a certificate volume",
            Verdict::Warning,
        ),
        tool("nft", &config.network.nft, "--version", "install nftables, or name it as network.nft", Verdict::Fail),
    );
    let mut checks = vec![
        qemu,
        image_tool,
        virtiofsd,
        nft,
        runtime_directory(&config.directories.runtime),
        unreadable(&rooms.ledger),
    ];
    checks.push(strangers(&config.directories.runtime, rooms).await);
    checks.push(kvm(rooms.accelerators.known()));
    for name in rooms.issuers.names() {
        if let Some(issuer) = rooms.issuers.get(name) {
            let health = issuer.health().await;
            let name = format!("issuer {name}");
            checks.push(if health.ready {
                Check::pass(&name, health.message)
            } else {
                Check::warning(&name, health.message, "guests that run go on; new ones wait for their certificates")
            });
        }
    }
    checks
}

/// QEMUs that hold a guest's lock though nobody asked for the guest: after a ledger was lost, say. Never touched.
async fn strangers(runtime: &Path, rooms: &Rooms) -> Check {
    const NAME: &str = "strangers";
    let known = match known_guests(runtime) {
        Ok(known) => known,
        Err(error) => return Check::warning(NAME, with_causes(&error), "mend the runtime directory"),
    };
    let guests = rooms.ledger.snapshot().guests;
    let mut found = Vec::new();
    for uid in known.into_iter().filter(|uid| !guests.contains_key(uid)) {
        if !matches!(discover(&rooms.launcher.paths(uid), uid).await, Ok(Discovery::None)) {
            found.push(uid.to_string());
        }
    }
    if found.is_empty() {
        return Check::pass(NAME, "every QEMU is of a guest that was asked for");
    }
    let hint = "apply their guests with these uids again to take them up, or end them by hand";
    Check::fail(NAME, format!("QEMUs of guests that nobody asked for run: {}", found.join(", ")), hint)
}

/// An openable /dev/kvm proves nothing: some nested kinds run firmware and no stock Linux.
fn kvm(known: Known) -> Check {
    const NAME: &str = "kvm";
    const ENABLE: &str = "enable virtualisation in the machine's firmware and load kvm_intel or kvm_amd";
    match known {
        Known { automatic: Some(ChosenAccelerator::Kvm), message, .. } => Check::pass(NAME, message),
        Known { automatic: Some(ChosenAccelerator::Tcg), message, .. } => Check::warning(NAME, message, ENABLE),
        Known { tried: true, message, .. } => {
            Check::fail(NAME, message, format!("{ENABLE}, or set qemu.allow_tcg for a trial"))
        }
        Known { tried: false, message, .. } => {
            let hint = "ask again in some seconds; where /boot has no kernel, the first guest's image brings one";
            Check::warning(NAME, message, hint)
        }
    }
}

async fn tool(name: &str, path: &Path, argument: &str, hint: &str, missing: Verdict) -> Check {
    let bad = |message: String| Check { name: name.to_owned(), verdict: missing, message, hint: hint.to_owned() };
    let run = Command::new(path).arg(argument).stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(TOOL_LIMIT, run).await {
        Err(_) => bad(format!("{} {argument} did not end within {TOOL_LIMIT:?}", path.display())),
        Ok(Err(reason)) => bad(format!("{} cannot be run: {reason}", path.display())),
        Ok(Ok(output)) if !output.status.success() => {
            bad(format!("{} {argument} ended with {}", path.display(), output.status))
        }
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Check::pass(name, format!("{}: {}", path.display(), text.lines().next().unwrap_or_default().trim()))
        }
    }
}

/// Certificates and records of a run live in it: they must not reach a disk, nor survive the machine's uptime.
fn runtime_directory(path: &Path) -> Check {
    match statfs(path) {
        Ok(file_system) if file_system.filesystem_type() == TMPFS_MAGIC => {
            Check::pass("runtime", format!("{} is on a tmpfs", path.display()))
        }
        Ok(_) => Check::fail(
            "runtime",
            format!("{} is not on a tmpfs", path.display()),
            "set directories.runtime to a directory below /run: private keys of guests are kept there",
        ),
        Err(reason) => Check::fail("runtime", format!("{}: {reason}", path.display()), "create it, on a tmpfs"),
    }
}

fn unreadable(ledger: &Ledger) -> Check {
    match ledger.unreadable() {
        [] => Check::pass("ledger", "every record was read"),
        [first, rest @ ..] => Check::fail(
            "ledger",
            and_more(format_args!("{} is unreadable: {}", first.path.display(), first.reason), rest.len()),
            "what it is about is left alone: mend or remove the file, then restart the agent",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_is_not_there_is_told_with_what_to_do() {
        let check = tool("qemu", Path::new("/nowhere/qemu"), "-version", "install it", Verdict::Fail).await;
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.hint, "install it");
        assert!(check.message.contains("/nowhere/qemu"), "{}", check.message);
    }

    #[tokio::test]
    async fn a_tool_that_works_tells_its_version() {
        let check = tool("cargo", Path::new("/bin/bash"), "--version", "", Verdict::Fail).await;
        assert_eq!(check.verdict, Verdict::Pass);
        assert!(check.message.contains("version"), "{}", check.message);
    }

    #[tokio::test]
    async fn unreadable_records_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let guests = directory.path().join("guests");
        std::fs::create_dir_all(&guests).unwrap();
        let message = || unreadable(&Ledger::open(directory.path()).unwrap()).message;
        assert_eq!(message(), "every record was read");
        std::fs::write(guests.join("11111111-2222-3333-4444-555555555555.json"), "{ torn").unwrap();
        assert!(!message().contains("more"), "{}", message());
        std::fs::write(guests.join("22222222-2222-3333-4444-555555555555.json"), "{ torn").unwrap();
        assert!(message().ends_with(" (and 1 more)"), "{}", message());
    }

    #[test]
    fn kvm_that_was_not_tried_yet_is_no_failure() {
        let known = |tried, automatic| kvm(Known { tried, automatic, message: String::new() }).verdict;
        assert_eq!(known(false, None), Verdict::Warning);
        assert_eq!(known(true, None), Verdict::Fail);
        assert_eq!(known(true, Some(ChosenAccelerator::Tcg)), Verdict::Warning);
        assert_eq!(known(true, Some(ChosenAccelerator::Kvm)), Verdict::Pass);
    }

    #[test]
    fn a_runtime_directory_on_a_disk_fails() {
        assert_eq!(runtime_directory(Path::new("/dev/shm")).verdict, Verdict::Pass);
        assert_eq!(runtime_directory(Path::new("/etc")).verdict, Verdict::Fail);
    }
}
