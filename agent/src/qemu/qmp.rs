//! The QEMU Machine Protocol: one connection per guest, in a task of its own.
//!
//! QEMU may be silent (stopped, swapped out) or, when its guest has broken out of it, hostile. So every command has a
//! time limit, lines and queues have bounds, and what is not understood is passed on or left out, never a panic. A
//! connection that breaks the protocol is closed with the reason.

mod carrier;
mod connection;
mod event;

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use qapi_qmp::QmpCommand;
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};

pub use event::QmpEvent;
pub use qapi_qmp as schema;

use carrier::Carrier;
use connection::{Opening, Reply, Request};

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub struct QmpLimits {
    /// From connecting to QEMU's first answers.
    pub connect: Duration,
    /// From [`Qmp::execute`] to its answer.
    pub command: Duration,
    /// Bytes of a line, as sent by QEMU.
    pub line: usize,
}

impl Default for QmpLimits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), command: Duration::from_secs(5), line: 1 << 20 }
    }
}

/// Why a command did not give its answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QmpError {
    /// No answer in time. It may still be carried out later.
    #[error("QEMU did not answer `{command}` within {limit:?}")]
    Timeout {
        /// Which one.
        command: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// There is no connection (any more).
    #[error("no QMP connection: {reason}")]
    Disconnected {
        /// How it ended.
        reason: Arc<str>,
    },
    /// QEMU said no.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// Which one.
        command: &'static str,
        /// QEMU's class of error, such as `GenericError`.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// QEMU's answer has another form than its schema says.
    #[error("QEMU's answer to `{command}` is not understood: {reason}")]
    Unexpected {
        /// Which one.
        command: &'static str,
        /// The parser's words.
        reason: String,
    },
}

impl QmpError {
    pub(super) fn disconnected(reason: impl std::fmt::Display) -> Self {
        Self::Disconnected { reason: reason.to_string().into() }
    }
}

/// Events as they come. A receiver that is too slow is told how many it missed (`Lagged`), and should then ask for
/// the state; it ends (`Closed`) with the connection.
pub type QmpEvents = broadcast::Receiver<QmpEvent>;

/// How many events a slow receiver may be behind.
const EVENT_BACKLOG: usize = 256;
/// How many commands may wait to be written.
const COMMAND_BACKLOG: usize = 16;

/// A connection; clones share it. It ends with its last clone, or with QEMU.
#[derive(Debug, Clone)]
pub struct Qmp {
    requests: mpsc::Sender<Request>,
    events: broadcast::WeakSender<QmpEvent>,
    end: Arc<std::sync::OnceLock<Arc<str>>>,
    limits: QmpLimits,
    version: Arc<str>,
    first_status: Option<schema::RunState>,
}

impl Qmp {
    /// Connects to a socket on which QEMU listens, and leaves negotiation mode. The receiver misses no event.
    pub async fn connect(path: &Path, limits: QmpLimits) -> Result<(Self, QmpEvents), QmpError> {
        let connecting = async {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|reason| QmpError::disconnected(format_args!("{}: {reason}", path.display())))?;
            Self::over(stream, limits).await
        };
        timeout(limits.connect, connecting)
            .await
            .unwrap_or(Err(QmpError::Timeout { command: "qmp_capabilities", limit: limits.connect }))
    }

    async fn over<S>(stream: S, limits: QmpLimits) -> Result<(Self, QmpEvents), QmpError>
    where
        S: Carrier + Send + 'static,
    {
        let (connection, Opening { version, status }, early) =
            connection::Connection::open(stream, limits.line).await?;
        let (requests, queue) = mpsc::channel(COMMAND_BACKLOG);
        let (sender, events) = broadcast::channel(EVENT_BACKLOG);
        for event in early {
            // The receiver is ours: somebody listens.
            let _ = sender.send(event);
        }
        let end = Arc::<std::sync::OnceLock<_>>::default();
        let weak = sender.downgrade();
        tokio::spawn(connection.run(queue, sender, Arc::clone(&end), limits.command));
        let status = status.and_then(|status| serde_json::from_value(status.into()).ok());
        let qmp = Self { requests, events: weak, end, limits, version: version.into(), first_status: status };
        Ok((qmp, events))
    }

    /// QEMU's version, such as `10.0.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// QEMU's state when the connection was made; None: one that the schema does not know.
    pub fn first_status(&self) -> Option<schema::RunState> {
        self.first_status
    }

    /// Events from now on.
    pub fn events(&self) -> QmpEvents {
        // The sender is gone with the connection: a channel that is closed already says so.
        self.events.upgrade().map_or_else(|| broadcast::channel(1).1, |sender| sender.subscribe())
    }

    /// Runs a command and waits for its answer, for as long as the connection's limits say.
    pub async fn execute<C: QmpCommand>(&self, command: C) -> Result<C::Ok, QmpError> {
        self.execute_within(command, self.limits.command).await
    }

    /// Runs a command with a limit of its own.
    pub async fn execute_within<C: QmpCommand>(&self, command: C, limit: Duration) -> Result<C::Ok, QmpError> {
        self.exchange(command, None, limit).await
    }

    /// Runs a command that takes an open file, such as `add-fd`. QEMU reads and writes it as it was opened, whatever the
    /// rights of QEMU's user.
    pub async fn execute_with_file<C: QmpCommand>(&self, command: C, file: OwnedFd) -> Result<C::Ok, QmpError> {
        self.exchange(command, Some(file), self.limits.command).await
    }

    async fn exchange<C: QmpCommand>(
        &self,
        command: C,
        file: Option<OwnedFd>,
        limit: Duration,
    ) -> Result<C::Ok, QmpError> {
        let name = C::NAME;
        let arguments = serde_json::to_value(&command)
            .map_err(|reason| QmpError::Unexpected { command: name, reason: reason.to_string() })?;
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(Request { name, arguments, file, reply }).await.map_err(|_| self.ended())?;
            answer.await.map_err(|_| self.ended())
        };
        match timeout(limit, exchange).await {
            Err(_) => Err(QmpError::Timeout { command: name, limit }),
            Ok(Err(ended)) => Err(ended),
            Ok(Ok(Reply::Refused { class, description })) => {
                Err(QmpError::Refused { command: name, class, description })
            }
            Ok(Ok(Reply::Returned(value))) => serde_json::from_value(value)
                .map_err(|reason| QmpError::Unexpected { command: name, reason: reason.to_string() }),
        }
    }

    fn ended(&self) -> QmpError {
        QmpError::Disconnected { reason: self.end.get().cloned().unwrap_or_else(|| "it was closed".into()) }
    }
}

impl From<io::Error> for QmpError {
    fn from(reason: io::Error) -> Self {
        Self::disconnected(reason)
    }
}

#[cfg(test)]
mod tests;
