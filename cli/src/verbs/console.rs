//! `goliath console`.

mod terminal;

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use clap::Args;
use goliath_proto::agent::v1::{ConsoleOpen, ConsoleRequest, console_request::Message};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Session;
use crate::{
    failure::Failure,
    guest_reference::{self, full_name, uid},
    manifest::parse_duration,
    refusal::Refusal,
};
use terminal::{ESCAPE, RawTerminal};

/// Pieces of input that wait for the network.
const QUEUE: usize = 64;

/// Talks to a guest over its serial console
///
/// Ctrl-] leaves. Input may also come from a pipe: it is sent, and the answer printed until the console is quiet.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath console acme/worker-0
  echo uptime | goliath console acme/worker-0 --linger 2s")]
pub(crate) struct ConsoleArguments {
    /// cluster/name, name or uid
    guest: String,
    /// With input from a pipe: how long the console must be quiet after its end
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    linger: Duration,
}

/// Why the conversation ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    ByUs,
    ByAgent,
}

pub(super) async fn run(session: &Session, arguments: &ConsoleArguments) -> Result<(), Failure> {
    let agent = session.agent().await?;
    let guest = guest_reference::find(&agent, &arguments.guest).await?;
    let name = full_name(&guest);
    let refusal = |status: Status| Refusal::new(format!("open the console of {name}"), &status);
    let (requests, receiver) = mpsc::channel(QUEUE);
    let open = Message::Open(ConsoleOpen { uid: uid(&guest).to_owned() });
    // The queue is empty: this cannot wait.
    let _ = requests.send(ConsoleRequest { message: Some(open) }).await;
    let stream = agent.inspect().console(ReceiverStream::new(receiver)).await.map_err(refusal)?.into_inner();
    let interactive = std::io::stdin().is_terminal();
    let raw = if interactive {
        eprintln!("{name}: connected, Ctrl-] leaves");
        Some(RawTerminal::enter().map_err(|reason| Failure::Terminal("prepare the terminal", reason))?)
    } else {
        None
    };
    let input = terminal::read_input(interactive).map_err(|reason| Failure::Terminal("read the input", reason))?;
    let linger = (!interactive).then_some(arguments.linger);
    let ended = talk(requests, stream, input, linger).await;
    // Before anything is printed: a raw terminal would make stairs of it.
    drop(raw);
    match ended? {
        Ok(Ended::ByAgent) if interactive => eprintln!("\n{name}: the console was closed"),
        Ok(_) if interactive => eprintln!("\n{name}: left"),
        Ok(_) => {}
        Err(status) => return Err(refusal(status).into()),
    }
    Ok(())
}

/// Carries bytes both ways until one side ends. The outer error is ours, the inner one the agent's.
async fn talk(
    requests: mpsc::Sender<ConsoleRequest>,
    mut stream: Streaming<goliath_proto::agent::v1::ConsoleResponse>,
    mut input: mpsc::Receiver<Vec<u8>>,
    linger: Option<Duration>,
) -> Result<Result<Ended, Status>, Failure> {
    let listen = |kind| signal(kind).map_err(|reason| Failure::Terminal("listen for signals", reason));
    let (mut terminate, mut hangup) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let mut out = std::io::stdout();
    let mut requests = Some(requests);
    loop {
        // Only when all input was sent does silence mean that the answer is complete.
        let quiet = async {
            match (linger, &requests) {
                (Some(linger), None) => tokio::time::sleep(linger).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            response = stream.message() => match response {
                Ok(Some(response)) => {
                    out.write_all(&response.output).and_then(|()| out.flush()).map_err(Failure::Output)?;
                }
                Ok(None) => return Ok(Ok(Ended::ByAgent)),
                Err(status) => return Ok(Err(status)),
            },
            piece = input.recv(), if requests.is_some() => {
                let (piece, leave) = match piece {
                    Some(piece) => upto_escape(piece, linger.is_none()),
                    None if linger.is_none() => return Ok(Ok(Ended::ByUs)),
                    None => {
                        requests = None;
                        continue;
                    }
                };
                if let Some(requests) = requests.as_ref().filter(|_| !piece.is_empty()) {
                    let request = ConsoleRequest { message: Some(Message::Input(piece)) };
                    // An agent that hung up says why in its answer.
                    let _ = requests.send(request).await;
                }
                if leave {
                    return Ok(Ok(Ended::ByUs));
                }
            }
            () = quiet => return Ok(Ok(Ended::ByUs)),
            _ = terminate.recv() => return Ok(Ok(Ended::ByUs)),
            _ = hangup.recv() => return Ok(Ok(Ended::ByUs)),
        }
    }
}

/// What was typed before the key that leaves, and whether it was typed. A pipe has no such key.
fn upto_escape(mut piece: Vec<u8>, interactive: bool) -> (Vec<u8>, bool) {
    match piece.iter().position(|byte| *byte == ESCAPE) {
        Some(at) if interactive => {
            piece.truncate(at);
            (piece, true)
        }
        _ => (piece, false),
    }
}
