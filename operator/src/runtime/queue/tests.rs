use std::collections::BTreeSet;

use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);
/// Everything is due at once.
const NOW: Backoff = Backoff { first: Duration::ZERO, longest: Duration::ZERO };

fn take<K: Key>(queue: &Queue<K>) -> Option<Claim<K>> {
    queue.next().now_or_never()
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8),
    PushAfter(u8),
    Claim,
    /// One of the claims, as far as there are any.
    Done(usize),
    Failed(usize),
    Dropped(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..5).prop_map(Step::Push),
        1 => (0_u8..5).prop_map(Step::PushAfter),
        4 => Just(Step::Claim),
        2 => (0_usize..5).prop_map(Step::Done),
        1 => (0_usize..5).prop_map(Step::Failed),
        1 => (0_usize..5).prop_map(Step::Dropped),
    ]
}

proptest! {
    #[test]
    fn a_key_is_claimed_once_at_a_time_and_no_push_is_lost(steps in prop::collection::vec(step(), 0..80)) {
        let queue = Queue::new(NOW);
        let mut claims: Vec<Claim<u8>> = Vec::new();
        // Pushed, or failed, and not claimed since.
        let mut owed = BTreeSet::new();
        for step in steps {
            match step {
                Step::Push(key) => {
                    queue.push(key);
                    owed.insert(key);
                }
                Step::PushAfter(key) => {
                    queue.push_after(key, Duration::ZERO);
                    owed.insert(key);
                }
                Step::Claim => match take(&queue) {
                    Some(claim) => {
                        prop_assert!(claims.iter().all(|other| other.key() != claim.key()), "claimed twice");
                        prop_assert!(owed.remove(claim.key()), "nobody asked for {}", claim.key());
                        claims.push(claim);
                    }
                    None => prop_assert!(owed.iter().all(|key| claims.iter().any(|claim| claim.key() == key))),
                },
                Step::Done(index) | Step::Failed(index) | Step::Dropped(index) if index >= claims.len() => {}
                Step::Done(index) => claims.swap_remove(index).done(),
                Step::Failed(index) => {
                    owed.insert(*claims[index].key());
                    claims.swap_remove(index).failed();
                }
                Step::Dropped(index) => {
                    owed.insert(*claims[index].key());
                    drop(claims.swap_remove(index));
                }
            }
        }
        for claim in claims {
            claim.done();
        }
        while let Some(claim) = take(&queue) {
            prop_assert!(owed.remove(claim.key()));
            claim.done();
        }
        prop_assert!(owed.is_empty(), "lost: {owed:?}");
        let state = queue.lock();
        prop_assert!(state.ready.is_empty() && state.waiting.is_empty() && state.claimed.is_empty());
        prop_assert!(state.later.is_empty() && state.due.is_empty() && state.failures.is_empty());
    }

    #[test]
    fn a_delay_grows_to_its_longest_and_chance_takes_a_third_at_most(failures in 1_u32..2000) {
        let backoff = Backoff::default();
        let full = backoff.full(failures);
        let delay = backoff.delay(failures);
        prop_assert!(delay <= full && delay >= full.mul_f64(0.66));
        prop_assert!(full <= backoff.longest && (full == backoff.longest || full == backoff.full(failures + 1) / 2
            || backoff.full(failures + 1) == backoff.longest));
    }
}

#[test]
fn what_is_pushed_goes_before_what_waits_and_is_not_looked_at_again_for_it() {
    let queue = Queue::default();
    queue.push_after("a", Duration::from_hours(1));
    queue.push("a");
    take(&queue).unwrap().done();
    assert!(queue.lock().later.is_empty());
}

#[test]
fn the_sooner_of_two_delays_counts() {
    let queue = Queue::default();
    queue.push_after("a", Duration::from_hours(1));
    queue.push_after("a", Duration::ZERO);
    queue.push_after("a", Duration::from_hours(1));
    take(&queue).unwrap().done();
    assert!(queue.lock().later.is_empty());
}

#[test]
fn failures_in_a_row_wait_longer_until_one_is_done() {
    let queue = Queue::new(Backoff { first: Duration::from_hours(1), longest: Duration::from_hours(10) });
    let mut delays = Vec::new();
    for _ in 0..3 {
        queue.push("a");
        delays.push(take(&queue).unwrap().failed());
    }
    assert!(delays[0] < delays[1] && delays[1] < delays[2], "{delays:?}");
    queue.push("a");
    take(&queue).unwrap().done();
    queue.push("a");
    assert!(take(&queue).unwrap().failed() <= Duration::from_hours(1));
}

#[tokio::test]
async fn who_sleeps_is_woken_by_what_is_due_sooner() {
    let queue = Queue::default();
    queue.push_after("late", Duration::from_hours(1));
    let sleeper = tokio::spawn({
        let queue = queue.clone();
        async move { *queue.next().await.key() }
    });
    tokio::task::yield_now().await;
    queue.push_after("soon", Duration::from_millis(5));
    assert_eq!(tokio::time::timeout(LIMIT, sleeper).await.unwrap().unwrap(), "soon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_share_it_without_losing_a_wake_up() {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    const KEYS: usize = 20;
    let queue: Queue<usize> = Queue::new(NOW);
    let busy: Arc<[AtomicBool]> = (0..KEYS).map(|_| AtomicBool::new(false)).collect();
    // What a push asks to be seen, and what was seen.
    let asked: Arc<[AtomicU32]> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let seen: Arc<[AtomicU32]> = (0..KEYS).map(|_| AtomicU32::new(0)).collect();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (queue, busy, asked, seen) = (queue.clone(), Arc::clone(&busy), Arc::clone(&asked), Arc::clone(&seen));
            tokio::spawn(async move {
                loop {
                    let claim = queue.next().await;
                    let key = *claim.key();
                    assert!(!busy[key].swap(true, Ordering::SeqCst), "two workers have {key}");
                    let now = asked[key].load(Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    seen[key].store(now, Ordering::SeqCst);
                    busy[key].store(false, Ordering::SeqCst);
                    claim.done();
                }
            })
        })
        .collect();
    for number in 0..5000 {
        let key = number % KEYS;
        asked[key].fetch_add(1, Ordering::SeqCst);
        queue.push(key);
        if number % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::timeout(LIMIT, async {
        while (0..KEYS).any(|key| seen[key].load(Ordering::SeqCst) < 5000 / 20) {
            assert!(workers.iter().all(|worker| !worker.is_finished()), "a worker panicked");
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a push was lost");
    for worker in workers {
        worker.abort();
    }
}
