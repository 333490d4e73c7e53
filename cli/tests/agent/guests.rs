use std::collections::HashMap;

use goliath_proto::agent::v1::{
    ApplyGuestRequest, ApplyGuestResponse, ApplyOutcome, CloudInit, DeleteGuestRequest, DeleteGuestResponse,
    GetGuestRequest, GetGuestResponse, Guest, GuestStatus, ListGuestsRequest, ListGuestsResponse, WatchGuestsRequest,
    WatchGuestsResponse, guest_service_server::GuestService, seed,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::BroadcastStream};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::Services;

/// As the agent does: a list has no documents of seeds.
fn brief(mut guest: Guest) -> Guest {
    if let Some(seed) = guest.spec.as_mut().and_then(|spec| spec.seed.as_mut()) {
        seed.kind = Some(seed::Kind::CloudInit(CloudInit::default()));
    }
    guest
}

type Changes = std::pin::Pin<Box<dyn Stream<Item = Result<WatchGuestsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GuestService for Services {
    async fn apply_guest(&self, request: Request<ApplyGuestRequest>) -> Result<Response<ApplyGuestResponse>, Status> {
        let ApplyGuestRequest { spec, dry_run } = request.into_inner();
        let spec = spec.unwrap();
        let mut state = self.state();
        if let Some(status) = &state.refusal {
            return Err(status.clone());
        }
        let held = state.guests.get(&spec.uid).and_then(|guest| guest.spec.clone());
        let outcome = match held {
            None => ApplyOutcome::Created,
            Some(held) if held == spec => ApplyOutcome::Unchanged,
            Some(held) if held.generation >= spec.generation => {
                let details = ErrorDetails::with_error_info("REUSED_GENERATION", "goliath.dev", HashMap::new());
                let message = "that generation is held with another specification";
                return Err(Status::with_error_details(Code::FailedPrecondition, message, details));
            }
            Some(_) => ApplyOutcome::Updated,
        };
        let guest = Guest { spec: Some(spec), status: Some(GuestStatus::default()), revision: 0 };
        if !dry_run && outcome != ApplyOutcome::Unchanged {
            state.put(guest.clone());
        }
        Ok(Response::new(ApplyGuestResponse {
            outcome: i32::from(outcome),
            guest: Some(guest),
            restart_required_by: Vec::new(),
        }))
    }

    async fn delete_guest(
        &self,
        request: Request<DeleteGuestRequest>,
    ) -> Result<Response<DeleteGuestResponse>, Status> {
        let uid = request.into_inner().uid;
        if !self.state().guests.contains_key(&uid) {
            return Err(Status::not_found("no such guest"));
        }
        let services = self.clone();
        // A guest takes its time to go.
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            services.state().remove(&uid);
        });
        Ok(Response::new(DeleteGuestResponse {}))
    }

    async fn get_guest(&self, request: Request<GetGuestRequest>) -> Result<Response<GetGuestResponse>, Status> {
        let guest = self.state().guests.get(&request.into_inner().uid).cloned();
        Ok(Response::new(GetGuestResponse { guest: Some(guest.ok_or_else(|| Status::not_found("no such guest"))?) }))
    }

    async fn list_guests(&self, _: Request<ListGuestsRequest>) -> Result<Response<ListGuestsResponse>, Status> {
        let state = self.state();
        let guests = state.guests.values().cloned().map(brief).collect();
        Ok(Response::new(ListGuestsResponse { guests, revision: state.revision }))
    }

    type WatchGuestsStream = Changes;

    async fn watch_guests(&self, request: Request<WatchGuestsRequest>) -> Result<Response<Changes>, Status> {
        let mut state = self.state();
        if state.broken_watches > 0 {
            state.broken_watches -= 1;
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        if request.into_inner().revision < state.revision {
            return Err(Status::out_of_range("too old"));
        }
        let changes = BroadcastStream::new(state.changes.subscribe());
        Ok(Response::new(Box::pin(changes.map(|change| change.map_err(|_| Status::data_loss("too slow"))))))
    }
}
