//! What is true now, with a revision.
//!
//! Reconcilers publish what they saw; Get, List and Watch read it. A revision grows with every change of a guest. It
//! starts at the time of the agent's start in microseconds, so a revision of an earlier life is older than all that this
//! life remembers, and a watcher that comes back with one is told to list again.

mod condition;
mod guest;
mod network;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

pub use condition::{Condition, ConditionStatus, Conditions};
pub use guest::{ChosenAccelerator, Exit, ExitReason, GuestPhase, GuestStatus, ProcessStatus, ShutdownStep};
pub use network::NetworkStatus;

use crate::spec::{ClusterName, GuestUid};

/// How many changes a watcher may lag behind, or have missed, before it must list again.
const REMEMBERED: usize = 4096;

/// What was seen. A handle: clones share it.
#[derive(Clone)]
pub struct Observed {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The newest revision; watchers wait on it.
    newest: watch::Sender<u64>,
}

struct State {
    guests: BTreeMap<GuestUid, Seen>,
    networks: BTreeMap<ClusterName, Arc<NetworkStatus>>,
    /// The changes after `forgotten`, oldest first.
    changes: VecDeque<GuestChange>,
    /// The newest revision that is not among `changes`.
    forgotten: u64,
    newest: u64,
}

/// A guest's status and the revision of its last change.
#[derive(Debug, Clone)]
pub struct Seen {
    /// As published.
    pub status: Arc<GuestStatus>,
    /// When it changed last.
    pub revision: u64,
}

/// One change of one guest.
#[derive(Debug, Clone)]
pub struct GuestChange {
    /// Grows by one with each change.
    pub revision: u64,
    /// Whose.
    pub uid: GuestUid,
    /// Its first status, another one, or its end.
    pub kind: ChangeKind,
    /// For [`ChangeKind::Removed`] the last one.
    pub status: Arc<GuestStatus>,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The guest was not there before.
    Added,
    /// Its spec or its status is another.
    Modified,
    /// Nothing of it is left.
    Removed,
}

/// The revision asked for is not among those remembered: list, and watch from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} is older than {oldest}, the oldest that is remembered: list again and watch from there")]
pub struct TooOld {
    /// By the watcher.
    pub asked: u64,
    /// The oldest from which a watch can go on.
    pub oldest: u64,
}

impl Observed {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self::starting_at(u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(1))
    }

    fn starting_at(revision: u64) -> Self {
        let state = State {
            guests: BTreeMap::new(),
            networks: BTreeMap::new(),
            changes: VecDeque::new(),
            forgotten: revision,
            newest: revision,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), newest: watch::Sender::new(revision) }) }
    }

    /// A guest's status as seen now. The same status again is no change.
    pub fn publish_guest(&self, uid: GuestUid, status: GuestStatus) {
        let mut state = self.state();
        let kind = match state.guests.get(&uid) {
            Some(seen) if *seen.status == status => return,
            Some(_) => ChangeKind::Modified,
            None => ChangeKind::Added,
        };
        let status = Arc::new(status);
        let revision = state.record(uid, kind, Arc::clone(&status));
        state.guests.insert(uid, Seen { status, revision });
        drop(state);
        self.shared.newest.send_replace(revision);
    }

    /// Nothing of a guest is left.
    pub fn forget_guest(&self, uid: GuestUid) {
        let mut state = self.state();
        let Some(seen) = state.guests.remove(&uid) else { return };
        let revision = state.record(uid, ChangeKind::Removed, seen.status);
        drop(state);
        self.shared.newest.send_replace(revision);
    }

    /// A guest's status, once one was published.
    pub fn guest(&self, uid: GuestUid) -> Option<Seen> {
        self.state().guests.get(&uid).cloned()
    }

    /// All guests, and the revision from which a watch goes on without a gap.
    pub fn guests(&self) -> (u64, BTreeMap<GuestUid, Seen>) {
        let state = self.state();
        (state.newest, state.guests.clone())
    }

    /// A network's status as seen now.
    pub fn publish_network(&self, cluster: ClusterName, status: NetworkStatus) {
        self.state().networks.insert(cluster, Arc::new(status));
    }

    /// Nothing of a network is left.
    pub fn forget_network(&self, cluster: &ClusterName) {
        self.state().networks.remove(cluster);
    }

    /// A network's status, once one was published.
    pub fn network(&self, cluster: &ClusterName) -> Option<Arc<NetworkStatus>> {
        self.state().networks.get(cluster).cloned()
    }

    /// The changes after a revision.
    pub fn watch_guests(&self, after: u64) -> Result<GuestWatch, TooOld> {
        let newest = self.shared.newest.subscribe();
        let oldest = self.state().forgotten;
        if after < oldest {
            return Err(TooOld { asked: after, oldest });
        }
        Ok(GuestWatch { observed: self.clone(), newest, after })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds it can leave it half-changed.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Observed {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Observed").field("newest", &*self.shared.newest.borrow()).finish_non_exhaustive()
    }
}

