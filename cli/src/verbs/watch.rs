//! `goliath watch`.

use clap::Args;

use super::Session;
use crate::{
    failure::Failure,
    operator::get::{self, Wanted},
    output::Format,
};

/// Shows objects of an operator's fleet, and every change as it comes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath watch guests -l goliath.dev/cluster=acme
  goliath watch cluster acme")]
pub(crate) struct WatchArguments {
    /// clusters, hosts, guests, ...
    kind: String,
    /// Only this one
    name: Option<String>,
    /// Only those whose labels match
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(session: &Session, arguments: &WatchArguments) -> Result<(), Failure> {
    let WatchArguments { kind, name, selector, output } = arguments;
    get::run(session, Wanted { kind, name: name.as_deref(), selector, output: *output, watch: true }).await
}
