use std::sync::Arc;

use goliath_proto::agent::v1 as pb;
use tonic::{Request, Status};

use crate::{
    api::{
        Context, caller,
        errors::{self, Precondition, Resource},
    },
    errors::and_more,
    ledger::{Change, NetworkRecord, Snapshot},
    spec::{ClusterName, GuestUid},
};

pub(super) async fn delete(
    context: &Context,
    request: Request<pb::DeleteNetworkRequest>,
) -> Result<pb::DeleteNetworkResponse, Status> {
    let caller = caller(&request)?;
    let cluster: ClusterName = errors::field("cluster", &request.get_ref().cluster)?;
    let name = cluster.clone();
    let marked = context.ledger.update(move |snapshot| {
        let held = snapshot.networks.get(&cluster);
        let held = held.ok_or_else(|| errors::not_found(Resource::Network, &cluster))?;
        if held.deleting {
            return Ok((Vec::new(), false));
        }
        let guests = guests_in(snapshot, &cluster);
        if let [first, rest @ ..] = guests.as_slice() {
            return Err(errors::failed_precondition(&[Precondition {
                reason: "NETWORK_IN_USE",
                subject: format!("network {cluster}"),
                description: format!(
                    "cluster {cluster} has guests on this host: {}; delete them first",
                    and_more(first, rest.len())
                ),
            }]));
        }
        let record = NetworkRecord { deleting: true, ..NetworkRecord::clone(held) };
        Ok((vec![Change::PutNetwork(Arc::new(record))], true))
    });
    if marked.await.map_err(errors::update_failed)? {
        tracing::info!(%caller, cluster = %name, "a network is to be deleted");
    }
    Ok(pb::DeleteNetworkResponse {})
}

fn guests_in(snapshot: &Snapshot, cluster: &ClusterName) -> Vec<GuestUid> {
    let guests =
        snapshot.guests.values().filter(|guest| guest.spec.cluster == *cluster && guest.spec.network.is_some());
    guests.map(|guest| guest.spec.uid).collect()
}
