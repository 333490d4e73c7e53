//! Processes of one lab: known by the lab's directory, whose name is unique, in their arguments or open files.

use std::{
    ffi::OsStr,
    fs,
    io::{self},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, held by a descriptor: its number cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    /// For people.
    pub pid: i32,
    /// Its arguments, with blanks between them.
    pub command: String,
    descriptor: OwnedFd,
}

impl Process {
    /// Holds a process that runs; none where there is none of this number.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
        let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after it is held. A zombie has no arguments.
        let arguments = arguments_of(Path::new(&format!("/proc/{pid}")));
        let command = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
        Ok((!command.is_empty()).then_some(Self { pid, command, descriptor }))
    }

    /// SIGKILL.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGTERM.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: it is there and does nothing.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end; false when `limit` passed first.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        readable(self.descriptor.as_fd(), Instant::now() + limit)
    }
}

/// Waits until a descriptor has something to say; false when the deadline passed first.
pub(crate) fn readable(descriptor: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], timeout) {
            Ok(ready) => return Ok(ready > 0),
            // Children of the lab end at any time, and their signals come to any thread.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The processes that have `directory` in their arguments, or an open file below it.
pub fn running_in(directory: &Path) -> Result<Vec<Process>> {
    let own = fs::read_link("/proc/self/exe").context("cannot read /proc")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid.cast_unsigned() == std::process::id() {
            continue;
        }
        // A child of this program that did not become another one yet has our files, and ends by itself.
        let is_mine = || fs::read_link(entry.path().join("exe")).is_ok_and(|program| program == own);
        if belongs(&entry.path(), directory)
            && !is_mine()
            && let Some(process) = Process::open(pid)?
            // Once more, of the process that is now held.
            && belongs(&entry.path(), directory)
        {
            found.push(process);
        }
    }
    Ok(found)
}

fn belongs(process: &Path, directory: &Path) -> bool {
    mentions(&arguments_of(process), directory.as_os_str()) || {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.starts_with(directory))
    }
}

/// A process's arguments, each with a zero byte behind it; none of a zombie's or a kernel thread's.
fn arguments_of(process: &Path) -> Vec<u8> {
    let (own_program, own_arguments) = (fs::read_link("/proc/self/exe"), fs::read("/proc/self/cmdline"));
    let mut arguments = Vec::new();
    // Whoever starts a process goes on when it lets go of the memory that it was started with. Then it is still seen in
    // there for a moment, and for another it has a program of its own and no arguments yet. Neither lasts.
    for _ in 0..1000 {
        let program = fs::read_link(process.join("exe"));
        arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        let is_copy = || matches!((&program, &own_program), (Ok(program), Ok(own)) if program == own);
        let in_between = match own_arguments.as_ref() {
            Ok(own) if arguments == *own => is_copy(),
            _ => arguments.is_empty() && program.is_ok(),
        };
        if !in_between {
            break;
        }
        thread::sleep(Duration::from_micros(100));
    }
    arguments
}

/// Ends them all, again and again until no new one has come.
pub fn end_all(directory: &Path) -> Result<()> {
    for _ in 0..10 {
        let processes = running_in(directory)?;
        if processes.is_empty() {
            return Ok(());
        }
        for process in &processes {
            process.kill().with_context(|| format!("cannot kill {}: {}", process.pid, process.command))?;
        }
        for process in &processes {
            process.wait(Duration::from_secs(10))?;
        }
    }
    let left: Vec<String> = running_in(directory)?.into_iter().map(|process| process.command).collect();
    anyhow::ensure!(left.is_empty(), "these do not end: {}", left.join("; "));
    Ok(())
}

fn mentions(arguments: &[u8], directory: &OsStr) -> bool {
    let directory = directory.as_bytes();
    arguments.windows(directory.len()).any(|window| window == directory)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_by_its_arguments_from_the_moment_it_was_started() {
        let directory = Path::new("/nowhere/in/particular");
        for _ in 0..500 {
            let mut child = Command::new("cat").arg("-").arg(directory).stdin(Stdio::piped()).spawn().unwrap();
            let known = belongs(Path::new(&format!("/proc/{}", child.id())), directory);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(known);
        }
    }
}
