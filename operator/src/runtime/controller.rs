//! Workers that take keys from a queue and make true what they stand for.

use std::{fmt, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, trace, warn};

use super::{Cache, Change, Indexed, Key, Queue, Tasks};
use crate::store::StoreError;

#[cfg(test)]
mod tests;

/// One job: makes true what the object of a key says.
pub trait Controller: Send + Sync + 'static {
    /// What is reconciled: most often an object's name.
    type Key: Key;

    /// For logs.
    const NAME: &'static str;

    /// Looks at everything that the key stands for and does what is missing. Safe to repeat, and to interrupt anywhere.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, ReconcileError>> + Send;
}

/// When a key is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    Done,
    /// After this time too.
    After(Duration),
}

/// Why a key is tried again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReconcileError {
    /// What was read is not what is there any more; the cache will know in a moment.
    #[error("what was read has changed meanwhile")]
    Conflict,
    /// Something outside failed.
    #[error("{0}")]
    Retry(String),
    /// The store refused, or failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ReconcileError {
    fn from(error: StoreError) -> Self {
        if error.is_conflict() || error.is_already_exists() || error.is_not_found() {
            Self::Conflict
        } else {
            Self::Store(error)
        }
    }
}

/// Reconciles keys with so many workers until it is stopped. What a worker has begun it ends.
pub async fn run<C: Controller>(controller: Arc<C>, queue: Queue<C::Key>, workers: usize, stop: CancellationToken) {
    let mut running = JoinSet::new();
    for _ in 0..workers.max(1) {
        running.spawn(work(Arc::clone(&controller), queue.clone(), stop.clone()));
    }
    while let Some(ended) = running.join_next().await {
        if let Err(ended) = ended
            && ended.is_panic()
        {
            // Its claim came back to the queue as a failure.
            error!(controller = C::NAME, "a worker panicked, another takes its place: {ended}");
            running.spawn(work(Arc::clone(&controller), queue.clone(), stop.clone()));
        }
    }
}

async fn work<C: Controller>(controller: Arc<C>, queue: Queue<C::Key>, stop: CancellationToken) {
    while let Some(claim) = stop.run_until_cancelled(queue.next()).await {
        // A claim and a stop may come together.
        if stop.is_cancelled() {
            return;
        }
        let key = claim.key().clone();
        match controller.reconcile(&key).await {
            Ok(Next::Done) => claim.done(),
            Ok(Next::After(delay)) => claim.done_until(delay),
            Err(ReconcileError::Conflict) => {
                let delay = claim.failed();
                trace!(controller = C::NAME, ?key, ?delay, "read too early");
            }
            Err(problem) => {
                let delay = claim.failed();
                warn!(controller = C::NAME, ?key, ?delay, error = %Chain(&problem), "will be tried again");
            }
        }
    }
}

/// Pushes the keys of every change, and of what is there already, until the tasks are stopped.
pub fn enqueue<T: Indexed, K: Key>(
    tasks: &Tasks,
    cache: &Cache<T>,
    queue: &Queue<K>,
    keys: impl Fn(&Change<T>) -> Vec<K> + Send + 'static,
) {
    let (mut changes, queue, stop) = (cache.changes(), queue.clone(), tasks.stop());
    tasks.spawn("enqueue", async move {
        while let Some(change) = stop.run_until_cancelled(changes.next()).await {
            for key in keys(&change) {
                queue.push(key);
            }
        }
    });
}

/// An error with all its sources.
pub(crate) struct Chain<'e>(pub(crate) &'e dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
