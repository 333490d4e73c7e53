//! `goliath tree`.

use clap::Args;
use goliath_proto::operator::v1::GetTreeRequest;

use crate::{
    failure::Failure,
    output::{print, tree},
    refusal::Refusal,
    verbs::Session,
};

/// Shows a cluster with everything that belongs to it, and what is not as it should be
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  goliath tree acme")]
pub(crate) struct TreeArguments {
    /// The cluster's name
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// All conditions of every object, not only those that tell of trouble
    #[arg(short, long)]
    all: bool,
}

pub(crate) async fn run(session: &Session, arguments: &TreeArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let cluster = &arguments.cluster;
    let response = operator.fleet().get_tree(GetTreeRequest { cluster: cluster.clone() }).await;
    let response = response.map_err(|status| Refusal::by_operator(format!("show cluster {cluster}"), &status))?;
    let root = response.into_inner().root.unwrap_or_default();
    print(&tree::tree(&root, arguments.all, &session.view()))
}
