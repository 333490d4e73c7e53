//! Starts QEMU.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd, RawFd},
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    libc,
    sys::memfd::{MFdFlags, memfd_create},
    unistd::User,
};

use super::{
    arguments::{CommandLine, Descriptor, Listener, command_line},
    console_log::ConsoleLog,
    launch::{LOCK, LaunchPlan, STATUS},
    machine::{HostFacts, MachineConfig, SeedDevice},
    paths::GuestPaths,
    process::{Process, ProcessError, ProcessExit, ProcessRecord, boot_id, start_time_of},
    qmp::{Qmp, QmpError, QmpEvents, QmpLimits},
    scope,
};
use crate::{
    config::QemuConfig,
    spec::{ByteSize, GuestUid},
};

/// From the launch to QEMU's first word. Machines that start many guests at once are slow, not broken.
const START_LIMIT: Duration = Duration::from_mins(1);
/// From fork to exec of QEMU.
const SHIM_LIMIT: Duration = Duration::from_secs(20);
/// How much of QEMU's own words is kept from one launch to the next.
const LOG_LIMIT: ByteSize = ByteSize::mib(1);
/// How much of QEMU's own words goes into an error.
const STDERR_LIMIT: u64 = 8 << 10;

/// Starts QEMUs, all as the same unprivileged user.
#[derive(Debug, Clone)]
pub struct Launcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    binary: PathBuf,
    agent_binary: PathBuf,
    user: User,
    runtime: PathBuf,
    state: PathBuf,
    boot_id: String,
    host: HostFacts,
    limits: QmpLimits,
}

/// Why no guest can be started at all.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The configuration names nobody.
    #[error("there is no user {user:?} to run QEMU as: create it, or name another as qemu.user")]
    NoUser {
        /// As configured.
        user: String,
    },
    /// It names root, by whatever name.
    #[error("user {user:?} is root: QEMU never runs as root, name another as qemu.user")]
    RootUser {
        /// As configured.
        user: String,
    },
    /// Sockets would have longer names than the kernel takes.
    #[error("directories.runtime ({}) is {excess} bytes too long for sockets in it: choose a shorter one", path.display())]
    RuntimeTooLong {
        /// As configured.
        path: PathBuf,
        /// By how much.
        excess: usize,
    },
    /// The machine says no.
    #[error("cannot {what} {}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Open files for one launch; closed when it does not work.
#[derive(Debug, Default)]
pub struct Handed {
    /// The guest's tap, with a vnet header; wanted when the machine has a network device.
    pub tap: Option<OwnedFd>,
    /// A socket connected to virtiofsd; wanted when the machine has a virtiofs volume.
    pub certificates: Option<OwnedFd>,
}

/// A QEMU that speaks.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub process: Process,
    /// As it was written down.
    pub record: ProcessRecord,
    /// The connection to it.
    pub qmp: Qmp,
    /// From the first one on.
    pub events: QmpEvents,
}

/// Why a guest does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Another QEMU of the same uid lives, or is just being started.
    #[error("a QEMU of guest {uid} runs already: its lock {} is held", lock.display())]
    AlreadyRunning {
        /// Whose.
        uid: GuestUid,
        /// Held by it.
        lock: PathBuf,
    },
    /// The machine has a device for which nothing was handed over.
    #[error("the launch was given no {what}")]
    NotHanded {
        /// What.
        what: &'static str,
    },
    /// A file is not there, or not as it must be.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// QEMU's user lacks the right to read what QEMU opens by itself.
    #[error("{} must be readable for everyone (mode {mode:o}): QEMU's user reads it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The way from fork to exec failed.
    #[error("QEMU was not started: {reason}")]
    NotStarted {
        /// What failed.
        reason: String,
    },
    /// QEMU refused its arguments, or fell over at once.
    #[error("QEMU ended at once with {exit}: {stderr}")]
    Exited {
        /// How.
        exit: ProcessExit,
        /// Its own words.
        stderr: String,
    },
    /// QEMU runs and does not speak; it was killed.
    #[error("QEMU was started and did not speak: {stderr}")]
    Silent {
        /// What was heard instead.
        #[source]
        source: QmpError,
        /// Its own words.
        stderr: String,
    },
    /// Its process cannot be watched.
    #[error("QEMU's process cannot be watched")]
    Process(#[from] ProcessError),
}

