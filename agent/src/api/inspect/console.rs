//! The serial console itself, both ways, for any number of people at once.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::agent::v1::{self as pb, console_request::Message};
use goliath_server::violations::Violation;
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use super::{known, paths};
use crate::{
    api::{
        Context, caller,
        errors::{self, Precondition},
    },
    qemu::{Console, ConsoleSession, arguments::Listener},
    spec::GuestUid,
};

/// A client that opens the stream says at once which guest it means.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);

/// One for each guest that somebody looked at: QEMU takes one connection, so those who look share it.
#[derive(Debug, Default)]
pub(super) struct Consoles(Mutex<HashMap<GuestUid, Console>>);

impl Consoles {
    fn of(&self, context: &Context, uid: GuestUid) -> Console {
        let guests = context.ledger.guests().borrow().clone();
        let mut consoles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        consoles.retain(|uid, _| guests.contains_key(uid));
        consoles.entry(uid).or_insert_with(|| Console::new(paths(context, uid).socket(Listener::Console))).clone()
    }
}

pub(super) async fn console(
    context: &Context,
    consoles: &Consoles,
    request: Request<Streaming<pb::ConsoleRequest>>,
) -> Result<BoxStream<'static, Result<pb::ConsoleResponse, Status>>, Status> {
    let caller = caller(&request)?;
    let mut input = request.into_inner();
    let first = time::timeout(FIRST_MESSAGE_LIMIT, input.message()).await;
    let first = first.map_err(|_| invalid("must come at once, as the first message"))??;
    let Some(Message::Open(open)) = first.and_then(|first| first.message) else {
        return Err(invalid("must be the first message"));
    };
    let uid = known(context, &open.uid)?;
    let console = consoles.of(context, uid);
    // Reading and typing do not wait for each other: a guest that takes no input may still have much to say. The second
    // joins the first on its line.
    let reading = console.attach().await.map_err(|error| not_running(&error, uid))?;
    let typing = console.attach().await.map_err(|error| not_running(&error, uid))?;
    tracing::info!(%caller, guest = %uid, "the console was opened");
    let mut typist = JoinSet::new();
    typist.spawn(type_in(typing, input));
    let session = Session { reading, typist, shutdown: context.shutdown.clone(), ended: false };
    Ok(stream::unfold(session, |mut session| async { session.next().await.map(|output| (output, session)) }).boxed())
}

struct Session {
    reading: ConsoleSession,
    /// Ends with the session.
    typist: JoinSet<Result<(), Status>>,
    shutdown: CancellationToken,
    ended: bool,
}

impl Session {
    async fn next(&mut self) -> Option<Result<pb::ConsoleResponse, Status>> {
        if self.ended {
            return None;
        }
        let refused = loop {
            tokio::select! {
                () = self.shutdown.cancelled() => break errors::shutting_down(),
                // A client that has nothing more to type still reads on.
                Some(typed) = self.typist.join_next() => {
                    if let Ok(Err(status)) = typed {
                        break status;
                    }
                }
                output = self.reading.read() => {
                    return output.map(|output| Ok(pb::ConsoleResponse { output: output.into() }));
                }
            }
        };
        self.ended = true;
        Some(Err(refused))
    }
}

/// Until the client has nothing more to type, or QEMU is gone.
async fn type_in(session: ConsoleSession, mut input: Streaming<pb::ConsoleRequest>) -> Result<(), Status> {
    while let Some(request) = input.message().await? {
        match request.message {
            Some(Message::Input(bytes)) => {
                let goes_on = bytes.is_empty() || session.write(bytes.into()).await;
                if !goes_on {
                    return Ok(());
                }
            }
            Some(Message::Open(_)) => return Err(invalid("must come once")),
            None => {}
        }
    }
    Ok(())
}

fn invalid(reason: &str) -> Status {
    errors::invalid(&[Violation::new("open", reason)])
}

fn not_running(error: &io::Error, uid: GuestUid) -> Status {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => errors::failed_precondition(&[Precondition {
            reason: "NOT_RUNNING",
            subject: format!("guest {uid}"),
            description: format!("guest {uid} has no console now: no QEMU runs for it"),
        }]),
        _ => errors::internal(error),
    }
}
