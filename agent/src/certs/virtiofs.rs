//! virtiofsd: shows a guest its certificate directory, read-only.
//!
//! The agent makes a listening socket, connects to it, and hands virtiofsd the listening end and QEMU the connected one:
//! no path leads to it, so nobody else can. virtiofsd takes that one connection and ends when it is closed. So it lives
//! as long as its QEMU does, whatever becomes of the agent; if the agent dies before QEMU has the connection, both ends
//! of it close and virtiofsd goes too. No lock is needed for that: a virtiofsd without its QEMU cannot be.
//!
//! It is root in a sandbox: namespaces of its own, the directory as its file system's root, seccomp, and of all rights
//! only those to take a caller's identity. Its outer process waits for the inner one, and each ends with the other.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{OpenOptionsExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream as StdStream},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    sys::resource::{Resource, setrlimit},
    unistd::setsid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    files,
    qemu::{Process, ProcessError, ProcessExit, boot_id, start_time_of},
};

/// Machines that start many guests at once are slow, not broken.
const START_LIMIT: Duration = Duration::from_secs(30);
/// From the end of its QEMU to its own.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How much of virtiofsd's own words goes into an error.
const LOG_LIMIT: usize = 4 << 10;
/// The listening socket in virtiofsd.
const SOCKET: i32 = 3;
/// All rights that virtiofsd keeps by default but those to become the guest's user and group for a call.
const DROPPED_CAPABILITIES: &str = "-chown:-dac_override:-fowner:-fsetid:-mknod:-setfcap";

/// What a virtiofsd needs.
#[derive(Debug, Clone)]
pub struct VirtiofsdConfig {
    /// The Rust virtiofsd.
    pub program: PathBuf,
    /// What the guest sees.
    pub directory: PathBuf,
    /// Where this guest's `virtiofsd.json` and `virtiofsd.log` are: on a tmpfs, root's alone.
    pub runtime: PathBuf,
}

/// A virtiofsd that runs. It is not ended when this is dropped.
#[derive(Debug, Clone)]
pub struct Virtiofsd {
    process: Process,
    log: PathBuf,
}

/// Why there is no virtiofsd.
#[derive(Debug, thiserror::Error)]
pub enum VirtiofsdError {
    /// The program cannot be run.
    #[error("{} cannot be run: install virtiofsd, or set qemu.virtiofsd to where it is", program.display())]
    NotStarted {
        /// As configured.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It ended before it spoke.
    #[error("virtiofsd ended at once with {exit}: {said}")]
    Ended {
        /// How.
        exit: ProcessExit,
        /// Its own words.
        said: String,
    },
    /// It runs and does not answer; it was killed.
    #[error("virtiofsd did not answer within {START_LIMIT:?}: {said}")]
    Silent {
        /// Its own words.
        said: String,
    },
    /// A file or a socket.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its process cannot be watched.
    #[error("virtiofsd's process cannot be watched")]
    Process(#[from] ProcessError),
}

/// A process as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    boot_id: String,
    pid: i32,
    start_time: u64,
}

impl Virtiofsd {
    /// Starts one and waits until it speaks vhost-user. The socket is connected to it, and is QEMU's: it goes to
    /// `-chardev socket,fd=`. For a guest that has no QEMU: one of an earlier QEMU that has not ended yet is ended.
    pub async fn launch(config: VirtiofsdConfig) -> Result<(Self, OwnedFd), VirtiofsdError> {
        if let Some(earlier) = Self::find(&config.runtime)? {
            earlier.end().await?;
        }
        let log = log_of(&config.runtime);
        let (process, connection) = tokio::task::spawn_blocking(move || start(&config))
            .await
            .map_err(|reason| VirtiofsdError::File { what: "write", path: log.clone(), source: reason.into() })??;
        let virtiofsd = Self { process, log };
        let connection = tokio::select! {
            answered = tokio::time::timeout(START_LIMIT, first_word(connection)) => match answered {
                Ok(Ok(connection)) => connection,
                Ok(Err(_)) | Err(_) => return Err(virtiofsd.give_up().await),
            },
            exit = virtiofsd.ended() => return Err(VirtiofsdError::Ended { exit, said: virtiofsd.said() }),
        };
        Ok((virtiofsd, connection.into()))
    }

