use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::operator::v1::{self as pb, watch_objects_response::Type};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Context, Shown, errors, text};
use crate::store::{AnyObject, Selector, Store, Watch, WatchEvent, WatchFrom, WatchOptions};

/// A watcher that hears nothing for this long is told from where it can go on.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);

pub(super) async fn watch<S: Store>(
    context: &Context<S>,
    request: &pb::WatchObjectsRequest,
) -> Result<BoxStream<'static, Result<pb::WatchObjectsResponse, Status>>, Status> {
    let kind = errors::field("kind", &request.kind)?;
    let selector: Selector = errors::field("selector", &request.selector)?;
    let from = match request.resource_version.as_str() {
        "" => WatchFrom::State,
        version => WatchFrom::After(errors::field("resource_version", version)?),
    };
    let options = WatchOptions { from, selector, bookmark_interval: BOOKMARK_INTERVAL };
    let events = context.store.watch_any(kind, options).await.map_err(|error| errors::of_store(&error, ""))?;
    let watcher = Watcher {
        events,
        told_state: matches!(from, WatchFrom::After(_)),
        shutdown: context.shutdown.clone(),
        ended: false,
    };
    Ok(stream::unfold(watcher, |mut watcher| async { watcher.next().await.map(|event| (event, watcher)) }).boxed())
}

struct Watcher {
    events: Watch<AnyObject>,
    /// What was there at the begin has been told: from here on each event is a place to go on from.
    told_state: bool,
    shutdown: CancellationToken,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<pb::WatchObjectsResponse, Status>> {
        if self.ended {
            return None;
        }
        let event = tokio::select! {
            () = self.shutdown.cancelled() => Err(errors::shutting_down()),
            event = self.events.next() => match event {
                Some(Ok(event)) => self.message(event),
                Some(Err(error)) => Err(errors::of_watch(&error)),
                None => Err(errors::shutting_down()),
            },
        };
        self.ended = event.is_err();
        Some(event)
    }

    fn message(&mut self, event: WatchEvent<AnyObject>) -> Result<pb::WatchObjectsResponse, Status> {
        let (kind, object) = match event {
            WatchEvent::Added(object) => (Type::Added, object),
            WatchEvent::Modified(object) => (Type::Modified, object),
            WatchEvent::Deleted(object) => (Type::Deleted, object),
            WatchEvent::Bookmark(version) => {
                self.told_state = true;
                let resource_version = version.to_string();
                return Ok(pb::WatchObjectsResponse {
                    r#type: Type::Bookmark.into(),
                    object: String::new(),
                    resource_version,
                });
            }
        };
        let version = object.metadata().resource_version.clone().unwrap_or_default();
        Ok(pb::WatchObjectsResponse {
            r#type: kind.into(),
            object: text(&object, Shown::WithoutSeeds)?,
            resource_version: if self.told_state { version } else { String::new() },
        })
    }
}
