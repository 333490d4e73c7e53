//! Network namespaces as machines.
//!
//! Everything that is made here is removed when its value is dropped, also when a test fails.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{geteuid, pipe, read, write},
};
use tempfile::TempDir;

/// Where `ip netns` binds namespaces.
const BOUND: &str = "/run/netns";

/// A machine, as far as its network goes.
#[derive(Debug)]
pub struct Machine {
    name: String,
    path: PathBuf,
}

/// Makes names differ within a process; its number makes them differ between processes.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// What no other name on this machine begins with.
pub fn unique_prefix() -> String {
    format!("lab-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

impl Machine {
    /// A machine without any device but its loopback. `label` is for people who look at `ip netns`.
    pub fn new(label: &str) -> Result<Self> {
        Self::named(format!("{}-{label}", unique_prefix()))
    }

    /// As [`Machine::new`], with the whole name of its namespace.
    pub fn named(name: String) -> Result<Self> {
        ensure!(geteuid().is_root(), "the lab makes network namespaces: run it as root, for example with sudo");
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let machine = Self { path: Path::new(BOUND).join(&name), name };
        machine.run("ip link set lo up")?;
        Ok(machine)
    }

    /// Of its namespace, for `nsenter --net=` and as `ip` knows it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run on the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs a command line, without quoting, to its end; what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        run(&mut self.try_command(line)?)
    }

    /// Whether a command line succeeds.
    pub fn succeeds(&self, line: &str) -> Result<bool> {
        Ok(self.try_command(line)?.output().with_context(|| format!("cannot start `{line}`"))?.status.success())
    }

    fn try_command(&self, line: &str) -> Result<Command> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().context("the command line is empty")?);
        command.args(words);
        Ok(command)
    }

    /// Loads nftables rules.
    pub fn nft(&self, script: &str) -> Result<()> {
        run(self.command("nft").arg(script)).map(drop)
    }

    /// Runs a closure on a thread in the machine's namespace.
    pub fn inside<R: Send>(&self, closure: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        inside(&self.path, closure)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs a closure on a thread in a namespace that is bound at a path.
pub fn inside<R: Send>(namespace: &Path, closure: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let file = fs::File::open(namespace).with_context(|| format!("there is no namespace {}", namespace.display()))?;
    let work = move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
        closure()
    };
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow::anyhow!("the closure panicked"))?
}

/// Runs a command to its end; what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {command:?}: is it installed?"))?;
    if !status.success() {
        bail!("{command:?} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// A cable between two machines: a device of this name on each.
pub fn connect((one, device): (&Machine, &str), (other, other_device): (&Machine, &str)) -> Result<()> {
    one.run(&format!("ip link add {device} type veth peer name {other_device} netns {}", other.name))?;
    one.run(&format!("ip link set {device} up"))?;
    other.run(&format!("ip link set {other_device} up"))?;
    Ok(())
}

/// Removes every namespace whose name begins with `prefix` and a hyphen.
pub(crate) fn remove_all(prefix: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(BOUND) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')) {
            run(Command::new("ip").args(["netns", "delete", &name]))?;
        }
    }
    Ok(())
}

/// A directory in which an agent binds its clusters' namespaces; what a failed test leaves there goes with it.
#[derive(Debug)]
pub struct NamespaceDirectory(TempDir);

impl NamespaceDirectory {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("goliath-lab-netns").tempdir()?))
    }

    /// For the agent's configuration.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for NamespaceDirectory {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Carries frames between two open taps, until it is dropped: a guest without a QEMU.
#[derive(Debug)]
pub struct Cable {
    carrier: Option<JoinHandle<()>>,
    /// Closing it ends the thread.
    stop: Option<OwnedFd>,
}

impl Cable {
    /// Takes both ends; they are closed when the cable is dropped.
    pub fn between(one: OwnedFd, other: OwnedFd) -> Result<Self> {
        let (stopped, stop) = pipe()?;
        let carrier = std::thread::spawn(move || {
            let mut frame = vec![0; 70_000];
            loop {
                let wait = |file| PollFd::new(file, PollFlags::POLLIN);
                let mut files = [wait(stopped.as_fd()), wait(one.as_fd()), wait(other.as_fd())];
                if poll(&mut files, PollTimeout::NONE).is_err() {
                    return;
                }
                let ready: Vec<bool> = files.iter().map(|file| file.any().unwrap_or(false)).collect();
                if ready[0] {
                    return;
                }
                for (ready, from, to) in [(ready[1], &one, &other), (ready[2], &other, &one)] {
                    if !ready {
                        continue;
                    }
                    match read(from, &mut frame) {
                        // A device that is down loses frames, as a cable into it would.
                        Ok(length) => drop(write(to, &frame[..length])),
                        Err(_) => return,
                    }
                }
            }
        });
        Ok(Self { carrier: Some(carrier), stop: Some(stop) })
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}