    /// The one that an agent before this one started, if it lives.
    pub fn find(runtime: &Path) -> Result<Option<Self>, VirtiofsdError> {
        let path = record_of(runtime);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(VirtiofsdError::File { what: "read", path, source }),
        };
        let record: Record = serde_json::from_slice(&text).map_err(|reason| VirtiofsdError::File {
            what: "understand",
            path,
            source: reason.into(),
        })?;
        let boot = boot_id().map_err(at("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
        if record.boot_id != boot {
            return Ok(None);
        }
        match Process::open(record.pid, record.start_time) {
            Ok(process) => Ok(Some(Self { process, log: log_of(runtime) })),
            Err(ProcessError::Gone { .. }) => Ok(None),
            Err(reason) => Err(reason.into()),
        }
    }

    /// For people.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits for its end. While its QEMU runs that is a fault: the guest's certificates cannot be read until it has a
    /// new connection.
    pub async fn ended(&self) -> ProcessExit {
        self.process.wait_exit().await
    }

    /// The last that it said.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(LOG_LIMIT)..).unwrap_or_default();
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// Waits a little for it to end by itself, then kills it.
    pub async fn end(&self) -> Result<(), VirtiofsdError> {
        if tokio::time::timeout(END_LIMIT, self.ended()).await.is_err() {
            self.process.kill()?;
            self.ended().await;
        }
        Ok(())
    }

    async fn give_up(&self) -> VirtiofsdError {
        // One that closed the connection is about to be dead.
        match tokio::time::timeout(Duration::from_secs(1), self.ended()).await {
            Ok(exit) => VirtiofsdError::Ended { exit, said: self.said() },
            Err(_) => match self.process.kill() {
                Ok(()) => VirtiofsdError::Silent { said: self.said() },
                Err(reason) => reason.into(),
            },
        }
    }
}

/// Up to the new process, written down; blocks.
fn start(config: &VirtiofsdConfig) -> Result<(Process, StdStream), VirtiofsdError> {
    let socket = config.runtime.join("virtiofsd.sock");
    let listener = {
        files::remove(&socket).map_err(at("remove", &socket))?;
        let listener = UnixListener::bind(&socket).map_err(at("listen on", &socket))?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(at("protect", &socket))?;
        listener
    };
    let connection = StdStream::connect(&socket).map_err(at("connect to", &socket))?;
    files::remove(&socket).map_err(at("remove", &socket))?;

    let log_path = log_of(&config.runtime);
    let log = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(at("open", &log_path))?;
    let pid = spawn(config, listener, log)?;
    let start_time = start_time_of(pid).map_err(at("find", &config.program))?;
    let boot_id = boot_id().map_err(at("read", Path::new("/proc/sys/kernel/random/boot_id")))?;
    // Written before QEMU can have the connection: there is no virtiofsd in use of which nobody knows.
    let record = record_of(&config.runtime);
    serde_json::to_vec(&Record { boot_id, pid, start_time })
        .map_err(io::Error::from)
        .and_then(|text| files::write_whole(&record, &text, 0o600))
        .map_err(at("write", &record))?;
    Ok((Process::open(pid, start_time)?, connection))
}

fn spawn(config: &VirtiofsdConfig, listener: UnixListener, log: File) -> Result<i32, VirtiofsdError> {
    let not_started = |source| VirtiofsdError::NotStarted { program: config.program.clone(), source };
    let mut command = Command::new(&config.program);
    command
        .arg(format!("--fd={SOCKET}"))
        .arg("--shared-dir")
        .arg(&config.directory)
        .args(["--sandbox=namespace", "--seccomp=kill", "--readonly", "--cache=never", "--inode-file-handles=never"])
        .arg(format!("--modcaps={DROPPED_CAPABILITIES}"))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    detach(&mut command);
    command
        .fd_mappings(vec![FdMapping { parent_fd: listener.into(), child_fd: SOCKET }])
        .map_err(|reason| not_started(io::Error::new(io::ErrorKind::InvalidInput, reason)))?;
    // It is watched and reaped by its pidfd.
    let child = command.spawn().map_err(not_started)?;
    i32::try_from(child.id()).map_err(|reason| not_started(io::Error::other(reason)))
}

/// The process leaves the agent's session, and dumps no core: it maps the guest's memory.
fn detach(command: &mut Command) {
    let prepare = || {
        setsid()?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        Ok(())
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated and no lock is taken.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Asks for its features, as QEMU will ask again: whoever answers has its sandbox and serves.
async fn first_word(connection: StdStream) -> io::Result<StdStream> {
    /// vhost-user's header: request, flags with the version, size of what follows.
    const GET_FEATURES: [u32; 3] = [1, 1, 0];
    connection.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(connection)?;
    let request: Vec<u8> = GET_FEATURES.iter().flat_map(|word| word.to_ne_bytes()).collect();
    stream.write_all(&request).await?;
    let mut answer = [0; 12 + 8];
    stream.read_exact(&mut answer).await?;
    let connection = stream.into_std()?;
    connection.set_nonblocking(false)?;
    Ok(connection)
}

fn record_of(runtime: &Path) -> PathBuf {
    runtime.join("virtiofsd.json")
}

fn log_of(runtime: &Path) -> PathBuf {
    runtime.join("virtiofsd.log")
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VirtiofsdError {
    let path = path.to_owned();
    move |source| VirtiofsdError::File { what, path, source }
}
