//! `goliath explain`.

use clap::Args;
use goliath_proto::operator::v1::ExplainGuestRequest;

use super::full_name;
use crate::{
    failure::Failure,
    output::{explain, print},
    refusal::Refusal,
    verbs::Session,
};

/// Tells why a guest is where it is, why not elsewhere, and what it waits for
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  goliath explain acme/master-0")]
pub(crate) struct ExplainArguments {
    /// cluster/name
    #[arg(value_name = "GUEST")]
    guest: String,
}

pub(crate) async fn run(session: &Session, arguments: &ExplainArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let name = full_name(&arguments.guest);
    let response = operator.fleet().explain_guest(ExplainGuestRequest { name: name.clone() }).await;
    let response = response.map_err(|status| Refusal::by_operator(format!("explain guest {name}"), &status))?;
    print(&explain::guest(&response.into_inner(), &session.view()))
}
