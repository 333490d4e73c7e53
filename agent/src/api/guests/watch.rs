//! Every change after a revision, in order and without a gap. Nothing is buffered for a slow consumer: changes are taken
//! when it has room for them, and one that lags behind what is remembered is told so and cut off.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::agent::v1::{self as pb, watch_guests_response::Kind};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::{brief, list::cluster, render_guest};
use crate::{
    api::{Context, errors},
    ledger::GuestRecord,
    observed::{ChangeKind, GuestChange, GuestWatch, Seen},
    spec::{ClusterName, GuestUid},
};

/// A watcher that hears nothing for this long is told from where it can go on.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);

pub(super) fn watch(
    context: &Context,
    request: &pb::WatchGuestsRequest,
) -> Result<BoxStream<'static, Result<pb::WatchGuestsResponse, Status>>, Status> {
    let cluster = cluster(&request.cluster)?;
    let (newest, seen) = context.observed.guests();
    let after = if request.revision == 0 { newest } else { request.revision };
    if after > newest {
        let message = format!("revision {after} was never given by this agent: {newest} is its newest");
        return Err(errors::revision_gone(message, newest));
    }
    let changes = context.observed.watch_guests(after);
    let changes = changes.map_err(|gone| errors::revision_gone(gone.to_string(), newest))?;
    let mut watcher = Watcher {
        context: context.clone(),
        cluster,
        known: context.ledger.guests().borrow().iter().map(|(uid, record)| (*uid, Arc::clone(record))).collect(),
        changes,
        due: VecDeque::new(),
        bookmark_at: Instant::now() + BOOKMARK_INTERVAL,
        ended: false,
    };
    if request.revision == 0 {
        watcher.due = seen.into_iter().filter_map(|(uid, seen)| watcher.event(Kind::Added, uid, seen)).collect();
        // Where the present state ends and changes begin.
        watcher.due.push_back(bookmark(newest));
    }
    Ok(stream::unfold(watcher, |mut watcher| async { watcher.next().await.map(|event| (event, watcher)) }).boxed())
}

struct Watcher {
    context: Context,
    cluster: Option<ClusterName>,
    /// A guest that is gone is told as it was.
    known: HashMap<GuestUid, Arc<GuestRecord>>,
    changes: GuestWatch,
    due: VecDeque<pb::WatchGuestsResponse>,
    bookmark_at: Instant,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<pb::WatchGuestsResponse, Status>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(event) = self.due.pop_front() {
                self.bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
                return Some(Ok(event));
            }
            let changes = tokio::select! {
                () = self.context.shutdown.cancelled() => return Some(Err(self.end(errors::shutting_down()))),
                () = sleep_until(self.bookmark_at) => {
                    self.due.push_back(bookmark(self.changes.revision()));
                    continue;
                }
                changes = self.changes.next() => changes,
            };
            match changes {
                Ok(changes) => {
                    for change in changes {
                        let event = self.change(change);
                        self.due.extend(event);
                    }
                }
                Err(gone) => {
                    let (newest, _) = self.context.observed.guests();
                    let status = errors::revision_gone(format!("this watch was too slow: {gone}"), newest);
                    return Some(Err(self.end(status)));
                }
            }
        }
    }

    fn end(&mut self, status: Status) -> Status {
        self.ended = true;
        status
    }

    fn change(&mut self, change: GuestChange) -> Option<pb::WatchGuestsResponse> {
        let GuestChange { revision, uid, kind, status } = change;
        if let Some(record) = self.context.ledger.guests().borrow().get(&uid) {
            self.known.insert(uid, Arc::clone(record));
        }
        let kind = match kind {
            ChangeKind::Added => Kind::Added,
            ChangeKind::Modified => Kind::Modified,
            ChangeKind::Removed => Kind::Deleted,
        };
        let event = self.event(kind, uid, Seen { status, revision });
        if kind == Kind::Deleted {
            self.known.remove(&uid);
        }
        event
    }

    /// None for guests of other clusters.
    fn event(&self, kind: Kind, uid: GuestUid, seen: Seen) -> Option<pb::WatchGuestsResponse> {
        let revision = seen.revision;
        let guest = match self.known.get(&uid) {
            Some(record) if self.cluster.as_ref().is_some_and(|cluster| record.spec.cluster != *cluster) => {
                return None;
            }
            Some(record) => brief(render_guest(record, Some(seen))),
            // Gone before this watch began: of whatever cluster, its uid is all that is left of it.
            None => {
                let spec = pb::GuestSpec { uid: uid.to_string(), ..pb::GuestSpec::default() };
                let status = crate::api::render::guest_status(&seen.status);
                pb::Guest { spec: Some(spec), status: Some(status), revision }
            }
        };
        Some(pb::WatchGuestsResponse { kind: kind.into(), guest: Some(guest), revision })
    }
}

fn bookmark(revision: u64) -> pb::WatchGuestsResponse {
    pb::WatchGuestsResponse { kind: Kind::Bookmark.into(), guest: None, revision }
}
