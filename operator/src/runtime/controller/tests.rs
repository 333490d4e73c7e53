use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::mpsc;

use super::*;
use crate::runtime::Backoff;

const LIMIT: Duration = Duration::from_secs(30);

/// Fails in every way before it succeeds.
struct Clumsy {
    attempts: AtomicU32,
    told: Mutex<Option<mpsc::UnboundedSender<u32>>>,
}

impl Controller for Clumsy {
    type Key = &'static str;
    const NAME: &'static str = "clumsy";

    async fn reconcile(&self, _: &&'static str) -> Result<Next, ReconcileError> {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst);
        self.told.lock().unwrap().as_ref().unwrap().send(attempt).unwrap();
        match attempt {
            0 => Err(ReconcileError::Conflict),
            1 => Err(ReconcileError::Retry("it rains".to_owned())),
            2 => panic!("on purpose"),
            3 => Ok(Next::After(Duration::from_millis(1))),
            _ => Ok(Next::Done),
        }
    }
}

#[tokio::test]
async fn a_key_is_tried_until_it_is_done_even_after_a_panic() {
    let queue = Queue::new(Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(1) });
    let (told, mut attempts) = mpsc::unbounded_channel();
    let controller = Arc::new(Clumsy { attempts: AtomicU32::new(0), told: Mutex::new(Some(told)) });
    let tasks = Tasks::new();
    let (running, stop) = (queue.clone(), tasks.stop());
    tasks.spawn("clumsy", run(controller, running, 1, stop));
    queue.push("key");
    for expected in 0..=4 {
        let attempt = tokio::time::timeout(LIMIT, attempts.recv()).await.expect("it was not tried again");
        assert_eq!(attempt, Some(expected));
    }
    tasks.shut_down(LIMIT).await.unwrap();
    assert!(attempts.try_recv().is_err(), "tried after it was done");
    assert!(!tasks.has_panicked());
}
