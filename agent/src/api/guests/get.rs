use goliath_proto::agent::v1 as pb;
use tonic::Status;

use super::render_guest;
use crate::{
    api::{
        Context,
        errors::{self, Resource},
    },
    spec::GuestUid,
};

pub(super) fn get(context: &Context, request: &pb::GetGuestRequest) -> Result<pb::GetGuestResponse, Status> {
    let uid: GuestUid = errors::field("uid", &request.uid)?;
    let record = context.ledger.guests().borrow().get(&uid).cloned();
    let record = record.ok_or_else(|| errors::not_found(Resource::Guest, &uid))?;
    Ok(pb::GetGuestResponse { guest: Some(render_guest(&record, context.observed.guest(uid))) })
}
