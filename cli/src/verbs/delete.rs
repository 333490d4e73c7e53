//! `goliath delete`.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, error::ErrorKind};
use goliath_proto::agent::v1::{DeleteGuestRequest, DeleteNetworkRequest};

use super::{Session, apply::until_gone, get::get_network, wrong_command_line};
use crate::{
    connection::Server,
    failure::Failure,
    guest_reference::{self, full_name, uid},
    manifest::parse_duration,
    operator,
    output::print,
    refusal::Refusal,
};

/// Stops guests and removes all they left, or removes a network; of an operator, any object
///
/// A guest is stopped as its lifecycle says: power button, guest agent, end of QEMU. Its disks are gone after that. A
/// guest of an operator's cluster is made anew; a cluster goes with its guests, then its networks, then its PKI.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath delete guest acme/worker-0 --wait
  goliath delete network acme
  goliath --operator https://operator.example delete cluster acme --wait")]
pub(crate) struct DeleteArguments {
    /// guest or network; of an operator cluster, host, guest, ...
    kind: String,
    /// Guests as cluster/name, name or uid; networks by their cluster
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Wait until they are gone; of an agent's, guests
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(session: &Session, arguments: &DeleteArguments) -> Result<(), Failure> {
    let DeleteArguments { kind, names, wait, timeout } = arguments;
    if session.server()? == Server::Operator {
        return operator::delete::run(session, kind, names, wait.then_some(*timeout)).await;
    }
    match kind.as_str() {
        "guest" | "guests" => guests(session, arguments).await,
        "network" | "networks" if *wait => {
            wrong_command_line(ErrorKind::ArgumentConflict, "only guests are waited for: a network is gone at once")
        }
        "network" | "networks" => networks(session, names).await,
        other => {
            wrong_command_line(ErrorKind::InvalidValue, format!("`{other}` cannot be deleted: guests and networks can"))
        }
    }
}

async fn guests(session: &Session, arguments: &DeleteArguments) -> Result<(), Failure> {
    let agent = session.agent().await?;
    let guests = guest_reference::list(&agent).await?;
    // All of them are known before the first is deleted.
    let mut chosen = BTreeMap::new();
    for name in &arguments.names {
        let guest = guest_reference::choose(guests.clone(), name)?;
        chosen.insert(uid(&guest).to_owned(), full_name(&guest));
    }
    for (uid, name) in &chosen {
        agent
            .guests()
            .delete_guest(DeleteGuestRequest { uid: uid.clone() })
            .await
            .map_err(|status| Refusal::new(format!("delete guest {name}"), &status))?;
        if !arguments.wait {
            print(&format!("guest {name} is being deleted\n"))?;
        }
    }
    if arguments.wait {
        until_gone(&agent, &chosen, arguments.timeout).await?;
        for name in chosen.values() {
            print(&format!("guest {name} deleted\n"))?;
        }
    }
    Ok(())
}

async fn networks(session: &Session, names: &[String]) -> Result<(), Failure> {
    let agent = session.agent().await?;
    // All of them are known before the first is deleted.
    for name in names {
        get_network(&agent, name).await?;
    }
    for name in names {
        agent
            .networks()
            .delete_network(DeleteNetworkRequest { cluster: name.clone() })
            .await
            .map_err(|status| Refusal::new(format!("delete network {name}"), &status))?;
        print(&format!("network {name} deleted\n"))?;
    }
    Ok(())
}
