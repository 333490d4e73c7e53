//! Tasks that belong together: they are asked to stop together, and waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

/// A group of tasks. Clones are the same group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    running: TaskTracker,
    panicked: Arc<AtomicBool>,
}

/// Tasks that did not end in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{running} tasks were still running {} seconds after they were asked to stop", limit.as_secs())]
pub struct StillRunning {
    /// How many.
    pub running: usize,
    /// How long was waited.
    pub limit: Duration,
}

impl Tasks {
    /// None runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the group is asked to stop.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task, which has to end when [`Tasks::stop`] is cancelled. Without one of its parts the program would
    /// look alive and do nothing: a task that panics stops all of them.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(task);
        let Self { stop, panicked, .. } = self.clone();
        self.running.spawn(async move {
            if let Err(ended) = task.await
                && ended.is_panic()
            {
                error!(task = name, "a task panicked, so all are stopped: {ended}");
                panicked.store(true, Ordering::Relaxed);
                stop.cancel();
            }
        });
    }

    /// Whether a task panicked: a program that stopped for this has failed.
    pub fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Asks all to stop, and waits for them.
    pub async fn shut_down(&self, limit: Duration) -> Result<(), StillRunning> {
        self.stop.cancel();
        self.running.close();
        tokio::time::timeout(limit, self.running.wait())
            .await
            .map_err(|_| StillRunning { running: self.running.len(), limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn tasks_are_asked_to_stop_and_waited_for() {
        let tasks = Tasks::new();
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, flag) = (tasks.stop(), Arc::clone(&ended));
        tasks.spawn("waits", async move {
            stop.cancelled().await;
            flag.store(true, Ordering::SeqCst);
        });
        tasks.shut_down(LIMIT).await.unwrap();
        assert!(ended.load(Ordering::SeqCst) && !tasks.has_panicked());
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_others() {
        let tasks = Tasks::new();
        let stop = tasks.stop();
        tasks.spawn("waits", async move { stop.cancelled().await });
        tasks.spawn("panics", async { panic!("on purpose") });
        tokio::time::timeout(LIMIT, tasks.stop().cancelled()).await.unwrap();
        tasks.shut_down(LIMIT).await.unwrap();
        assert!(tasks.has_panicked());
    }

    #[tokio::test]
    async fn tasks_that_do_not_end_are_counted() {
        let tasks = Tasks::new();
        tasks.spawn("stays", std::future::pending());
        let refused = tasks.shut_down(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(refused.running, 1);
    }
}
