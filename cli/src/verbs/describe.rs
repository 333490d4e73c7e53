//! `goliath describe`.

use clap::{Args, Subcommand};
use goliath_proto::agent::v1::{Certificate, ListCertificatesRequest};

use super::{
    Session,
    get::{get_host, get_network},
};
use crate::{
    connection::Agent,
    failure::Failure,
    guest_reference::{self, uid},
    output::{describe, print},
};

/// Tells all there is to know about one thing, and what to do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath describe guest acme/worker-0
  goliath describe network acme
  goliath describe host")]
pub(crate) struct DescribeArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A guest: conditions, last exit, certificates, what to do
    Guest {
        /// cluster/name, name or uid
        #[arg(value_name = "GUEST")]
        name: String,
    },
    /// A cluster's network on this host, and its peers
    Network {
        /// The cluster's name
        #[arg(value_name = "CLUSTER")]
        name: String,
    },
    /// The host: what it has, and what is left of it
    Host {
        /// May be left out: an agent has one host
        name: Option<String>,
    },
}

pub(super) async fn run(session: &Session, arguments: &DescribeArguments) -> Result<(), Failure> {
    let agent = session.agent().await?;
    let view = session.view();
    print(&match &arguments.what {
        What::Guest { name } => {
            let guest = guest_reference::find(&agent, name).await?;
            let certificates = certificates(&agent, uid(&guest)).await;
            describe::guest(&guest, &certificates, &view)
        }
        What::Network { name } => describe::network(&get_network(&agent, name).await?, &view),
        What::Host { name } => describe::host(&get_host(&agent, name.as_deref()).await?, &view),
    })
}

/// The rest of the page is worth showing without them.
async fn certificates(agent: &Agent, uid: &str) -> Vec<Certificate> {
    match agent.inspect().list_certificates(ListCertificatesRequest { uid: uid.to_owned() }).await {
        Ok(response) => response.into_inner().certificates,
        Err(_) => Vec::new(),
    }
}
