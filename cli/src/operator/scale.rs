//! `goliath scale`.

use std::str::FromStr;

use clap::Args;
use goliath_proto::operator::v1::ScalePoolRequest;

use crate::{failure::Failure, output::print, refusal::Refusal, verbs::Session};

/// Changes how many workers pools have
///
/// The highest numbers go first. A manifest that is applied later says it anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath scale acme/small=5
  goliath scale acme/small=5 acme/large=0 --dry-run")]
pub(crate) struct ScaleArguments {
    /// A pool and how many workers it shall have
    #[arg(value_name = "CLUSTER/POOL=N", required = true)]
    pools: Vec<Wanted>,
    /// Let the operator check it, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    cluster: String,
    pool: String,
    replicas: u32,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "write cluster/pool=number, such as acme/small=5".to_owned();
        let (name, replicas) = text.split_once('=').ok_or_else(malformed)?;
        let (cluster, pool) = name.split_once('/').ok_or_else(malformed)?;
        let replicas = replicas.parse().map_err(|_| malformed())?;
        if cluster.is_empty() || pool.is_empty() {
            return Err(malformed());
        }
        Ok(Self { cluster: cluster.to_owned(), pool: pool.to_owned(), replicas })
    }
}

pub(crate) async fn run(session: &Session, arguments: &ScaleArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let dry = if arguments.dry_run { " (dry run: nothing was changed)" } else { "" };
    for Wanted { cluster, pool, replicas } in arguments.pools.clone() {
        let name = format!("{cluster}/{pool}");
        let request = ScalePoolRequest { cluster, pool, replicas, dry_run: arguments.dry_run };
        let response = operator.fleet().scale_pool(request).await;
        let response = response.map_err(|status| Refusal::by_operator(format!("scale {name}"), &status))?;
        let before = response.into_inner().replicas_before;
        if before == replicas {
            print(&format!("pool {name} has {replicas} already{dry}\n"))?;
        } else {
            print(&format!("pool {name} scaled from {before} to {replicas}{dry}\n"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_written_with_its_cluster_and_a_number() {
        let wanted = Wanted { cluster: "acme".to_owned(), pool: "small".to_owned(), replicas: 5 };
        assert_eq!("acme/small=5".parse(), Ok(wanted));
        for text in ["acme=5", "acme/small", "acme/small=", "/small=5", "acme/=5", "acme/small=-1", "acme/small=x"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
