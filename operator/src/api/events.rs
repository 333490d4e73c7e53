//! EventService.

use std::{collections::VecDeque, sync::Arc};

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::operator::v1::{self as pb, event_service_server::EventService};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{context::Context, errors};
use crate::{
    objects::Kind,
    runtime::events::{Event, EventList, EventWatch, Severity},
    store::Store,
};

#[derive(Debug)]
pub(super) struct Events<S: Store>(pub(super) Context<S>);

#[tonic::async_trait]
impl<S: Store> EventService for Events<S> {
    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let filter = Filter::read(request.into_inner().filter)?;
        let EventList { events, revision } = self.0.events.list(|event| filter.takes(event));
        let events = events.iter().map(|event| message(event)).collect();
        Ok(Response::new(pb::ListEventsResponse { events, revision }))
    }

    type WatchEventsStream = BoxStream<'static, Result<pb::WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let pb::WatchEventsRequest { filter, revision } = request.into_inner();
        let filter = Filter::read(filter)?;
        let (due, after) = match revision {
            0 => {
                let EventList { events, revision } = self.0.events.list(|event| filter.takes(event));
                (events.into(), revision)
            }
            revision => (VecDeque::new(), revision),
        };
        let watcher =
            Watcher { context: self.0.clone(), filter, due, events: self.0.events.watch(after), ended: false };
        let events =
            stream::unfold(watcher, |mut watcher| async { watcher.next().await.map(|event| (event, watcher)) });
        Ok(Response::new(events.boxed()))
    }
}

/// Which events are meant.
struct Filter {
    kind: Option<Kind>,
    name: String,
    cluster: String,
    warnings: bool,
}

impl Filter {
    fn read(filter: Option<pb::EventFilter>) -> Result<Self, Status> {
        let pb::EventFilter { kind, name, cluster, warnings } = filter.unwrap_or_default();
        let kind = if kind.is_empty() { None } else { Some(errors::field("filter.kind", &kind)?) };
        Ok(Self { kind, name, cluster, warnings })
    }

    fn takes(&self, event: &Event) -> bool {
        let Self { kind, name, cluster, warnings } = self;
        let subject = &event.subject;
        kind.is_none_or(|kind| kind == subject.kind)
            && (name.is_empty() || *name == subject.name)
            && (cluster.is_empty() || belongs(subject.kind, &subject.name, cluster))
            && (!warnings || event.severity == Severity::Warning)
    }
}

/// A cluster's name is a label without dots, and all that it owns is named after it.
fn belongs(kind: Kind, name: &str, cluster: &str) -> bool {
    match kind {
        Kind::Cluster | Kind::CertificateAuthority => name == cluster,
        Kind::Guest | Kind::Certificate => name.split('.').next() == Some(cluster),
        Kind::Host => false,
    }
}

struct Watcher<S: Store> {
    context: Context<S>,
    filter: Filter,
    due: VecDeque<Arc<Event>>,
    events: EventWatch,
    ended: bool,
}

impl<S: Store> Watcher<S> {
    async fn next(&mut self) -> Option<Result<pb::WatchEventsResponse, Status>> {
        while !self.ended {
            if let Some(event) = self.due.pop_front() {
                return Some(Ok(pb::WatchEventsResponse { event: Some(message(&event)) }));
            }
            let events = tokio::select! {
                () = self.context.shutdown.cancelled() => Err(errors::shutting_down()),
                events = self.events.next() => {
                    events.map_err(|gone| errors::expired("REVISION_GONE", gone.to_string()))
                }
            };
            match events {
                Ok(events) => self.due.extend(events.into_iter().filter(|event| self.filter.takes(event))),
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }
}

fn message(event: &Event) -> pb::Event {
    let Event { revision, subject, severity, reason, message, count, first_time, last_time } = event;
    let severity = match severity {
        Severity::Normal => pb::event::Severity::Normal,
        Severity::Warning => pb::event::Severity::Warning,
    };
    pb::Event {
        revision: *revision,
        kind: subject.kind.to_string(),
        name: subject.name.clone(),
        uid: subject.uid.clone(),
        severity: severity.into(),
        reason: reason.clone(),
        message: message.clone(),
        count: *count,
        first_time: Some(timestamp(*first_time)),
        last_time: Some(timestamp(*last_time)),
    }
}

pub(super) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // Nanoseconds of a time before 1970 count downwards.
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}
