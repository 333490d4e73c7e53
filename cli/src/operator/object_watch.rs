//! Follows the objects of a kind over restarts of the operator: every change is told, none twice.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use goliath_proto::operator::v1::{WatchObjectsRequest, WatchObjectsResponse, watch_objects_response::Type};
use tonic::{Code, Status, Streaming};

use super::Object;
use crate::{connection::Operator, refusal::Refusal};

/// Between tries to reach an operator that went away.
const RECONNECT: Duration = Duration::from_millis(500);

/// What became of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// It is there, as it is now.
    Present(Object),
    /// It is gone; as it was last.
    Gone(Object),
}

/// The objects as last heard of.
pub(super) struct ObjectWatch {
    operator: Operator,
    request: WatchObjectsRequest,
    known: BTreeMap<String, Object>,
    /// Those that a new beginning has told; none where changes are told.
    listed: Option<BTreeSet<String>>,
    stream: Option<Streaming<WatchObjectsResponse>>,
    pending: VecDeque<Change>,
}

impl ObjectWatch {
    /// The first changes are the objects that are there now.
    pub(super) fn start(operator: &Operator, kind: &str, selector: &str) -> Self {
        let request = WatchObjectsRequest {
            kind: kind.to_owned(),
            selector: selector.to_owned(),
            resource_version: String::new(),
        };
        Self {
            operator: operator.clone(),
            request,
            known: BTreeMap::new(),
            listed: Some(BTreeSet::new()),
            stream: None,
            pending: VecDeque::new(),
        }
    }

    /// The next change; it waits as long as it takes. None: everything that was there at the begin has been told.
    pub(super) async fn next(&mut self) -> Result<Option<Change>, Refusal> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(change));
            }
            match self.receive().await {
                Ok(true) => return Ok(None),
                Ok(false) => {}
                Err(status) => {
                    self.stream = None;
                    match status.code() {
                        Code::OutOfRange => self.request.resource_version.clear(),
                        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted => {
                            tokio::time::sleep(RECONNECT).await;
                        }
                        _ => return Err(Refusal::by_operator(format!("watch {}", self.request.kind), &status)),
                    }
                }
            }
        }
    }

    /// Takes one message; tells whether the present state has just been told whole.
    async fn receive(&mut self) -> Result<bool, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                // A state that was told in part is told anew.
                self.listed = self.request.resource_version.is_empty().then(BTreeSet::new);
                none.insert(self.operator.objects().watch_objects(self.request.clone()).await?.into_inner())
            }
        };
        let Some(message) = stream.message().await? else {
            self.stream = None;
            return Ok(false);
        };
        let (kind, object) = (message.r#type(), Object::parse(&message.object));
        if !message.resource_version.is_empty() {
            self.request.resource_version = message.resource_version;
        }
        match kind {
            Type::Added | Type::Modified => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(object.uid().to_owned());
                }
                if self.known.insert(object.uid().to_owned(), object.clone()).as_ref() != Some(&object) {
                    self.pending.push_back(Change::Present(object));
                }
            }
            Type::Deleted => {
                self.known.remove(object.uid());
                self.pending.push_back(Change::Gone(object));
            }
            Type::Bookmark => {
                if let Some(listed) = self.listed.take() {
                    // What went while nobody watched.
                    let gone = self.known.extract_if(.., |uid, _| !listed.contains(uid));
                    self.pending.extend(gone.map(|(_, object)| Change::Gone(object)));
                    return Ok(true);
                }
            }
            Type::Unspecified => {}
        }
        Ok(false)
    }
}