impl State {
    fn record(&mut self, uid: GuestUid, kind: ChangeKind, status: Arc<GuestStatus>) -> u64 {
        self.newest += 1;
        self.changes.push_back(GuestChange { revision: self.newest, uid, kind, status });
        if self.changes.len() > REMEMBERED
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.revision;
        }
        self.newest
    }
}

/// Follows the guests' changes, in order and without a gap.
#[derive(Debug)]
pub struct GuestWatch {
    observed: Observed,
    newest: watch::Receiver<u64>,
    after: u64,
}

impl GuestWatch {
    /// The changes since the last call, at least one; waits for it. A watcher that lags too far behind is told so.
    ///
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Vec<GuestChange>, TooOld> {
        // The sender lives as long as `observed` here, so this does not fail.
        let after = self.after;
        let _ = self.newest.wait_for(|newest| *newest > after).await;
        let state = self.observed.state();
        if self.after < state.forgotten {
            return Err(TooOld { asked: self.after, oldest: state.forgotten });
        }
        let first = state.changes.partition_point(|change| change.revision <= self.after);
        let changes: Vec<GuestChange> = state.changes.range(first..).cloned().collect();
        if let Some(last) = changes.last() {
            self.after = last.revision;
        }
        Ok(changes)
    }

    /// Every change up to this revision was handed out.
    pub fn revision(&self) -> u64 {
        self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::test::guest;

    fn status(restarts: u32) -> GuestStatus {
        GuestStatus { restart_count: restarts, ..GuestStatus::default() }
    }

    #[tokio::test]
    async fn a_watch_resumes_where_another_ended_without_a_gap() {
        let observed = Observed::starting_at(100);
        let uid = guest("a").uid;
        observed.publish_guest(uid, status(0));
        let mut first = observed.watch_guests(100).unwrap();
        assert_eq!(first.next().await.unwrap().len(), 1);
        observed.publish_guest(uid, status(1));
        observed.forget_guest(uid);

        let mut resumed = observed.watch_guests(first.revision()).unwrap();
        let kinds: Vec<_> = resumed.next().await.unwrap().iter().map(|change| (change.revision, change.kind)).collect();
        assert_eq!(kinds, [(102, ChangeKind::Modified), (103, ChangeKind::Removed)]);
    }

    #[tokio::test]
    async fn the_same_status_again_is_no_change() {
        let observed = Observed::starting_at(100);
        observed.publish_guest(guest("a").uid, status(0));
        observed.publish_guest(guest("a").uid, status(0));
        assert_eq!(observed.guests().0, 101);
    }

    #[tokio::test]
    async fn a_revision_of_an_earlier_life_is_too_old() {
        let observed = Observed::starting_at(100);
        assert_eq!(observed.watch_guests(99).unwrap_err(), TooOld { asked: 99, oldest: 100 });
    }

    #[tokio::test]
    async fn a_watcher_that_lags_too_far_behind_is_told_so() {
        let observed = Observed::starting_at(0);
        let mut watch = observed.watch_guests(0).unwrap();
        for restarts in 0..=u32::try_from(REMEMBERED).unwrap() {
            observed.publish_guest(guest("a").uid, status(restarts));
        }
        assert!(watch.next().await.is_err());
    }
}
