use std::sync::Arc;

use goliath_proto::agent::v1 as pb;
use tonic::{Request, Status};

use crate::{
    api::{
        Context, caller,
        errors::{self, Resource},
    },
    ledger::{Change, GuestRecord},
    spec::GuestUid,
};

pub(super) async fn delete(
    context: &Context,
    request: Request<pb::DeleteGuestRequest>,
) -> Result<pb::DeleteGuestResponse, Status> {
    let caller = caller(&request)?;
    let uid: GuestUid = errors::field("uid", &request.get_ref().uid)?;
    let marked = context.ledger.update(move |snapshot| match snapshot.guests.get(&uid) {
        None => Err(errors::not_found(Resource::Guest, &uid)),
        Some(held) if held.deleting => Ok((Vec::new(), false)),
        Some(held) => {
            let record = GuestRecord { deleting: true, ..GuestRecord::clone(held) };
            Ok((vec![Change::PutGuest(Arc::new(record))], true))
        }
    });
    if marked.await.map_err(errors::update_failed)? {
        tracing::info!(%caller, guest = %uid, "a guest is to be deleted");
    }
    Ok(pb::DeleteGuestResponse {})
}
