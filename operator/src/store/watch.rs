use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};

use super::{
    AnyObject, ResourceVersion, Selector, StoreError,
    history::{After, Change, History},
};
use crate::objects::{Kind, Object};

/// What happened to an object, seen through the watch's selector: one whose labels no longer match is deleted, one whose
/// labels begin to match is added.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent<T> {
    /// It is there now.
    Added(T),
    /// It changed.
    Modified(T),
    /// It is gone; this is its last state, with the resource version of its end.
    Deleted(T),
    /// Nothing happened up to here: a watch may resume from it.
    Bookmark(ResourceVersion),
}

/// Why a watch ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// It was too slow, and what it did not read is forgotten: list again, and watch from there.
    #[error("changes since resource version {0} are no longer known: list again and watch from there")]
    Expired(ResourceVersion),
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
    /// An object cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the present state, an `Added` for each object; then a bookmark; then what changes.
    State,
    /// With the first change after this version, as a list or a watch gave it.
    After(ResourceVersion),
}

/// What is watched.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Where to begin.
    pub from: WatchFrom,
    /// Which objects.
    pub selector: Selector,
    /// How long it may be silent before a bookmark tells how far it came.
    pub bookmark_interval: Duration,
}

impl WatchOptions {
    /// All objects, from a version on, with a bookmark a minute.
    pub fn after(version: ResourceVersion) -> Self {
        Self { from: WatchFrom::After(version), ..Self::state() }
    }

    /// All objects, with the present state first, with a bookmark a minute.
    pub fn state() -> Self {
        Self { from: WatchFrom::State, selector: Selector::everything(), bookmark_interval: Duration::from_mins(1) }
    }

    /// Only these.
    #[must_use]
    pub fn with_selector(mut self, selector: Selector) -> Self {
        self.selector = selector;
        self
    }
}

/// Changes as they happen. It ends after its first error; dropping it costs nothing.
pub struct Watch<T>(Pin<Box<dyn Stream<Item = Result<WatchEvent<T>, WatchError>> + Send>>);

impl<T: Send + 'static> Watch<T> {
    /// Of any source.
    pub fn new(events: impl Stream<Item = Result<WatchEvent<T>, WatchError>> + Send + 'static) -> Self {
        Self(Box::pin(events))
    }

    /// Waits for what happens next. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<WatchEvent<T>, WatchError>> {
        self.0.next().await
    }
}

impl Watch<AnyObject> {
    /// The same, typed.
    pub fn typed<T: Object>(self) -> Watch<T> {
        Watch::new(self.0.map(|event| {
            Ok(match event? {
                WatchEvent::Added(object) => WatchEvent::Added(object.decode()?),
                WatchEvent::Modified(object) => WatchEvent::Modified(object.decode()?),
                WatchEvent::Deleted(object) => WatchEvent::Deleted(object.decode()?),
                WatchEvent::Bookmark(version) => WatchEvent::Bookmark(version),
            })
        }))
    }
}

impl<T> Stream for Watch<T> {
    type Item = Result<WatchEvent<T>, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// How many changes a reader takes from the log at once: what a watch holds beyond the log.
const BATCH: usize = 64;

/// A reader of a history.
pub(super) struct Reader {
    history: Arc<History>,
    open: tokio::sync::watch::Receiver<bool>,
    kind: Kind,
    selector: Selector,
    bookmark_interval: Duration,
    /// Everything up to here was told, or is in `pending`.
    position: u64,
    /// The last version that the watcher was told.
    told: u64,
    pending: VecDeque<WatchEvent<AnyObject>>,
}

impl Reader {
    /// From a version on, after some events that bring the watcher there.
    pub(super) fn new(
        history: Arc<History>,
        kind: Kind,
        options: WatchOptions,
        version: u64,
        first: VecDeque<WatchEvent<AnyObject>>,
    ) -> Option<Self> {
        let open = history.subscribe(kind)?;
        let WatchOptions { selector, bookmark_interval, .. } = options;
        Some(Self {
            history,
            open,
            kind,
            selector,
            bookmark_interval,
            position: version,
            told: version,
            pending: first,
        })
    }

    pub(super) fn into_watch(self) -> Watch<AnyObject> {
        Watch::new(stream::unfold(Some(self), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn next(&mut self) -> Result<WatchEvent<AnyObject>, WatchError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.told = version_of(&event).unwrap_or(self.told);
                return Ok(event);
            }
            // Marked as seen before the log is read, so that no append falls between the two.
            if !*self.open.borrow_and_update() {
                return Err(WatchError::Closed);
            }
            match self.history.after(self.kind, self.position, BATCH) {
                After::Forgotten => return Err(WatchError::Expired(ResourceVersion::new(self.position))),
                After::Changes(changes) => {
                    self.position = changes.last().map_or(self.position, |change| change.version);
                    self.pending.extend(changes.iter().filter_map(|change| seen_through(&self.selector, change)));
                }
                After::Nothing(latest) => {
                    self.position = latest;
                    match tokio::time::timeout(self.bookmark_interval, self.open.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Err(WatchError::Closed),
                        Err(_) => self.bookmark(),
                    }
                }
            }
        }
    }

    /// Other kinds move on as well: without a bookmark a quiet watch could not be resumed.
    fn bookmark(&mut self) {
        if let After::Nothing(latest) = self.history.after(self.kind, self.position, 1) {
            self.position = latest;
            if latest > self.told {
                self.pending.push_back(WatchEvent::Bookmark(ResourceVersion::new(latest)));
            }
        }
    }
}

fn version_of(event: &WatchEvent<AnyObject>) -> Option<u64> {
    match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
            object.resource_version().map(ResourceVersion::get)
        }
        WatchEvent::Bookmark(version) => Some(version.get()),
    }
}

/// What a watcher with this selector is told of a change.
fn seen_through(selector: &Selector, change: &Change) -> Option<WatchEvent<AnyObject>> {
    let seen = |object: &Option<AnyObject>| {
        object.clone().filter(|object| selector.matches(object.metadata().labels.as_ref()))
    };
    match (seen(&change.before), seen(&change.after)) {
        (None, None) => None,
        (None, Some(after)) => Some(WatchEvent::Added(after)),
        (Some(_), Some(after)) => Some(WatchEvent::Modified(after)),
        (Some(before), None) => {
            Some(WatchEvent::Deleted(before.with_resource_version(ResourceVersion::new(change.version))))
        }
    }
}
