//! The real daemons, agent and operator, as processes in a machine's namespace.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
};

use crate::program;

/// An agent finds its guests again in well under a second; a machine with two busy processors is slower.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A daemon's drain is bounded; this is more.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// What a daemon's process is, and where it gets what it needs.
#[derive(Debug, Clone)]
pub struct DaemonFiles {
    /// As `cargo build` left it.
    pub program: PathBuf,
    /// Its network namespace.
    pub namespace: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// What it says.
    pub log: PathBuf,
    /// Where it says that it is ready, as to systemd.
    pub notify: PathBuf,
}

/// A running daemon; dropping it kills it, as a crash would.
#[derive(Debug)]
pub struct DaemonProcess {
    child: Child,
}

impl DaemonProcess {
    /// Starts it and returns at once: it may be killed at any moment of its start.
    pub fn spawn(files: &DaemonFiles) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(&files.log)?;
        let child = Command::new(program::installed("nsenter")?)
            .arg(format!("--net={}", files.namespace.display()))
            .arg(&files.program)
            .args(["run", "--config"])
            .arg(&files.config)
            .env("NOTIFY_SOCKET", &files.notify)
            .env(
                "GOLIATH_LOG",
                std::env::var("GOLIATH_LOG")
                    .unwrap_or_else(|_| "info,goliath_agent=debug,goliath_operator=debug".to_owned()),
            )
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C on the terminal is for the lab alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", files.program.display()))?;
        Ok(Self { child })
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(files: &DaemonFiles) -> Result<Self> {
        let socket = bind_notify(&files.notify)?;
        let mut daemon = Self::spawn(files)?;
        let outcome = tokio::select! {
            ready = tokio::time::timeout(START_LIMIT, until_ready(&socket)) => match ready {
                Ok(ready) => ready,
                Err(_) => bail!("it did not say that it is ready; its log is {}", files.log.display()),
            },
            status = daemon.child.wait() => bail!("it ended ({}); its log is {}", status?, files.log.display()),
        };
        outcome.map(|()| daemon)
    }

    /// Its number.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// SIGTERM, as systemd stops it, and waits for its end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        }
        let ended = tokio::time::timeout(STOP_LIMIT, self.child.wait());
        Ok(ended.await.context("it did not end after SIGTERM")??)
    }
}

fn bind_notify(path: &Path) -> Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(UnixDatagram::bind(path)?)
}

async fn until_ready(socket: &UnixDatagram) -> Result<()> {
    let mut message = [0; 4096];
    loop {
        let length = socket.recv(&mut message).await?;
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
        if text.lines().any(|line| line == "READY=1") {
            return Ok(());
        }
    }
}
