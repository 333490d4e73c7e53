//! Tries what guests will need, and says what it found.

use std::{path::Path, process::Stdio, time::Duration};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tokio::process::Command;

use crate::{
    config::Config,
    errors::with_causes,
    ledger::Ledger,
    qemu::{Discovery, KvmVerdict, discover, known_guests},
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
    checks.push(kvm(rooms.accelerators.verdict(), config.qemu.allow_tcg));
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
fn kvm(verdict: Option<KvmVerdict>, allow_tcg: bool) -> Check {
    let how = match verdict {
        Some(verdict @ KvmVerdict::Works { .. }) => return Check::pass("kvm", verdict.to_string()),
        Some(verdict) => verdict.to_string(),
        None => "it was not tried yet".to_owned(),
    };
    let hint = "enable virtualisation in the machine's firmware and load kvm_intel or kvm_amd";
    if allow_tcg {
        Check::warning("kvm", format!("{how}; guests run emulated, many times slower"), hint)
    } else {
        Check::fail("kvm", how, format!("{hint}, or set qemu.allow_tcg for a trial"))
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
            format!("{} is unreadable ({}), and {} more", first.path.display(), first.reason, rest.len()),
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

    #[test]
    fn a_runtime_directory_on_a_disk_fails() {
        assert_eq!(runtime_directory(Path::new("/dev/shm")).verdict, Verdict::Pass);
        assert_eq!(runtime_directory(Path::new("/etc")).verdict, Verdict::Fail);
    }
}