impl Launcher {
    /// Looks at the host once. `agent_binary` is a program whose `launch` is [`super::launch::main`]: the agent's own,
    /// `/proc/self/exe`.
    pub fn new(
        config: &QemuConfig,
        runtime: &Path,
        state: &Path,
        agent_binary: PathBuf,
    ) -> Result<Self, LauncherError> {
        if let Some(excess) = GuestPaths::excess_length(runtime) {
            return Err(LauncherError::RuntimeTooLong { path: runtime.to_owned(), excess });
        }
        let user = match User::from_name(&config.user) {
            Ok(Some(user)) if user.uid.is_root() => return Err(LauncherError::RootUser { user: config.user.clone() }),
            Ok(Some(user)) => user,
            Ok(None) | Err(_) => return Err(LauncherError::NoUser { user: config.user.clone() }),
        };
        for directory in [runtime, state] {
            let guests = GuestPaths::all(directory);
            private_directory(&guests).map_err(|source| LauncherError::System {
                what: "make the directory",
                path: guests,
                source,
            })?;
        }
        let boot_id = boot_id().map_err(|source| LauncherError::System {
            what: "read",
            path: "/proc/sys/kernel/random/boot_id".into(),
            source,
        })?;
        let host = HostFacts {
            vhost_net: File::open("/dev/vhost-net").is_ok(),
            direct_io: takes_direct_io(&GuestPaths::all(state)),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                binary: config.binary.clone(),
                agent_binary,
                user,
                runtime: runtime.to_owned(),
                state: state.to_owned(),
                boot_id,
                host,
                limits: QmpLimits::default(),
            }),
        })
    }

    /// Where a guest's files are.
    pub fn paths(&self, uid: GuestUid) -> GuestPaths {
        GuestPaths::new(&self.shared.runtime, &self.shared.state, uid)
    }

    pub(super) fn runtime(&self) -> &Path {
        &self.shared.runtime
    }

    pub(super) fn binary(&self) -> &Path {
        &self.shared.binary
    }

    /// Whom QEMU runs as: uid and gid.
    pub fn user(&self) -> (u32, u32) {
        (self.shared.user.uid.as_raw(), self.shared.user.gid.as_raw())
    }

    /// Starts a QEMU and returns once it speaks. When this fails, none of this launch is left running; when the caller
    /// goes away meanwhile, one may be, and [`super::discover`] finds it.
    pub async fn launch(&self, machine: MachineConfig, handed: Handed) -> Result<Running, LaunchError> {
        let uid = machine.uid;
        let paths = self.paths(uid);
        let title = format!("{}/{}", machine.cluster, machine.name);
        let shared = Arc::clone(&self.shared);
        let started = {
            let paths = paths.clone();
            tokio::task::spawn_blocking(move || shared.start(&machine, handed, &paths))
                .await
                .map_err(|reason| LaunchError::NotStarted { reason: reason.to_string() })?
        };
        let Started { record, log_start } = started?;
        let process = Process::open(record.pid, record.start_time)?;
        if scope::systemd_is_running()
            && let Err(reason) = scope::enter(uid, &title, record.pid.cast_unsigned()).await
        {
            // With `KillMode=process` in the agent's unit, QEMU is safe without it too.
            tracing::warn!(%uid, %reason, "QEMU has no scope of its own");
        }
        let limits = QmpLimits { connect: START_LIMIT, ..self.shared.limits };
        let socket = paths.socket(Listener::Qmp);
        let stderr = || said_since(&paths.qemu_log(), log_start);
        let outcome = tokio::select! {
            biased;
            connected = Qmp::connect(&socket, limits) => connected,
            exit = process.wait_exit() => return Err(LaunchError::Exited { exit, stderr: stderr() }),
        };
        match outcome {
            Ok((qmp, events)) => Ok(Running { process, record, qmp, events }),
            Err(source) => {
                // A QEMU that falls closes its sockets a moment before it is dead.
                let ended = tokio::time::timeout(Duration::from_secs(1), process.wait_exit()).await;
                if let Ok(exit) = ended {
                    return Err(LaunchError::Exited { exit, stderr: stderr() });
                }
                process.kill()?;
                process.wait_exit().await;
                Err(LaunchError::Silent { source, stderr: stderr() })
            }
        }
    }
}

