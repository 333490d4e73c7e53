use goliath_proto::agent::v1 as pb;
use tonic::Status;

use super::{brief, render_guest};
use crate::{
    api::{Context, errors},
    spec::ClusterName,
};

pub(super) fn list(context: &Context, request: &pb::ListGuestsRequest) -> Result<pb::ListGuestsResponse, Status> {
    let cluster = cluster(&request.cluster)?;
    // The revision first: what changes while the rest is read comes again in a watch from it.
    let (revision, mut seen) = context.observed.guests();
    let records = context.ledger.guests().borrow().clone();
    let guests = records
        .iter()
        .filter(|(_, record)| cluster.as_ref().is_none_or(|cluster| record.spec.cluster == *cluster))
        .map(|(uid, record)| brief(render_guest(record, seen.remove(uid))))
        .collect();
    Ok(pb::ListGuestsResponse { guests, revision })
}

/// Empty: all.
pub(super) fn cluster(text: &str) -> Result<Option<ClusterName>, Status> {
    if text.is_empty() { Ok(None) } else { errors::field("cluster", text).map(Some) }
}
