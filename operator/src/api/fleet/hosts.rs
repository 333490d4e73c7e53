//! Hosts come and go.

use goliath_proto::operator::v1 as pb;
use goliath_server::{
    status::{self, Precondition},
    violations::Path,
};
use tonic::Status;
use uuid::Uuid;

use super::{Caller, Context, Shown, cordon, errors, get, text};
use crate::{
    api::{
        manifest::{self, Manifest},
        objects::remove,
        questions::{Credentials, Issued},
    },
    objects::{Guest, Host, HostName, Kind, ResourceExt as _},
    runtime::{
        GuestBy,
        events::{EventSubject, Severity},
    },
    store::{AnyObject, Store},
};

pub(super) async fn add<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    request: pb::AddHostRequest,
) -> Result<pb::AddHostResponse, Status> {
    let Manifest { object, about, .. } =
        manifest::read(&Path::root("manifest"), &request.manifest).map_err(|found| status::invalid(&found))?;
    if object.kind() != Kind::Host {
        return Err(errors::bad_field("manifest.kind", format!("is {}: a Host is added", object.kind())));
    }
    if about.uid.is_some() {
        return Err(errors::bad_field("manifest.metadata.uid", "must be left out: a new host gets one"));
    }
    let turn = context.turn().await?;
    match context.store.get_any(Kind::Host, object.name()).await {
        Ok(_) => return Err(errors::already_exists(Kind::Host, object.name())),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(errors::of_store(&error, "")),
    }
    let problems = context.questions.judge(std::slice::from_ref(&object));
    let problems: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
    if !problems.is_empty() {
        return Err(status::invalid(&errors::violations(&problems, "manifest")));
    }
    if request.dry_run {
        let object = text(&object, Shown::Whole)?;
        return Ok(pb::AddHostResponse { object, credentials: Vec::new(), failures: Vec::new() });
    }
    tracing::info!(%caller, ?object, "adds");
    let object = context.store.create_any(object).await.map_err(|error| errors::of_store(&error, "manifest"))?;
    context.seen(&object).await;
    drop(turn);
    let (name, uid) = identity(&object)?;
    let Issued { credentials, failures } = context.questions.issue(name, uid, Credentials::First).await;
    Ok(pb::AddHostResponse { object: text(&object, Shown::Whole)?, credentials, failures })
}

pub(super) async fn issue<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    name: &str,
) -> Result<pb::IssueHostCredentialsResponse, Status> {
    let object = get(context, Kind::Host, name).await?;
    let (name, uid) = identity(&object)?;
    tracing::info!(%caller, host = %name, "gives new credentials");
    let Issued { credentials, failures } = context.questions.issue(name, uid, Credentials::New).await;
    Ok(pb::IssueHostCredentialsResponse { credentials, failures })
}

pub(super) async fn forget<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    request: pb::ForgetHostRequest,
) -> Result<pb::ForgetHostResponse, Status> {
    let pb::ForgetHostRequest { name, dry_run } = request;
    let _turn = context.turn().await?;
    // Without the object, but with guests: an earlier call was broken off.
    let object = match context.store.get_any(Kind::Host, &name).await {
        Ok(object) => Some(object),
        Err(error) if error.is_not_found() && !context.caches.guests.by(GuestBy::Host, &name).is_empty() => None,
        Err(error) => return Err(errors::of_store(&error, "")),
    };
    if let Some(object) = &object {
        against_forgetting(object)?;
    }
    if dry_run {
        let guests = context.caches.guests.by(GuestBy::Host, &name).iter().map(|guest| guest.name_any()).collect();
        return Ok(pb::ForgetHostResponse { guests });
    }
    tracing::warn!(%caller, host = name, "forgets");
    if object.is_some() {
        // Placement shall see it before its guests are looked for.
        cordon(context, caller, &name, true).await?;
    }
    let mut guests = unbind_all(context, &name).await?;
    if let Some(object) = &object {
        remove(context, object).await?;
        // A guest that was bound while the host was being cordoned.
        guests.extend(unbind_all(context, &name).await?);
        let about = EventSubject {
            kind: Kind::Host,
            name: name.clone(),
            uid: object.metadata().uid.clone().unwrap_or_default(),
        };
        let message = format!("forgotten by {:?}, with {} guests", caller.peer.common_name, guests.len());
        context.events.record(&about, Severity::Warning, "Forgotten", message);
    }
    Ok(pb::ForgetHostResponse { guests })
}

/// A machine that answers is not gone.
fn against_forgetting(object: &AnyObject) -> Result<(), Status> {
    let host: Host = object.decode().map_err(|error| errors::of_store(&error, ""))?;
    let reachable = host.status.as_ref().is_some_and(|status| status.conditions.is_true("Reachable"));
    if !reachable {
        return Ok(());
    }
    let name = host.name_any();
    Err(status::failed_precondition(&[Precondition {
        reason: "HOST_REACHABLE",
        subject: format!("Host {name}"),
        description: format!(
            "its agent answers, so its guests run: `goliath drain {name}` moves them away, and then it can be deleted"
        ),
    }]))
}

/// Takes the host's guests from it; their names.
async fn unbind_all<S: Store>(context: &Context<S>, host: &str) -> Result<Vec<String>, Status> {
    let mut names = Vec::new();
    for guest in context.caches.guests.by(GuestBy::Host, host) {
        let name = guest.name_any();
        let unbind = |guest: &mut Guest| {
            guest.spec.binding.take_if(|binding| binding.host.as_str() == host);
            Ok(())
        };
        match super::change(context, &name, unbind).await {
            Ok(_) => names.push(name),
            // It is gone meanwhile: nothing is bound any more.
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    Ok(names)
}

fn identity(object: &AnyObject) -> Result<(HostName, Uuid), Status> {
    let name = object.name().parse::<HostName>();
    let uid = object.metadata().uid.as_deref().unwrap_or_default().parse::<Uuid>();
    match (name, uid) {
        (Ok(name), Ok(uid)) => Ok((name, uid)),
        _ => Err(status::other(tonic::Code::Internal, "INTERNAL", format!("{object:?} has no uid or no good name"))),
    }
}
