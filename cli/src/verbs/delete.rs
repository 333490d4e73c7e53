//! `goliath delete`.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use goliath_proto::agent::v1::{DeleteGuestRequest, DeleteNetworkRequest};

use super::{Session, apply::until_gone, get::get_network};
use crate::{
    failure::Failure,
    guest_reference::{self, full_name, uid},
    manifest::parse_duration,
    output::print,
    refusal::Refusal,
};

/// Stops guests and removes all they left, or removes a network
///
/// A guest is stopped as its lifecycle says: power button, guest agent, end of QEMU. Its disks are gone after that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath delete guest acme/worker-0 --wait
  goliath delete network acme")]
pub(crate) struct DeleteArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Guests, with their disks
    Guest {
        /// cluster/name, name or uid
        #[arg(value_name = "GUEST", required = true)]
        names: Vec<String>,
        /// Wait until they are gone
        #[arg(long)]
        wait: bool,
        /// How long to wait
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// A network; refused while guests of the cluster are on this host
    Network {
        /// The cluster's name
        #[arg(value_name = "CLUSTER")]
        name: String,
    },
}

pub(super) async fn run(session: &Session, arguments: &DeleteArguments) -> Result<(), Failure> {
    let agent = session.agent().await?;
    match &arguments.what {
        What::Guest { names, wait, timeout } => {
            let guests = guest_reference::list(&agent).await?;
            // All of them are known before the first is deleted.
            let mut chosen = BTreeMap::new();
            for name in names {
                let guest = guest_reference::choose(guests.clone(), name)?;
                chosen.insert(uid(&guest).to_owned(), full_name(&guest));
            }
            for (uid, name) in &chosen {
                agent
                    .guests()
                    .delete_guest(DeleteGuestRequest { uid: uid.clone() })
                    .await
                    .map_err(|status| Refusal::new(format!("delete guest {name}"), &status))?;
                if !wait {
                    print(&format!("guest {name} is being deleted\n"))?;
                }
            }
            if *wait {
                until_gone(&agent, &chosen, *timeout).await?;
                for name in chosen.values() {
                    print(&format!("guest {name} deleted\n"))?;
                }
            }
            Ok(())
        }
        What::Network { name } => {
            get_network(&agent, name).await?;
            agent
                .networks()
                .delete_network(DeleteNetworkRequest { cluster: name.clone() })
                .await
                .map_err(|status| Refusal::new(format!("delete network {name}"), &status))?;
            print(&format!("network {name} deleted\n"))
        }
    }
}
