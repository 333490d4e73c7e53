//! A queue of keys to look at: each is in it once, and at most one worker has it at a time.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

#[cfg(test)]
mod tests;

/// What a queue holds.
pub trait Key: Ord + Hash + Clone + fmt::Debug + Send + Sync + 'static {}

impl<K: Ord + Hash + Clone + fmt::Debug + Send + Sync + 'static> Key for K {}

/// How long is waited after failures: twice as long after each, less up to a third by chance so that those that failed
/// together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first.
    pub first: Duration,
    /// Never more.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(5), longest: Duration::from_mins(2) }
    }
}

impl Backoff {
    /// How long to wait after so many failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        self.full(failures).mul_f64(1.0 - fastrand::f64() / 3.0)
    }

    fn full(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// Keys to look at. Clones are the same queue. It holds each key once at most, so it is as large as the number of
/// objects, no more.
#[derive(Debug)]
pub struct Queue<K: Key>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K: Key> {
    state: Mutex<State<K>>,
    wake: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<K: Key> {
    /// To be claimed, in order; `waiting` has the same.
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    /// With a worker, and whether they were pushed again since.
    claimed: HashMap<K, bool>,
    /// To be pushed at a time; `due` has the same.
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    /// Tells apart what is due at the same instant.
    next: u64,
    /// Failures in a row.
    failures: HashMap<K, u32>,
}

/// A key that a worker has. Dropping it, as a panic does, counts as a failure: the key comes back.
#[derive(Debug)]
pub struct Claim<K: Key> {
    queue: Queue<K>,
    key: K,
    settled: bool,
}

impl<K: Key> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Key> Default for Queue<K> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<K: Key> Queue<K> {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            claimed: HashMap::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            next: 0,
            failures: HashMap::new(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new(), backoff }))
    }

    /// Looks at the key as soon as a worker is free, whatever it waited for; once more where a worker has it.
    pub fn push(&self, key: K) {
        self.lock().push(key);
        self.0.wake.notify_one();
    }

    /// Looks at the key after some time; sooner where that was asked for before.
    pub fn push_after(&self, key: K, delay: Duration) {
        self.lock().push_at(key, Instant::now() + delay);
        // Whoever sleeps may sleep too long now.
        self.0.wake.notify_one();
    }

    /// Waits for a key that no worker has. Safe to cancel: nothing is lost.
    pub async fn next(&self) -> Claim<K> {
        loop {
            let next_due = {
                let mut state = self.lock();
                state.push_due(Instant::now());
                if let Some(key) = state.claim() {
                    let more = !state.ready.is_empty();
                    drop(state);
                    if more {
                        // One wake-up may have stood for many keys.
                        self.0.wake.notify_one();
                    }
                    return Claim { queue: self.clone(), key, settled: false };
                }
                state.later.first_key_value().map(|((due, _), _)| *due)
            };
            match next_due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, self.0.wake.notified()).await;
                }
                None => self.0.wake.notified().await,
            }
        }
    }

    /// How many keys wait for a worker now.
    pub fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> State<K> {
    fn push(&mut self, key: K) {
        if let Some(place) = self.due.remove(&key) {
            self.later.remove(&place);
        }
        if let Some(again) = self.claimed.get_mut(&key) {
            *again = true;
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn push_at(&mut self, key: K, due: Instant) {
        if self.waiting.contains(&key) || self.claimed.get(&key) == Some(&true) {
            return;
        }
        if let Some(place) = self.due.get(&key) {
            if place.0 <= due {
                return;
            }
            self.later.remove(place);
        }
        let place = (due, self.next);
        self.next += 1;
        self.later.insert(place, key.clone());
        self.due.insert(key, place);
    }

    fn push_due(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.push(key);
        }
    }

    fn claim(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.claimed.insert(key.clone(), false);
        Some(key)
    }
}

impl<K: Key> Claim<K> {
    /// What to look at.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// It is as it should be: failures are forgotten.
    pub fn done(mut self) {
        self.settle(|state, key| {
            state.failures.remove(key);
        });
    }

    /// It is as it should be, and shall be looked at again after some time.
    pub fn done_until(mut self, delay: Duration) {
        self.settle(|state, key| {
            state.failures.remove(key);
            state.push_at(key.clone(), Instant::now() + delay);
        });
    }

    /// It comes back after a while; tells after how long.
    pub fn failed(mut self) -> Duration {
        self.fail()
    }

    fn fail(&mut self) -> Duration {
        let backoff = self.queue.0.backoff;
        let mut delay = Duration::ZERO;
        self.settle(|state, key| {
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            delay = backoff.delay(*failures);
            state.push_at(key.clone(), Instant::now() + delay);
        });
        delay
    }

    fn settle(&mut self, settle: impl FnOnce(&mut State<K>, &K)) {
        self.settled = true;
        let mut state = self.queue.lock();
        let again = state.claimed.remove(&self.key).unwrap_or_default();
        settle(&mut state, &self.key);
        if again {
            state.push(self.key.clone());
        }
        drop(state);
        self.queue.0.wake.notify_one();
    }
}

impl<K: Key> Drop for Claim<K> {
    fn drop(&mut self) {
        if !self.settled {
            self.fail();
        }
    }
}
