//! QEMU's process: known by a pidfd, so that no signal ever reaches another one.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::{machine::VcpuAccelerator, readiness::readable};
use crate::spec::{Generation, GuestUid};

/// What is written down of a QEMU before it starts; in the runtime directory, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Whose it is.
    pub uid: GuestUid,
    /// Of the spec that it was started with.
    pub generation: Generation,
    /// As chosen for it.
    pub accelerator: VcpuAccelerator,
    /// By the host's clock.
    pub started_at: jiff::Timestamp,
    /// Of the machine: a pid means nothing in another boot.
    pub boot_id: String,
    /// Of QEMU.
    pub pid: i32,
    /// In clock ticks since the machine's start (field 22 of proc_pid_stat(5)); with the pid it names one process.
    pub start_time: u64,
}

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It ended, or its pid is another process's now.
    #[error("process {pid} is not there any more")]
    Gone {
        /// The pid it had.
        pid: i32,
    },
    /// The kernel said no.
    #[error("cannot {what} process {pid}")]
    System {
        /// What was tried.
        what: &'static str,
        /// With which.
        pid: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessExit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unseen: it was not our child.
    Unknown,
}

impl std::fmt::Display for ProcessExit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exit code {code}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
            Self::Unknown => formatter.write_str("an exit that was not seen"),
        }
    }
}

/// One process, for as long as the value lives, whatever happens to its pid. Clones are the same process.
#[derive(Debug, Clone)]
pub struct Process {
    pid: i32,
    start_time: u64,
    descriptor: Arc<AsyncFd<OwnedFd>>,
    exit: Arc<tokio::sync::OnceCell<ProcessExit>>,
}

impl Process {
    /// The process with this pid, if it started then. Must be called in a tokio runtime.
    pub fn open(pid: i32, start_time: u64) -> Result<Self, ProcessError> {
        let gone = || ProcessError::Gone { pid };
        let system = |what, source| ProcessError::System { what, pid, source };
        let raw = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or_else(gone)?;
        let descriptor = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Err(gone()),
            Err(reason) => return Err(system("open", reason.into())),
        };
        // Read after the descriptor was opened: a pid that was given away meanwhile shows another start.
        match start_time_of(pid) {
            Ok(found) if found == start_time => {}
            Ok(_) => return Err(gone()),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Err(gone()),
            Err(reason) => return Err(system("read the start of", reason)),
        }
        let descriptor = readable(descriptor).map_err(|reason| system("watch", reason))?;
        Ok(Self { pid, start_time, descriptor: Arc::new(descriptor), exit: Arc::default() })
    }

    /// For people and for `/proc`; never for signals.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// In clock ticks since the machine's start.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Waits for the end, and reaps a child of ours. May be called any number of times.
    pub async fn wait_exit(&self) -> ProcessExit {
        *self
            .exit
            .get_or_init(|| async {
                // An error here is the runtime's end.
                match self.descriptor.readable().await {
                    Ok(_) => self.reap(),
                    Err(_) => ProcessExit::Unknown,
                }
            })
            .await
    }

    fn reap(&self) -> ProcessExit {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.descriptor.get_ref().as_fd()), options) {
            Ok(Some(status)) => status
                .exit_status()
                .map(ProcessExit::Code)
                .or_else(|| status.terminating_signal().map(ProcessExit::Signal))
                .unwrap_or(ProcessExit::Unknown),
            // Not our child, or someone else reaped it.
            Ok(None) | Err(_) => ProcessExit::Unknown,
        }
    }

    /// SIGKILL. A process that is gone already is no error.
    pub fn kill(&self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL, "kill")
    }

    /// SIGTERM, upon which QEMU writes out what it holds and ends. A process that is gone already is no error.
    pub fn terminate(&self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM, "terminate")
    }

    fn signal(&self, signal: Signal, what: &'static str) -> Result<(), ProcessError> {
        match pidfd_send_signal(self.descriptor.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(reason) => Err(ProcessError::System { what, pid: self.pid, source: reason.into() }),
        }
    }
}

/// Field 22 of `/proc/<pid>/stat`.
pub(crate) fn start_time_of(pid: i32) -> io::Result<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/<pid>/stat has no start time"))
}

/// The program's name, field 2, may hold spaces and brackets of its own: only the last bracket closes it.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The machine's present boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_start_time_is_found_whatever_the_program_is_called() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        for name in ["qemu", "a b", "a) S 1 (b", ")", ""] {
            assert_eq!(parse_start_time(&format!("7 ({name}) {}", fields.join(" "))), Some(22), "{name:?}");
        }
        for bad in ["", "7 (qemu) S 1", "7 qemu S"] {
            assert_eq!(parse_start_time(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_childs_end_is_seen_with_its_status() {
        for (script, expected) in [("exit 3", ProcessExit::Code(3)), ("kill -TERM $$", ProcessExit::Signal(15))] {
            let child = Command::new("sh")
                .args(["-c", &format!("read line; {script}")])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            let process = Process::open(pid, start_time_of(pid).unwrap()).unwrap();
            drop(child);
            assert_eq!(process.wait_exit().await, expected);
            assert_eq!(process.clone().wait_exit().await, expected, "the end is remembered");
            process.kill().unwrap();
        }
    }

    #[tokio::test]
    async fn another_process_with_the_same_pid_is_not_taken_for_ours() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let start_time = start_time_of(pid).unwrap();
        assert!(Process::open(pid, start_time).is_ok());
        assert!(matches!(Process::open(pid, start_time + 1), Err(ProcessError::Gone { .. })));
        assert!(matches!(Process::open(-1, start_time), Err(ProcessError::Gone { .. })));
    }
}
