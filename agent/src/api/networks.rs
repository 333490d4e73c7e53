//! `NetworkService`.

mod apply;
mod delete;

use goliath_proto::agent::v1::{self as pb, network_service_server::NetworkService};
use tonic::{Request, Response, Status};

use super::{
    Context,
    errors::{self, Resource},
    render,
};
use crate::{ledger::NetworkRecord, spec::ClusterName};

#[derive(Debug)]
pub(super) struct Networks(pub(super) Context);

#[tonic::async_trait]
impl NetworkService for Networks {
    async fn apply_network(
        &self,
        request: Request<pb::ApplyNetworkRequest>,
    ) -> Result<Response<pb::ApplyNetworkResponse>, Status> {
        apply::apply(&self.0, request).await.map(Response::new)
    }

    async fn delete_network(
        &self,
        request: Request<pb::DeleteNetworkRequest>,
    ) -> Result<Response<pb::DeleteNetworkResponse>, Status> {
        delete::delete(&self.0, request).await.map(Response::new)
    }

    async fn get_network(
        &self,
        request: Request<pb::GetNetworkRequest>,
    ) -> Result<Response<pb::GetNetworkResponse>, Status> {
        let cluster: ClusterName = errors::field("cluster", &request.get_ref().cluster)?;
        let record = self.0.ledger.networks().borrow().get(&cluster).cloned();
        let record = record.ok_or_else(|| errors::not_found(Resource::Network, &cluster))?;
        Ok(Response::new(pb::GetNetworkResponse { network: Some(render_network(&self.0, &record)) }))
    }

    async fn list_networks(
        &self,
        _: Request<pb::ListNetworksRequest>,
    ) -> Result<Response<pb::ListNetworksResponse>, Status> {
        let records = self.0.ledger.networks().borrow().clone();
        let networks = records.values().map(|record| render_network(&self.0, record)).collect();
        Ok(Response::new(pb::ListNetworksResponse { networks }))
    }
}

fn render_network(context: &Context, record: &NetworkRecord) -> pb::Network {
    render::network(record, context.observed.network(&record.spec.cluster).as_deref())
}
