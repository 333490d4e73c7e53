//! The guest's own word that it is up.
//!
//! Two ways: it writes `READY=1` and a newline, as to sd_notify(3), to the virtio-serial port `goliath.notify.0`; or its
//! qemu-guest-agent answers. A guest that writes while no agent listens waits, since QEMU then shows it a port whose
//! other end is closed, so nothing is lost; and what was seen is written down beside the process it was seen of, for the
//! agent that comes after.

use std::{convert::Infallible, fs, io, path::Path, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::UnixStream,
    sync::{broadcast::error::RecvError, watch},
    task::AbortHandle,
};

use super::{
    arguments::{GUEST_AGENT_ID, Listener},
    guest_agent::GuestAgent,
    paths::GuestPaths,
    process::Process,
    qmp::{Qmp, QmpEvent, schema},
};

/// How a guest said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootSignal {
    /// `READY=1` on the notify port.
    Notified,
    /// Its guest agent answered.
    GuestAgent,
}

impl std::fmt::Display for BootSignal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Notified => "the guest wrote READY=1",
            Self::GuestAgent => "the guest's agent answers",
        })
    }
}

/// A guest that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// How it said so.
    pub signal: BootSignal,
    /// When that was seen.
    pub at: Timestamp,
}

/// Of which process it was seen.
#[derive(Debug, Serialize, Deserialize)]
struct BootRecord {
    pid: i32,
    start_time: u64,
    booted: Booted,
}

/// Watches one QEMU for the signal, in a task that ends with this value.
#[derive(Debug)]
pub struct BootWatch {
    booted: watch::Receiver<Option<Booted>>,
    task: AbortHandle,
}

impl BootWatch {
    /// What was seen of this very process before counts. `qmp` is the connection of the moment, if there is one: a guest
    /// that writes is heard without, a guest agent is asked once there is.
    pub fn start(paths: GuestPaths, process: Process, qmp: watch::Receiver<Option<Qmp>>) -> Self {
        let (sender, booted) = watch::channel(None);
        let task = tokio::spawn(async move {
            let seen = if let Some(booted) = read_record(&paths.boot_record(), &process) {
                booted
            } else {
                let booted = signalled(&paths, qmp).await;
                if let Err(reason) = write_record(&paths.boot_record(), &process, booted) {
                    tracing::warn!(%reason, "cannot write down that the guest is up");
                }
                booted
            };
            // Nobody waits for it: nobody wants to know.
            let _ = sender.send(Some(seen));
            // The sender stays, so that waiting after the signal is as good as before it.
            sender.closed().await;
        });
        Self { booted, task: task.abort_handle() }
    }

    /// Waits until the guest is up; for a guest that never says so, for ever. Dropping it loses nothing.
    pub async fn booted(&mut self) -> Booted {
        match self.booted.wait_for(Option::is_some).await.map(|booted| *booted) {
            Ok(Some(booted)) => booted,
            // The task ends before this value only with the runtime.
            _ => std::future::pending().await,
        }
    }
}

impl Drop for BootWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Of a word with the guest agent.
const AGENT_LIMIT: Duration = Duration::from_secs(5);
/// Until it is asked again, or a lost connection tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Of a line from the guest.
const LINE_LIMIT: u64 = 4096;

async fn signalled(paths: &GuestPaths, qmp: watch::Receiver<Option<Qmp>>) -> Booted {
    let (notify, guest_agent) = (paths.socket(Listener::Notify), paths.socket(Listener::GuestAgent));
    let signal = tokio::select! {
        () = notified(&notify) => BootSignal::Notified,
        () = guest_agent_answers(&guest_agent, qmp) => BootSignal::GuestAgent,
    };
    Booted { signal, at: Timestamp::now() }
}

async fn notified(socket: &Path) {
    loop {
        // An error is the end of QEMU, which others see, or of our connection.
        if let Ok(()) = read_notification(socket).await {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn read_notification(socket: &Path) -> io::Result<()> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut stream).take(LINE_LIMIT).read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == b"READY=1\n" {
            return Ok(());
        }
    }
}

/// With each connection anew, whenever it comes.
async fn guest_agent_answers(socket: &Path, mut qmp: watch::Receiver<Option<Qmp>>) {
    loop {
        let connection = qmp.borrow_and_update().clone();
        let answers = async {
            match &connection {
                Some(qmp) => guest_agent_answers_during(socket, qmp).await,
                None => never().await,
            }
        };
        let replaced = async {
            if qmp.changed().await.is_err() {
                never().await;
            }
        };
        tokio::select! {
            () = answers => return,
            () = replaced => {}
        }
    }
}

async fn guest_agent_answers_during(socket: &Path, qmp: &Qmp) {
    let mut events = qmp.events();
    loop {
        if agent_port_is_open(qmp).await && GuestAgent::connect(socket, AGENT_LIMIT).await.is_ok() {
            return;
        }
        let opened = async {
            loop {
                match events.recv().await {
                    Ok(QmpEvent::Known(event)) => match *event {
                        schema::Event::VSERPORT_CHANGE { data, .. } if data.id == GUEST_AGENT_ID && data.open => return,
                        _ => {}
                    },
                    Ok(QmpEvent::Other { .. }) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => never().await,
                }
            }
        };
        if agent_port_is_open(qmp).await {
            // Open and not answering: it may be starting.
            let _ = tokio::time::timeout(AGAIN, opened).await;
        } else {
            opened.await;
        }
    }
}

async fn never() {
    std::future::pending::<Infallible>().await;
}

async fn agent_port_is_open(qmp: &Qmp) -> bool {
    let devices = qmp.execute(schema::query_chardev {}).await.unwrap_or_default();
    devices.iter().any(|device| device.label == GUEST_AGENT_ID && device.frontend_open)
}

fn read_record(path: &Path, process: &Process) -> Option<Booted> {
    let record: BootRecord = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record.pid == process.pid() && record.start_time == process.start_time()).then_some(record.booted)
}

fn write_record(path: &Path, process: &Process, booted: Booted) -> io::Result<()> {
    let record = BootRecord { pid: process.pid(), start_time: process.start_time(), booted };
    // On a tmpfs, where it is quick.
    crate::files::write_whole(path, &serde_json::to_vec(&record)?, 0o600)
}
