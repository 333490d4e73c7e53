//! The task that owns the stream: it writes requests in their order, pairs answers by id, and hands events on.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::timeout,
};
use tokio_util::codec::{Framed, LinesCodec, LinesCodecError};

use super::{QmpError, QmpEvent, carrier::Carrier};

/// Commands that QEMU may owe an answer; a QEMU that owes more is not asked any more.
const OWED: usize = 64;

pub(super) struct Request {
    pub(super) name: &'static str,
    pub(super) arguments: Value,
    /// Goes with the command.
    pub(super) file: Option<OwnedFd>,
    pub(super) reply: oneshot::Sender<Reply>,
}

pub(super) enum Reply {
    Returned(Value),
    Refused { class: String, description: String },
}

/// What QEMU says first.
pub(super) struct Opening {
    pub(super) version: String,
    /// As QEMU names it.
    pub(super) status: Option<String>,
}

/// Sent before the greeting was read, and in one piece. Where a guest's vCPUs use all processors each exchange waits for
/// its turn: one is enough to know that the guest runs.
const CAPABILITIES: u64 = 0;
const STATUS: u64 = 1;

pub(super) struct Connection<S> {
    lines: Framed<S, LinesCodec>,
    owed: HashMap<u64, oneshot::Sender<Reply>>,
    next_id: u64,
}

impl<S: Carrier> Connection<S> {
    /// Greets, leaves negotiation mode, and asks for the state. Returns the events that came meanwhile, too.
    pub(super) async fn open(stream: S, line_limit: usize) -> Result<(Self, Opening, Vec<QmpEvent>), QmpError> {
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(line_limit));
        let disconnected = |reason: LinesCodecError| QmpError::disconnected(reason);
        let command = |id: u64, name: &str| json!({"execute": name, "id": id}).to_string();
        let sent = async {
            lines.feed(command(CAPABILITIES, "qmp_capabilities")).await?;
            lines.send(command(STATUS, "query-status")).await
        };
        let sent = sent.await;
        // What somebody says who takes no commands tells more than that he takes none.
        let message = parse(lines.next().await).map_err(QmpError::disconnected)?;
        let number = |field: &str| message["QMP"]["version"]["qemu"][field].as_u64();
        let (Some(major), Some(minor), Some(micro)) = (number("major"), number("minor"), number("micro")) else {
            return Err(QmpError::disconnected("what speaks there is not QEMU's QMP"));
        };
        sent.map_err(disconnected)?;
        let version = format!("{major}.{minor}.{micro}");
        let mut events = Vec::new();
        loop {
            let message = parse(lines.next().await).map_err(QmpError::disconnected)?;
            if let Some(name) = message["event"].as_str().map(str::to_owned) {
                // More than these few and it is not QEMU that speaks.
                if events.len() < OWED {
                    events.push(QmpEvent::parse(&name, message));
                }
                continue;
            }
            match message["id"].as_u64() {
                Some(CAPABILITIES) if message.get("return").is_none() => {
                    let description = text(&message["error"]["desc"]);
                    return Err(QmpError::disconnected(format_args!("QEMU refused `qmp_capabilities`: {description}")));
                }
                Some(STATUS) => {
                    let status = message["return"]["status"].as_str().map(str::to_owned);
                    let connection = Self { lines, owed: HashMap::new(), next_id: STATUS + 1 };
                    return Ok((connection, Opening { version, status }, events));
                }
                _ => {}
            }
        }
    }

    /// Until QEMU or the last handle goes; then `end` says how it ended.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        events: broadcast::Sender<QmpEvent>,
        end: Arc<OnceLock<Arc<str>>>,
        write_limit: Duration,
    ) {
        let reason = loop {
            tokio::select! {
                line = self.lines.next() => match parse(line) {
                    Ok(message) => self.take(message, &events),
                    Err(reason) => break reason,
                },
                request = requests.recv() => {
                    let Some(request) = request else { break "it was closed".to_owned() };
                    if let Err(reason) = self.send(request, write_limit).await {
                        break reason;
                    }
                }
            }
        };
        // Set before the answers that wait are dropped, so that whoever waited for one reads it.
        let _ = end.set(reason.into());
    }

    async fn send(&mut self, request: Request, limit: Duration) -> Result<(), String> {
        // Those who asked and gave up are forgotten; their answers, should they come, find nobody.
        self.owed.retain(|_, reply| !reply.is_closed());
        if request.reply.is_closed() {
            return Ok(());
        }
        if self.owed.len() >= OWED {
            return Err(format!("QEMU owes answers to {OWED} commands"));
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut line = json!({"execute": request.name, "arguments": request.arguments, "id": id}).to_string();
        self.owed.insert(id, request.reply);
        let sending = async {
            match request.file {
                None => self.lines.send(line).await.map_err(|reason| reason.to_string()),
                Some(file) => {
                    // Nothing waits in the codec: each line before this one was flushed.
                    line.push('\n');
                    let stream = self.lines.get_mut();
                    stream.send_with_file(line.as_bytes(), file.as_fd()).await.map_err(|reason| reason.to_string())
                }
            }
        };
        match timeout(limit, sending).await {
            Ok(sent) => sent,
            Err(_) => Err(format!("QEMU takes no command for {limit:?}")),
        }
    }

    fn take(&mut self, mut message: Value, events: &broadcast::Sender<QmpEvent>) {
        if let Some(name) = message["event"].as_str().map(str::to_owned) {
            // Nobody listens: nobody wants to know.
            let _ = events.send(QmpEvent::parse(&name, message));
            return;
        }
        // An answer without an id of ours is to a command that we did not send: there is nobody to give it to.
        let Some(reply) = message["id"].as_u64().and_then(|id| self.owed.remove(&id)) else { return };
        let answer = match message.get_mut("return") {
            Some(value) => Reply::Returned(value.take()),
            None => {
                Reply::Refused { class: text(&message["error"]["class"]), description: text(&message["error"]["desc"]) }
            }
        };
        // Whoever asked may have given up.
        let _ = reply.send(answer);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("(no reason given)").to_owned()
}

/// A line must be one JSON object; anything else ends the connection.
fn parse(line: Option<Result<String, LinesCodecError>>) -> Result<Value, String> {
    match line {
        None => Err("QEMU closed it".to_owned()),
        Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Err("QEMU sent a line beyond the limit".to_owned()),
        Some(Err(LinesCodecError::Io(reason))) => Err(reason.to_string()),
        Some(Ok(line)) => match serde_json::from_str(&line) {
            Ok(message @ Value::Object(_)) => Ok(message),
            Ok(_) => Err("QEMU sent JSON that is not an object".to_owned()),
            Err(reason) => Err(format!("QEMU sent what is not JSON: {reason}")),
        },
    }
}
