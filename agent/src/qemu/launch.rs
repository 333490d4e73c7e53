//! What stands between the agent and QEMU: `goliath-agent launch`, which confines itself and becomes QEMU.
//!
//! The agent starts its own program anew with this, because what must happen in the new process before QEMU runs
//! (write down who it will be, leave the agent's session and network, give up all rights) is more than is safe between
//! fork and exec of a program with threads. The plan comes on standard input: nothing of it shows in the list of
//! processes.
//!
//! ```text
//! descriptor 0  the plan (JSON), then /dev/null     3  the lock, held by QEMU until it ends
//!            1,2  QEMU's log                        4  status: a reason when this fails, closed by exec when it works
//!                                                   5… what QEMU's arguments speak of
//! ```

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use command_fds::{
    CommandFdExt as _, FdMapping,
    inherited::{init_inherited_fds, take_fd_ownership},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_no_new_privs,
        resource::{Resource, setrlimit},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, setgid, setgroups, setsid, setuid},
};
use serde::{Deserialize, Serialize};

use super::process::{ProcessRecord, start_time_of};

/// The guest's lock.
pub(super) const LOCK: RawFd = 3;
/// Where a failure is told.
pub(super) const STATUS: RawFd = 4;

/// All that is to be done.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// QEMU.
    pub program: PathBuf,
    /// QEMU's.
    pub arguments: Vec<String>,
    /// Descriptors that QEMU keeps, under the same numbers.
    pub descriptors: Vec<RawFd>,
    /// Whom it becomes.
    pub user: u32,
    /// And the only group it has.
    pub group: u32,
    /// Where the record goes.
    pub record_path: PathBuf,
    /// Written once pid and start time are filled in.
    pub record: ProcessRecord,
}

/// Why QEMU was not reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
struct LaunchFailure {
    what: &'static str,
    source: io::Error,
}

fn failure<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> LaunchFailure {
    move |source| LaunchFailure { what, source: source.into() }
}

/// `goliath-agent launch`. Must be called first thing in the program, before any file is opened or thread started; it
/// does not return when it works.
pub fn main() -> ExitCode {
    let mut status = match inherited(STATUS) {
        Ok(status) => File::from(status),
        Err(reason) => {
            eprintln!("goliath-agent launch is for the agent itself: {reason}");
            return ExitCode::from(2);
        }
    };
    let Err(reason) = launch();
    // Nobody may be there to read it: the log has it too.
    let _ = write!(status, "{reason}");
    eprintln!("goliath-agent launch: {reason}");
    ExitCode::FAILURE
}

/// Takes over a descriptor that the agent handed down; all others close at exec.
fn inherited(number: RawFd) -> Result<OwnedFd, LaunchFailure> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut result = Ok(());
    TAKEN.call_once(|| {
        // SAFETY: `main` is the first thing that the program does, and this is the first thing `main` does: no other
        // owner of a descriptor exists.
        #[allow(unsafe_code)]
        let taken = unsafe { init_inherited_fds() };
        result = taken;
    });
    result.map_err(failure("take over the descriptors"))?;
    take_fd_ownership(number).map_err(|reason| LaunchFailure {
        what: "take over a descriptor",
        source: io::Error::new(io::ErrorKind::InvalidInput, reason),
    })
}

fn launch() -> Result<std::convert::Infallible, LaunchFailure> {
    let plan: LaunchPlan = serde_json::from_reader(io::stdin().lock()).map_err(failure("read the plan"))?;
    let lock = File::from(inherited(LOCK)?);
    // The agent locked it already, and it is the same lock; but nothing may start on an agent's word alone.
    lock.try_lock().map_err(|reason| LaunchFailure { what: "lock the guest", source: reason.into() })?;
    let mut mappings = vec![FdMapping { parent_fd: lock.into(), child_fd: LOCK }];
    for number in &plan.descriptors {
        mappings.push(FdMapping { parent_fd: inherited(*number)?, child_fd: *number });
    }

    setsid().map_err(failure("leave the agent's session"))?;
    umask(Mode::from_bits_truncate(0o077));
    // A core dump would hold the guest's memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failure("forbid core dumps"))?;
    record(&plan)?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(failure("enter an empty network namespace"))?;
    setgroups(&[]).map_err(failure("leave all groups"))?;
    setgid(Gid::from_raw(plan.group)).map_err(failure("become QEMU's group"))?;
    setuid(Uid::from_raw(plan.user)).map_err(failure("become QEMU's user"))?;
    set_no_new_privs().map_err(failure("forbid new privileges"))?;

    let mut command = Command::new(&plan.program);
    command.args(&plan.arguments).env_clear().stdin(Stdio::null());
    command.fd_mappings(mappings).map_err(|reason| LaunchFailure {
        what: "hand over the descriptors",
        source: io::Error::new(io::ErrorKind::InvalidInput, reason),
    })?;
    Err(LaunchFailure { what: "start QEMU", source: command.exec() })
}

/// Before QEMU runs, so that no QEMU runs of which nobody knows.
fn record(plan: &LaunchPlan) -> Result<(), LaunchFailure> {
    let what = "write down the process";
    let pid = nix::unistd::getpid().as_raw();
    let record = ProcessRecord { pid, start_time: start_time_of(pid).map_err(failure(what))?, ..plan.record.clone() };
    let text = serde_json::to_vec(&record).map_err(failure(what))?;
    let temporary = plan.record_path.with_extension("new");
    // In memory (the runtime directory is a tmpfs), so there is nothing to sync.
    std::fs::write(&temporary, text).map_err(failure(what))?;
    std::fs::rename(&temporary, &plan.record_path).map_err(failure(what))
}
