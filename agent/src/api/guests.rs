//! `GuestService`.

mod apply;
mod delete;
mod get;
mod list;
mod watch;

use std::sync::Arc;

use futures::stream::BoxStream;
use goliath_proto::agent::v1::{self as pb, guest_service_server::GuestService};
use tonic::{Request, Response, Status};

use super::{Context, render};
use crate::{
    ledger::GuestRecord,
    observed::{GuestStatus, Seen},
};

#[derive(Debug)]
pub(super) struct Guests(pub(super) Context);

#[tonic::async_trait]
impl GuestService for Guests {
    async fn apply_guest(
        &self,
        request: Request<pb::ApplyGuestRequest>,
    ) -> Result<Response<pb::ApplyGuestResponse>, Status> {
        apply::apply(&self.0, request).await.map(Response::new)
    }

    async fn delete_guest(
        &self,
        request: Request<pb::DeleteGuestRequest>,
    ) -> Result<Response<pb::DeleteGuestResponse>, Status> {
        delete::delete(&self.0, request).await.map(Response::new)
    }

    async fn get_guest(&self, request: Request<pb::GetGuestRequest>) -> Result<Response<pb::GetGuestResponse>, Status> {
        get::get(&self.0, request.get_ref()).map(Response::new)
    }

    async fn list_guests(
        &self,
        request: Request<pb::ListGuestsRequest>,
    ) -> Result<Response<pb::ListGuestsResponse>, Status> {
        list::list(&self.0, request.get_ref()).map(Response::new)
    }

    type WatchGuestsStream = BoxStream<'static, Result<pb::WatchGuestsResponse, Status>>;

    async fn watch_guests(
        &self,
        request: Request<pb::WatchGuestsRequest>,
    ) -> Result<Response<Self::WatchGuestsStream>, Status> {
        watch::watch(&self.0, request.get_ref()).map(Response::new)
    }
}

/// A guest as asked for and as seen; one that no reconciler has looked at yet is accepted.
fn render_guest(record: &GuestRecord, seen: Option<Seen>) -> pb::Guest {
    let (status, revision) =
        seen.map_or_else(|| (Arc::new(GuestStatus::default()), 0), |seen| (seen.status, seen.revision));
    pb::Guest { spec: Some(render::guest(&record.spec)), status: Some(render::guest_status(&status)), revision }
}

/// As one of many.
fn brief(guest: pb::Guest) -> pb::Guest {
    pb::Guest { spec: guest.spec.map(render::without_documents), ..guest }
}
