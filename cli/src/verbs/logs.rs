//! `goliath logs`.

mod filter;

use std::io::{IsTerminal as _, Write as _};

use clap::Args;
use goliath_proto::agent::v1::ConsoleLogRequest;

use super::Session;
use crate::{
    failure::Failure,
    guest_reference::{self, full_name, uid},
    manifest::parse_size,
    refusal::Refusal,
};
use filter::TerminalFilter;

/// Shows what a guest said on its serial console
///
/// On a terminal only text and colours pass: a guest shall not rename your window or type for you.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath logs acme/worker-0
  goliath logs acme/worker-0 -f --tail 4KiB")]
pub(crate) struct LogsArguments {
    /// cluster/name, name or uid
    guest: String,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Start with at most this much of what is kept, for example 4KiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    tail: Option<u64>,
    /// Pass every byte on, to a terminal too
    #[arg(long)]
    raw: bool,
}

pub(super) async fn run(session: &Session, arguments: &LogsArguments) -> Result<(), Failure> {
    let agent = session.agent().await?;
    let guest = guest_reference::find(&agent, &arguments.guest).await?;
    let name = full_name(&guest);
    let refusal = |status: tonic::Status| Refusal::new(format!("read the console of {name}"), &status);
    let request = ConsoleLogRequest {
        uid: uid(&guest).to_owned(),
        follow: arguments.follow,
        tail_bytes: arguments.tail.unwrap_or_default(),
    };
    let mut stream = agent.inspect().console_log(request).await.map_err(refusal)?.into_inner();
    let mut out = std::io::stdout();
    let mut filter = (out.is_terminal() && !arguments.raw).then(TerminalFilter::default);
    while let Some(response) = stream.message().await.map_err(refusal)? {
        let data = match &mut filter {
            Some(filter) => filter.pass(&response.data),
            None => response.data,
        };
        out.write_all(&data).and_then(|()| out.flush()).map_err(Failure::Output)?;
    }
    Ok(())
}
