//! The thread that writes.

use std::sync::{Arc, atomic::Ordering};

use jiff::Timestamp;
use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::{Counters, transaction::Transaction};
use crate::{
    objects::Kind,
    store::{
        AnyObject, Preconditions, StoreError,
        history::{self, Bounds, History},
        semantics::Change,
    },
};

/// How many operations share a commit at most: the first of them waits for all.
const LARGEST_BATCH: usize = 512;

/// What is asked of the writer.
pub(super) enum Operation {
    Create(AnyObject),
    Replace(AnyObject),
    ReplaceStatus(AnyObject),
    Delete { kind: Kind, name: String, preconditions: Preconditions },
}

/// What was done, and the object as it was before.
pub(super) type Answer = Result<(Change, Option<AnyObject>), StoreError>;

pub(super) struct Command {
    pub(super) operation: Operation,
    pub(super) reply: oneshot::Sender<Answer>,
}

pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    pub(super) history: Arc<History>,
    pub(super) bounds: Bounds,
    pub(super) counters: Arc<Counters>,
}

impl Writer {
    /// Until nobody can ask any more, or the file fails. What a failed commit left in the file is known only to who opens
    /// it again, so after one nothing more is written.
    pub(super) fn run(self, mut commands: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while commands.blocking_recv_many(&mut batch, LARGEST_BATCH) > 0 {
            let mut replies = Vec::with_capacity(batch.len());
            let mut operations = Vec::with_capacity(batch.len());
            for Command { operation, reply } in batch.drain(..) {
                replies.push(reply);
                operations.push(operation);
            }
            match self.commit(operations) {
                Ok((answers, changes, version)) => {
                    if !changes.is_empty() {
                        self.history.append(&changes, version, self.bounds);
                    }
                    for (reply, answer) in replies.into_iter().zip(answers) {
                        // Who asked may have gone; it is written all the same.
                        let _ = reply.send(answer);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the store's file failed: nothing more is written");
                    let error = StoreError::from(error);
                    self.history.close();
                    commands.close();
                    for reply in replies {
                        let _ = reply.send(Err(error.clone()));
                    }
                    while let Some(Command { reply, .. }) = commands.blocking_recv() {
                        let _ = reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn commit(&self, operations: Vec<Operation>) -> Result<(Vec<Answer>, Vec<history::Change>, u64), Arc<redb::Error>> {
        let transaction = self.database.begin_write().map_err(|error| Arc::new(error.into()))?;
        let mut making = Transaction::begin(&transaction, Timestamp::now())?;
        let mut answers = Vec::with_capacity(operations.len());
        for operation in operations {
            match making.apply(operation) {
                Err(StoreError::Unavailable(crate::store::Unavailable::Storage(error))) => return Err(error),
                answer => answers.push(answer),
            }
        }
        let (changes, version) = making.finish()?;
        if changes.is_empty() {
            transaction.abort().map_err(|error| Arc::new(error.into()))?;
            return Ok((answers, changes, version));
        }
        let count = u64::try_from(changes.len()).unwrap_or(u64::MAX);
        transaction.commit().map_err(|error| Arc::new(error.into()))?;
        self.counters.changes.fetch_add(count, Ordering::Relaxed);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok((answers, changes, version))
    }
}