struct Started {
    record: ProcessRecord,
    log_start: u64,
}

impl Shared {
    /// Everything up to QEMU's first instruction; blocks.
    fn start(&self, machine: &MachineConfig, handed: Handed, paths: &GuestPaths) -> Result<Started, LaunchError> {
        for directory in [paths.runtime(), paths.state()] {
            private_directory(directory).map_err(at("make the directory", directory))?;
        }
        // First of all: below, sockets are replaced that a living QEMU would need.
        let lock = take_lock(machine.uid, &paths.lock())?;
        // The last one's must not be taken for this one's.
        let record_path = paths.process_record();
        match fs::remove_file(&record_path) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                return Err(at("remove", &record_path)(reason));
            }
            _ => {}
        }
        let CommandLine { arguments, descriptors } = command_line(machine, self.host);
        let numbers: Vec<RawFd> = descriptors.iter().map(|(number, _)| *number).collect();
        let mut mappings = vec![FdMapping { parent_fd: lock.into(), child_fd: LOCK }];
        let mut handed = handed;
        for (number, descriptor) in descriptors {
            let parent_fd = open(descriptor, machine, &mut handed, paths)?;
            mappings.push(FdMapping { parent_fd, child_fd: number });
        }
        let plan = LaunchPlan {
            program: self.binary.clone(),
            arguments,
            descriptors: numbers,
            user: self.user.uid.as_raw(),
            group: self.user.gid.as_raw(),
            record_path: record_path.clone(),
            record: ProcessRecord {
                uid: machine.uid,
                generation: machine.generation,
                accelerator: machine.accelerator,
                started_at: jiff::Timestamp::now(),
                boot_id: self.boot_id.clone(),
                pid: 0,
                start_time: 0,
            },
        };
        let plan =
            serde_json::to_vec(&plan).map_err(|reason| LaunchError::NotStarted { reason: reason.to_string() })?;
        let plan = in_memory("plan", &plan).map_err(at("write", Path::new("memfd:plan")))?;

        let log_path = paths.qemu_log();
        ConsoleLog::new(log_path.clone(), LOG_LIMIT).trim().map_err(at("trim", &log_path))?;
        let log = append_to(&log_path)?;
        let log_start = log.metadata().map_err(at("look at", &log_path))?.len();
        let second = log.try_clone().map_err(at("open", &log_path))?;
        let not_started = |what: &str| {
            let what = what.to_owned();
            move |reason: io::Error| LaunchError::NotStarted { reason: format!("{what}: {reason}") }
        };
        let (status, status_writer) = io::pipe().map_err(not_started("pipe"))?;
        mappings.push(FdMapping { parent_fd: status_writer.into(), child_fd: STATUS });

        let mut command = Command::new(&self.agent_binary);
        command.arg("launch").env_clear().current_dir("/").stdin(Stdio::from(plan)).stdout(log).stderr(second);
        command.fd_mappings(mappings).map_err(|reason| LaunchError::NotStarted { reason: reason.to_string() })?;
        let mut child = command.spawn().map_err(not_started(&format!("cannot run {}", self.agent_binary.display())))?;
        // The lock and the write end of the pipe are the child's alone from here on.
        drop(command);

        let pid = i32::try_from(child.id()).unwrap_or_default();
        let outcome = read_status(status);
        if let Err(reason) = outcome {
            // Our own child, not reaped yet: the pid is still its own. It ends by itself, but for a hang.
            let _ = child.kill();
            let _ = child.wait();
            return Err(LaunchError::NotStarted { reason });
        }
        let text = fs::read(&record_path).map_err(at("read", &record_path))?;
        let record: ProcessRecord = serde_json::from_slice(&text)
            .map_err(|reason| LaunchError::NotStarted { reason: format!("its record is damaged: {reason}") })?;
        debug_assert_eq!((record.pid, record.start_time), (pid, start_time_of(pid).unwrap_or_default()));
        Ok(Started { record, log_start })
    }
}

