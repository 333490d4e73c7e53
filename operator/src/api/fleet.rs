//! FleetService.

mod drain;
mod explain;
mod hosts;
mod tree;

use futures::stream::BoxStream;
use goliath_proto::operator::v1::{self as pb, fleet_service_server::FleetService};
use goliath_server::status;
use tonic::{Request, Response, Status};

use super::{
    access::{Caller, caller},
    context::Context,
    errors,
    objects::{Shown, get, text},
};
use crate::{
    objects::{Cluster, DnsLabel, Host, Kind, Object, Replicas},
    store::{AnyObject, Store},
};

/// So often an object is read again that somebody else wrote in between.
const TRIES: usize = 16;

#[derive(Debug)]
pub(super) struct Fleet<S: Store>(pub(super) Context<S>);

#[tonic::async_trait]
impl<S: Store> FleetService for Fleet<S> {
    async fn get_tree(&self, request: Request<pb::GetTreeRequest>) -> Result<Response<pb::GetTreeResponse>, Status> {
        let root = tree::of(&self.0.caches, &request.get_ref().cluster)?;
        Ok(Response::new(pb::GetTreeResponse { root: Some(root) }))
    }

    async fn explain_guest(
        &self,
        request: Request<pb::ExplainGuestRequest>,
    ) -> Result<Response<pb::ExplainGuestResponse>, Status> {
        explain::explain(&self.0, &request.get_ref().name).map(Response::new)
    }

    async fn scale_pool(
        &self,
        request: Request<pb::ScalePoolRequest>,
    ) -> Result<Response<pb::ScalePoolResponse>, Status> {
        let caller = caller(&request)?;
        scale(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn cordon_host(
        &self,
        request: Request<pb::CordonHostRequest>,
    ) -> Result<Response<pb::CordonHostResponse>, Status> {
        let caller = caller(&request)?;
        let pb::CordonHostRequest { name, cordoned } = request.into_inner();
        let (before, after) = cordon(&self.0, &caller, &name, cordoned).await?;
        let unchanged = before == after;
        Ok(Response::new(pb::CordonHostResponse { unchanged, object: text(&after, Shown::Whole)? }))
    }

    type DrainHostStream = BoxStream<'static, Result<pb::DrainHostResponse, Status>>;

    async fn drain_host(
        &self,
        request: Request<pb::DrainHostRequest>,
    ) -> Result<Response<Self::DrainHostStream>, Status> {
        let caller = caller(&request)?;
        drain::drain(&self.0, caller, request.into_inner()).await.map(Response::new)
    }

    async fn add_host(&self, request: Request<pb::AddHostRequest>) -> Result<Response<pb::AddHostResponse>, Status> {
        let caller = caller(&request)?;
        hosts::add(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn issue_host_credentials(
        &self,
        request: Request<pb::IssueHostCredentialsRequest>,
    ) -> Result<Response<pb::IssueHostCredentialsResponse>, Status> {
        let caller = caller(&request)?;
        hosts::issue(&self.0, &caller, &request.get_ref().name).await.map(Response::new)
    }

    async fn forget_host(
        &self,
        request: Request<pb::ForgetHostRequest>,
    ) -> Result<Response<pb::ForgetHostResponse>, Status> {
        let caller = caller(&request)?;
        hosts::forget(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }
}

/// Changes an object as it is now, whoever else writes it; before and after.
async fn change<S: Store, T: Object>(
    context: &Context<S>,
    name: &str,
    change: impl Fn(&mut T) -> Result<(), Status> + Send + Sync,
) -> Result<(AnyObject, AnyObject), Status> {
    for _ in 0..TRIES {
        let before = get(context, T::KIND, name).await?;
        let mut object: T = before.decode().map_err(|error| errors::of_store(&error, ""))?;
        change(&mut object)?;
        let after = AnyObject::encode(&object).map_err(|error| errors::of_store(&error, ""))?;
        match context.store.replace_any(after).await {
            Ok(after) => {
                context.seen(&after).await;
                return Ok((before, after));
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(errors::of_store(&error, "")),
        }
    }
    Err(errors::conflict(format_args!("{} {name}", T::KIND)))
}

async fn cordon<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    name: &str,
    cordoned: bool,
) -> Result<(AnyObject, AnyObject), Status> {
    tracing::info!(%caller, host = name, cordoned, "cordons");
    change(context, name, |host: &mut Host| {
        host.spec.cordoned = cordoned;
        Ok(())
    })
    .await
}

async fn scale<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    request: pb::ScalePoolRequest,
) -> Result<pb::ScalePoolResponse, Status> {
    let pb::ScalePoolRequest { cluster: name, pool, replicas, dry_run } = request;
    let pool: DnsLabel = errors::field("pool", &pool)?;
    let wanted =
        Replicas::try_from(u64::from(replicas)).map_err(|reason| errors::bad_field("replicas", reason.to_string()))?;
    let _turn = context.turn().await?;
    let before = get(context, Kind::Cluster, &name).await?;
    let mut cluster: Cluster = before.decode().map_err(|error| errors::of_store(&error, ""))?;
    let replicas_before = set_replicas(&mut cluster, &pool, wanted)?;
    let after = AnyObject::encode(&cluster).map_err(|error| errors::of_store(&error, ""))?;
    let problems: Vec<_> =
        context.questions.judge(std::slice::from_ref(&after)).into_iter().map(|(_, problem)| problem).collect();
    if !problems.is_empty() {
        return Err(status::invalid(&errors::violations(&problems, "")));
    }
    if dry_run {
        return Ok(pb::ScalePoolResponse { replicas_before, object: text(&after, Shown::Whole)? });
    }
    tracing::info!(%caller, cluster = name, %pool, from = replicas_before, to = replicas, "scales");
    let (_, after) =
        change(context, &name, |cluster: &mut Cluster| set_replicas(cluster, &pool, wanted).map(drop)).await?;
    Ok(pb::ScalePoolResponse { replicas_before, object: text(&after, Shown::Whole)? })
}

/// Tells how many there were.
fn set_replicas(cluster: &mut Cluster, pool: &DnsLabel, replicas: Replicas) -> Result<u32, Status> {
    let names: Vec<_> = cluster.spec.workers.iter().map(|pool| pool.name.to_string()).collect();
    match cluster.spec.workers.iter_mut().find(|known| known.name == *pool) {
        Some(pool) => Ok(u32::from(std::mem::replace(&mut pool.replicas, replicas).get())),
        None if names.is_empty() => Err(errors::bad_field("pool", "is not there: the cluster has no pools of workers")),
        None => Err(errors::bad_field("pool", format!("is {pool}: the cluster has {}", names.join(", ")))),
    }
}
