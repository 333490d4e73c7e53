//! `goliath describe`.

use clap::{Args, error::ErrorKind};
use goliath_proto::agent::v1::{Certificate, ListCertificatesRequest};

use super::{
    Session,
    get::{get_host, get_network},
    wrong_command_line,
};
use crate::{
    connection::{Agent, Server},
    failure::Failure,
    guest_reference::{self, uid},
    operator,
    output::{describe, print},
};

/// Tells all there is to know about one thing, and what to do
///
/// Of an agent: a guest, a network (by its cluster), or its host. Of an operator: an object of any kind, with what
/// happened to it lately.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath describe guest acme/worker-0
  goliath describe network acme
  goliath describe host")]
pub(crate) struct DescribeArguments {
    /// guest, network or host; of an operator cluster, host, guest, ...
    kind: String,
    /// A guest as cluster/name, name or uid; may be left out for an agent's host
    name: Option<String>,
}

pub(super) async fn run(session: &Session, arguments: &DescribeArguments) -> Result<(), Failure> {
    let DescribeArguments { kind, name } = arguments;
    let named = || name.as_deref().unwrap_or_else(|| nameless(kind));
    if session.server()? == Server::Operator {
        return operator::describe::run(session, kind, named()).await;
    }
    let view = session.view();
    print(&match kind.as_str() {
        "guest" | "guests" => {
            let name = named();
            let agent = session.agent().await?;
            let guest = guest_reference::find(&agent, name).await?;
            let certificates = certificates(&agent, uid(&guest)).await;
            describe::guest(&guest, &certificates, &view)
        }
        "network" | "networks" => {
            let name = named();
            describe::network(&get_network(&session.agent().await?, name).await?, &view)
        }
        "host" | "hosts" => describe::host(&get_host(&session.agent().await?, name.as_deref()).await?, &view),
        other => {
            let message = format!("`{other}` is not a kind: an agent has guests, networks and its host");
            wrong_command_line(ErrorKind::InvalidValue, message)
        }
    })
}

fn nameless(kind: &str) -> ! {
    wrong_command_line(ErrorKind::MissingRequiredArgument, format!("which {kind}? give its name"))
}

/// The rest of the page is worth showing without them.
async fn certificates(agent: &Agent, uid: &str) -> Vec<Certificate> {
    match agent.inspect().list_certificates(ListCertificatesRequest { uid: uid.to_owned() }).await {
        Ok(response) => response.into_inner().certificates,
        Err(_) => Vec::new(),
    }
}
