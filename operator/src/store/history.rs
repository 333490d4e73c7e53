//! The last changes, in memory: what watches are fed from. One log for each kind, bounded in number and bytes; the
//! oldest goes first. Readers keep a position and pull, so one that is slow costs nothing: what it did not read in time
//! is gone, and it is told so.

use std::{
    collections::VecDeque,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::AnyObject;
use crate::objects::Kind;

/// One write.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    /// As it was before; none: it is new.
    pub(super) before: Option<AnyObject>,
    /// As it is now; none: it is gone.
    pub(super) after: Option<AnyObject>,
}

impl Change {
    fn kind(&self) -> Option<Kind> {
        self.after.as_ref().or(self.before.as_ref()).map(AnyObject::kind)
    }

    fn weight(&self) -> usize {
        // What an object was before is the `after` of an earlier change, most often still held by the log.
        self.after.as_ref().or(self.before.as_ref()).map_or(0, AnyObject::weight)
    }
}

/// How much of the past is kept, for each kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) changes: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct History {
    logs: Vec<Log>,
    /// Every change up to here is in its log.
    latest: AtomicU64,
}

#[derive(Debug)]
struct Log {
    kept: RwLock<Kept>,
    /// Wakes readers; false once the store is closed.
    open: watch::Sender<bool>,
}

#[derive(Debug)]
struct Kept {
    changes: VecDeque<Change>,
    bytes: usize,
    /// The version of the last change that was forgotten, or at which the log began.
    forgotten: u64,
}

/// What a log gives for a position.
#[derive(Debug)]
pub(super) enum After {
    /// Changes that follow it without a gap.
    Changes(Vec<Change>),
    /// None follows it yet, up to this version.
    Nothing(u64),
    /// Some that follow it are forgotten.
    Forgotten,
}

impl History {
    /// Begins at a version: what was before is not known.
    pub(super) fn new(version: u64) -> Self {
        let log = || Log {
            kept: RwLock::new(Kept { changes: VecDeque::new(), bytes: 0, forgotten: version }),
            open: watch::Sender::new(true),
        };
        Self { logs: Kind::ALL.iter().map(|_| log()).collect(), latest: AtomicU64::new(version) }
    }

    fn log(&self, kind: Kind) -> Option<&Log> {
        Kind::ALL.iter().position(|known| *known == kind).and_then(|index| self.logs.get(index))
    }

    /// Takes what one commit wrote, in order, then wakes who waits for it.
    pub(super) fn append(&self, changes: &[Change], version: u64, bounds: Bounds) {
        for kind in Kind::ALL {
            let Some(log) = self.log(*kind) else { continue };
            let mut kept = log.kept.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes.iter().filter(|change| change.kind() == Some(*kind)) {
                kept.bytes += change.weight();
                kept.changes.push_back(change.clone());
            }
            while kept.changes.len() > bounds.changes || kept.bytes > bounds.bytes {
                let Some(oldest) = kept.changes.pop_front() else { break };
                kept.bytes -= oldest.weight();
                kept.forgotten = oldest.version;
            }
        }
        self.latest.store(version, Ordering::Release);
        for kind in Kind::ALL {
            if let Some(log) = self.log(*kind)
                && changes.iter().any(|change| change.kind() == Some(*kind))
            {
                log.open.send_modify(|_| ());
            }
        }
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        for log in &self.logs {
            log.open.send_replace(false);
        }
    }

    /// At most so many changes of a kind after a position.
    pub(super) fn after(&self, kind: Kind, position: u64, most: usize) -> After {
        // Read before the log: what is in no log yet must not be passed over.
        let latest = self.latest.load(Ordering::Acquire);
        let Some(log) = self.log(kind) else { return After::Nothing(latest) };
        let kept = log.kept.read().unwrap_or_else(PoisonError::into_inner);
        if position < kept.forgotten {
            return After::Forgotten;
        }
        let first = kept.changes.partition_point(|change| change.version <= position);
        if first == kept.changes.len() {
            return After::Nothing(latest.max(position));
        }
        After::Changes(kept.changes.range(first..).take(most).cloned().collect())
    }

    /// Whether changes after a position are no longer known.
    pub(super) fn has_forgotten(&self, kind: Kind, position: u64) -> bool {
        matches!(self.after(kind, position, 0), After::Forgotten)
    }

    /// Tells of every append of a kind.
    pub(super) fn subscribe(&self, kind: Kind) -> Option<watch::Receiver<bool>> {
        self.log(kind).map(|log| log.open.subscribe())
    }
}
