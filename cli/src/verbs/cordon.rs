//! `goliath cordon` and `goliath uncordon`.

use clap::{Args, error::ErrorKind};
use goliath_proto::agent::v1::CordonHostRequest;

use super::{Session, wrong_command_line};
use crate::{connection::Server, failure::Failure, operator, output::print, refusal::Refusal};

#[derive(Debug, Args)]
pub(crate) struct CordonArguments {
    /// Which of an operator's hosts; an agent has one
    #[arg(value_name = "HOST")]
    host: Option<String>,
}

pub(super) async fn run(session: &Session, arguments: &CordonArguments, cordoned: bool) -> Result<(), Failure> {
    match (session.server()?, &arguments.host) {
        (Server::Operator, Some(host)) => operator::cordon::run(session, host, cordoned).await,
        (Server::Operator, None) => wrong_command_line(ErrorKind::MissingRequiredArgument, "which host? give its name"),
        (Server::Agent, None) => of_agent(session, cordoned).await,
        (Server::Agent, Some(_)) => wrong_command_line(
            ErrorKind::TooManyValues,
            "an agent has one host: leave the name out, or give --operator",
        ),
    }
}

async fn of_agent(session: &Session, cordoned: bool) -> Result<(), Failure> {
    let word = if cordoned { "cordon" } else { "uncordon" };
    let response = session
        .agent()
        .await?
        .host()
        .cordon_host(CordonHostRequest { cordoned })
        .await
        .map_err(|status| Refusal::new(format!("{word} the host"), &status))?;
    let name = response.into_inner().host.map(|host| host.name).unwrap_or_default();
    print(&format!("host {name} {word}ed\n"))
}
