//! `InspectService`.

mod certificates;
mod console;
mod console_log;

use futures::stream::BoxStream;
use goliath_proto::agent::v1::{self as pb, inspect_service_server::InspectService};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Context,
    errors::{self, Resource},
};
use crate::{qemu::GuestPaths, spec::GuestUid};

#[derive(Debug)]
pub(super) struct Inspect {
    context: Context,
    consoles: console::Consoles,
}

impl Inspect {
    pub(super) fn new(context: Context) -> Self {
        Self { context, consoles: console::Consoles::default() }
    }
}

#[tonic::async_trait]
impl InspectService for Inspect {
    type ConsoleLogStream = BoxStream<'static, Result<pb::ConsoleLogResponse, Status>>;

    async fn console_log(
        &self,
        request: Request<pb::ConsoleLogRequest>,
    ) -> Result<Response<Self::ConsoleLogStream>, Status> {
        console_log::console_log(&self.context, request.get_ref()).map(Response::new)
    }

    type ConsoleStream = BoxStream<'static, Result<pb::ConsoleResponse, Status>>;

    async fn console(
        &self,
        request: Request<Streaming<pb::ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        console::console(&self.context, &self.consoles, request).await.map(Response::new)
    }

    async fn list_certificates(
        &self,
        request: Request<pb::ListCertificatesRequest>,
    ) -> Result<Response<pb::ListCertificatesResponse>, Status> {
        certificates::list(&self.context, request.get_ref()).map(Response::new)
    }

    async fn rotate_certificates(
        &self,
        request: Request<pb::RotateCertificatesRequest>,
    ) -> Result<Response<pb::RotateCertificatesResponse>, Status> {
        certificates::rotate(&self.context, request).await.map(Response::new)
    }
}

/// A guest that this host was told to run.
fn known(context: &Context, uid: &str) -> Result<GuestUid, Status> {
    let uid: GuestUid = errors::field("uid", uid)?;
    if context.ledger.guests().borrow().contains_key(&uid) {
        Ok(uid)
    } else {
        Err(errors::not_found(Resource::Guest, &uid))
    }
}

fn paths(context: &Context, uid: GuestUid) -> GuestPaths {
    let directories = &context.config.directories;
    GuestPaths::new(&directories.runtime, &directories.state, uid)
}
