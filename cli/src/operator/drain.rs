//! `goliath drain`.

use std::time::Instant;

use clap::Args;
use goliath_proto::operator::v1::{DrainHostRequest, drain_host_response::Step};

use crate::{
    failure::Failure,
    output::{print, text::printable},
    refusal::Refusal,
    style::Tone,
    verbs::Session,
};

/// Cordons a host and moves its guests to others
///
/// Each guest is stopped by its contract, deleted, and made anew elsewhere with the same name and address and with new
/// disks: one of a cluster at a time, only while the rest of the cluster is ready and another host has room. Interrupted,
/// it stops between two guests; called again, it goes on. The host stays cordoned: goliath uncordon.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  goliath drain host-a")]
pub(crate) struct DrainArguments {
    /// The host's name
    #[arg(value_name = "HOST")]
    host: String,
    /// Move guests away even where no other host has room: they wait for one
    #[arg(long)]
    without_room: bool,
}

pub(crate) async fn run(session: &Session, arguments: &DrainArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let host = &arguments.host;
    let refused = |status| Refusal::by_operator(format!("drain host {host}"), &status);
    let request = DrainHostRequest { name: host.clone(), without_room: arguments.without_room };
    let mut steps = operator.fleet().drain_host(request).await.map_err(refused)?.into_inner();
    let start = Instant::now();
    let style = session.terminal.err;
    let mut drained = false;
    while let Some(step) = steps.message().await.map_err(refused)? {
        let tone = match step.step() {
            Step::Moved | Step::Drained => Tone::Good,
            Step::Waiting => Tone::Warn,
            _ => Tone::Plain,
        };
        drained = step.step() == Step::Drained;
        let subject = if step.guest.is_empty() { format!("host {host}") } else { step.guest };
        let message = style.paint(tone, &printable(&step.message));
        eprintln!(
            "{:>5.1}s {}/{} {}: {message}",
            start.elapsed().as_secs_f64(),
            step.left,
            step.guests,
            style.paint(Tone::Strong, &subject)
        );
    }
    if drained {
        print(&format!("host {host} drained\n"))
    } else {
        Err(Failure::BrokenOff(format!("draining host {host}")))
    }
}