/// Waits until the pipe closes at exec, or has a reason.
fn read_status(mut status: io::PipeReader) -> Result<(), String> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let limit = PollTimeout::try_from(SHIM_LIMIT).unwrap_or(PollTimeout::NONE);
    loop {
        match poll(&mut [PollFd::new(status.as_fd(), PollFlags::POLLIN)], limit) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(reason) => return Err(reason.to_string()),
            Ok(0) => return Err(format!("the launch took more than {SHIM_LIMIT:?}")),
            Ok(_) => break,
        }
    }
    let mut reason = String::new();
    match status.read_to_string(&mut reason) {
        Ok(0) => Ok(()),
        Ok(_) => Err(reason),
        Err(error) => Err(error.to_string()),
    }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::File { what, path, source }
}

/// The lock is the open file's, not the process's: who inherits the descriptor holds it on.
fn take_lock(uid: GuestUid, path: &Path) -> Result<File, LaunchError> {
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(at("open", path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(LaunchError::AlreadyRunning { uid, lock: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(at("lock", path)(source)),
    }
}

fn open(
    descriptor: Descriptor,
    machine: &MachineConfig,
    handed: &mut Handed,
    paths: &GuestPaths,
) -> Result<OwnedFd, LaunchError> {
    let read = |path: &Path| File::open(path).map_err(at("open", path));
    let read_write = |path: &Path| OpenOptions::new().read(true).write(true).open(path).map_err(at("open", path));
    Ok(match descriptor {
        Descriptor::Listener(listener) => listen(&paths.socket(listener))?.into(),
        Descriptor::ConsoleLog => append_to(&paths.console_log())?.into(),
        Descriptor::Tap => handed.tap.take().ok_or(LaunchError::NotHanded { what: "tap" })?,
        Descriptor::VhostNet => read_write(Path::new("/dev/vhost-net"))?.into(),
        Descriptor::Kvm => read_write(Path::new("/dev/kvm"))?.into(),
        Descriptor::CertificateVolume => {
            handed.certificates.take().ok_or(LaunchError::NotHanded { what: "socket of the certificate volume" })?
        }
        Descriptor::Ignition => {
            let document = match &machine.seed {
                Some(SeedDevice::Ignition(document)) => document.as_bytes(),
                _ => &[],
            };
            in_memory("ignition", document).map_err(at("write", Path::new("memfd:ignition")))?.into()
        }
        Descriptor::Loaded(path) => {
            let file = read(&path)?;
            let mode = file.metadata().map_err(at("look at", &path))?.mode() & 0o7777;
            if mode & 0o004 == 0 {
                return Err(LaunchError::Unreadable { path, mode });
            }
            file.into()
        }
        Descriptor::ReadOnlyDisk(path) => read(&path)?.into(),
        Descriptor::Disk { path, direct } => {
            let flags = if direct { libc::O_DIRECT } else { 0 };
            let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
            opened.map_err(at("open", &path))?.into()
        }
    })
}

/// Replaces what an earlier QEMU left; the guest's lock is held.
fn listen(path: &Path) -> Result<UnixListener, LaunchError> {
    match fs::remove_file(path) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => return Err(at("remove", path)(reason)),
        _ => {}
    }
    UnixListener::bind(path).map_err(at("listen on", path))
}

/// A file without a name, readable by whoever holds it.
fn in_memory(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn append_to(path: &Path) -> Result<File, LaunchError> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(at("open", path))
}

fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// tmpfs before Linux 6.6, and some others, do not.
fn takes_direct_io(directory: &Path) -> bool {
    let path = directory.join(".direct-io");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .is_ok();
    // It is not there when it could not be made.
    let _ = fs::remove_file(&path);
    opened
}

/// What QEMU wrote to its log since then: the end of it, when it is much.
fn said_since(log: &Path, start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(STDERR_LIMIT))))?;
        let mut text = Vec::new();
        file.take(STDERR_LIMIT).read_to_end(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) if text.is_empty() => "it said nothing".to_owned(),
        Ok(text) => String::from_utf8_lossy(&text).trim().to_owned(),
        Err(reason) => format!("its log cannot be read: {reason}"),
    }
}
