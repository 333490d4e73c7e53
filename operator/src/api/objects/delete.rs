use goliath_proto::operator::v1 as pb;
use goliath_server::status::{self, Precondition};
use tonic::Status;

use super::{Context, Shown, errors, get, is_owned, text};
use crate::{
    api::access::Caller,
    objects::Kind,
    runtime::GuestBy,
    store::{AnyObject, Deletion, Preconditions, Store},
};

/// So many guests are named; the others are counted.
const NAMED: usize = 5;

pub(super) async fn delete<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    request: pb::DeleteObjectRequest,
) -> Result<pb::DeleteObjectResponse, Status> {
    let pb::DeleteObjectRequest { kind, name, uid, dry_run } = request;
    let kind: Kind = errors::field("kind", &kind)?;
    let _turn = context.turn().await?;
    let object = get(context, kind, &name).await?;
    if !uid.is_empty() && object.metadata().uid.as_ref() != Some(&uid) {
        return Err(status::failed_precondition(&[Precondition {
            reason: "ANOTHER_UID",
            subject: "uid".to_owned(),
            description: format!("{kind} {name} is another object of that name, with another uid"),
        }]));
    }
    if let Some(against) = against_deletion(context, &object) {
        return Err(status::failed_precondition(&[against]));
    }
    if dry_run {
        let removed = object.metadata().finalizers.is_none();
        return Ok(pb::DeleteObjectResponse { removed, object: text(&object, Shown::WithoutSeeds)? });
    }
    tracing::info!(%caller, object = ?object, "deletes");
    let (removed, object) = remove(context, &object).await?;
    Ok(pb::DeleteObjectResponse { removed, object: text(&object, Shown::WithoutSeeds)? })
}

/// Deletes an object as it was seen, whatever was written to its status since.
pub(in crate::api) async fn remove<S: Store>(
    context: &Context<S>,
    object: &AnyObject,
) -> Result<(bool, AnyObject), Status> {
    let preconditions = Preconditions { uid: object.metadata().uid.clone(), resource_version: None };
    match context.store.delete_any(object.kind(), object.name(), preconditions).await {
        Ok(Deletion::Removed(object)) => {
            context.seen(&object).await;
            Ok((true, object))
        }
        Ok(Deletion::Pending(object)) => {
            context.seen(&object).await;
            Ok((false, object))
        }
        Err(error) => Err(errors::of_store(&error, "")),
    }
}

/// What keeps an object from being deleted by people.
pub(super) fn against_deletion<S: Store>(context: &Context<S>, object: &AnyObject) -> Option<Precondition> {
    let (kind, name) = (object.kind(), object.name());
    match kind {
        Kind::Host => {
            let guests = context.caches.guests.by(GuestBy::Host, name);
            if guests.is_empty() {
                return None;
            }
            let named: Vec<_> = guests.iter().take(NAMED).filter_map(|guest| guest.metadata.name.clone()).collect();
            let named = goliath_server::errors::and_more(named.join(", "), guests.len().saturating_sub(NAMED));
            Some(Precondition {
                reason: "HOST_IN_USE",
                subject: format!("Host {name}"),
                description: format!(
                    "guests are bound to it: {named}. Drain it first; if the machine is lost for good, \
                     `goliath host forget {name}`"
                ),
            })
        }
        // It is made anew, which is what its deletion is for.
        Kind::Guest => None,
        Kind::Cluster | Kind::CertificateAuthority | Kind::Certificate => is_owned(object).map(|owner| Precondition {
            reason: "OWNED",
            subject: format!("{kind} {name}"),
            description: format!("it belongs to {owner}, and goes with it"),
        }),
    }
}
