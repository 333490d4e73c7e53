//! Pulls: several may wait for one piece of work, and it goes on as long as one does.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Image, ImageError};
use crate::spec::ByteSize;

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// What is being done.
    pub phase: PullPhase,
    /// Of the compressed bytes; what an earlier attempt had left counts.
    pub downloaded: ByteSize,
    /// None: not known yet.
    pub total: Option<ByteSize>,
}

/// What a pull does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPhase {
    /// Asks which image the reference means.
    #[default]
    Resolving,
    /// Downloads, checks and unpacks, all at once.
    Downloading,
    /// Checks the disk and publishes.
    Inspecting,
    /// Ended, well or not.
    Done,
}

pub(super) type Outcome = Result<Arc<Image>, Arc<ImageError>>;

/// An image on its way. When all pulls of an image are dropped, the work on it stops; what was downloaded is kept for
/// the next time.
#[derive(Debug)]
pub struct Pull {
    flight: Arc<Flight>,
}

impl Pull {
    pub(super) fn new(flight: Arc<Flight>) -> Self {
        Self { flight }
    }

    /// Changes as the pull goes on.
    pub fn progress(&self) -> watch::Receiver<PullProgress> {
        self.flight.progress.clone()
    }

    /// Waits for the end. Take a lease on the image then: without one it may be removed.
    pub async fn finish(self) -> Result<Arc<Image>, Arc<ImageError>> {
        self.flight.outcome().await
    }
}

/// Work that several wait for.
#[derive(Debug)]
pub(super) struct Flight {
    progress: watch::Receiver<PullProgress>,
    outcome: watch::Receiver<Option<Outcome>>,
    _stop_when_dropped: DropGuard,
}

impl Flight {
    pub(super) async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(Arc::new(ImageError::Cancelled))),
            Err(lost) => Err(Arc::new(ImageError::lost_thread(lost))),
        }
    }

    /// Waits for the end and shows the progress until then.
    pub(super) async fn outcome_with_progress(&self, meter: &Meter) -> Outcome {
        let mut progress = self.progress.clone();
        let mut outcome = std::pin::pin!(self.outcome());
        loop {
            let now = *progress.borrow_and_update();
            meter.replace(now);
            tokio::select! {
                outcome = &mut outcome => return outcome,
                Ok(()) = progress.changed() => {}
            }
        }
    }
}

/// What the work itself holds of its flight.
pub(super) struct Controls {
    pub(super) meter: Meter,
    /// Cancelled when nobody waits any more. The work is never dropped half-way: it sees this and cleans up.
    pub(super) stop: CancellationToken,
}

/// Shows progress.
#[derive(Clone)]
pub(super) struct Meter {
    progress: watch::Sender<PullProgress>,
    /// Downloaded before the blob that is measured now.
    base: u64,
}

impl Meter {
    pub(super) fn start(&self, total: u64) {
        self.replace(PullProgress {
            phase: PullPhase::Downloading,
            downloaded: ByteSize::default(),
            total: Some(ByteSize::bytes(total)),
        });
    }

    pub(super) fn after(&self, base: u64) -> Self {
        Self { progress: self.progress.clone(), base }
    }

    /// Of the current blob, so many bytes are here.
    pub(super) fn show(&self, bytes: u64) {
        self.progress.send_modify(|progress| progress.downloaded = ByteSize::bytes(self.base + bytes));
    }

    pub(super) fn phase(&self, phase: PullPhase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    fn replace(&self, progress: PullProgress) {
        self.progress.send_replace(progress);
    }
}

/// The work under way, by what it is about: one flight for each.
pub(super) struct Flights<K>(Mutex<HashMap<K, Weak<Flight>>>);

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Flights<K> {
    /// Joins the flight for `key`, or starts one.
    pub(super) fn join<F>(&self, key: K, start: impl FnOnce(Controls) -> F) -> Arc<Flight>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        // One that has ended is news of the past: its image may be gone, its failure may be over.
        let under_way = flights.get(&key).and_then(Weak::upgrade).filter(|flight| flight.outcome.borrow().is_none());
        if let Some(flight) = under_way {
            return flight;
        }
        let (progress_sender, progress) = watch::channel(PullProgress::default());
        let (outcome_sender, outcome) = watch::channel(None);
        let stop = CancellationToken::new();
        let meter = Meter { progress: progress_sender, base: 0 };
        let work = start(Controls { meter: meter.clone(), stop: stop.clone() });
        tokio::spawn(async move {
            let outcome = work.await;
            meter.phase(PullPhase::Done);
            outcome_sender.send_replace(Some(outcome));
        });
        let flight = Arc::new(Flight { progress, outcome, _stop_when_dropped: stop.drop_guard() });
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }

    /// Whether there is work under way for `key`.
    pub(super) fn has(&self, key: &K) -> bool {
        let flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(key).is_some_and(|flight| flight.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Work that ends when it is told to stop, and counts how often it was begun.
    async fn until_stopped(started: Arc<AtomicUsize>, controls: Controls) -> Outcome {
        started.fetch_add(1, Ordering::SeqCst);
        controls.stop.cancelled().await;
        Err(Arc::new(ImageError::Cancelled))
    }

    #[tokio::test]
    async fn those_who_want_the_same_wait_for_one_piece_of_work() {
        let flights = Flights::default();
        let started = Arc::new(AtomicUsize::new(0));
        let join = |key| flights.join(key, |controls| until_stopped(Arc::clone(&started), controls));
        let (first, second, other) = (join("a"), join("a"), join("b"));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &other));
        assert!(flights.has(&"a"));
    }

    #[tokio::test]
    async fn work_stops_when_the_last_who_waits_leaves_and_not_before() {
        let flights = Flights::default();
        let (told, mut stopped) = tokio::sync::mpsc::unbounded_channel();
        let join = || {
            let told = told.clone();
            flights.join("a", |controls| async move {
                controls.stop.cancelled().await;
                let _ = told.send(());
                Err(Arc::new(ImageError::Cancelled))
            })
        };
        let (first, second) = (Pull::new(join()), Pull::new(join()));
        drop(first);
        tokio::task::yield_now().await;
        assert!(stopped.try_recv().is_err(), "one still waits");
        drop(second);
        assert_eq!(stopped.recv().await, Some(()));
        assert!(!flights.has(&"a"));
    }

    #[tokio::test]
    async fn what_has_ended_is_begun_anew() {
        let flights = Flights::default();
        let started = Arc::new(AtomicUsize::new(0));
        let fail = |_| {
            started.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Err(Arc::new(ImageError::Cancelled)))
        };
        let first = flights.join("a", fail);
        assert!(first.outcome().await.is_err());
        let second = flights.join("a", fail);
        assert!(second.outcome().await.is_err());
        assert_eq!(started.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn work_that_panics_gives_an_error_to_those_who_wait() {
        let flights = Flights::default();
        let flight = flights.join("a", |_| async { panic!("on purpose") });
        let outcome = Pull::new(flight).finish().await;
        assert!(matches!(&*outcome.unwrap_err(), ImageError::Unavailable { .. }));
    }
}
