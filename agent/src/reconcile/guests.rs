//! Keeps one task for each guest of the ledger.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};

use super::{board::Board, facts::FactsFile, guest::GuestTask, host::HostExecutor, rooms::Rooms};
use crate::{
    certs::CertificateKeeper,
    ledger::{GuestRecord, GuestRecords},
    qemu::GuestPaths,
    spec::GuestUid,
};

/// A task that fell over is started anew after this long: its guest goes on meanwhile.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// All guests of the host. A handle: clones share them.
#[derive(Debug, Clone)]
pub struct Guests {
    executors: Arc<Mutex<HashMap<GuestUid, HostExecutor>>>,
}

impl Guests {
    /// Starts a task for each guest of the ledger, now and as they come. Images of known guests are leased when this
    /// returns, so that garbage may be collected; whether their QEMUs are there is found out by each task for itself.
    pub fn start(rooms: Arc<Rooms>) -> Self {
        let guests = Self { executors: Arc::default() };
        let mut supervisor = Supervisor {
            records: rooms.ledger.guests(),
            rooms,
            executors: Arc::clone(&guests.executors),
            desired: HashMap::new(),
            tasks: JoinSet::new(),
        };
        supervisor.follow();
        tokio::spawn(supervisor.run());
        guests
    }

    /// A guest's certificates, while they are kept.
    pub fn certificates(&self, uid: GuestUid) -> Option<Arc<CertificateKeeper>> {
        self.executor(uid)?.certificates()
    }

    /// Where a guest's sockets and logs are.
    pub fn paths(&self, uid: GuestUid) -> Option<GuestPaths> {
        self.executor(uid).map(|executor| executor.paths().clone())
    }

    fn executor(&self, uid: GuestUid) -> Option<HostExecutor> {
        self.executors.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned()
    }
}

struct Supervisor {
    rooms: Arc<Rooms>,
    records: watch::Receiver<GuestRecords>,
    executors: Arc<Mutex<HashMap<GuestUid, HostExecutor>>>,
    desired: HashMap<GuestUid, watch::Sender<Arc<GuestRecord>>>,
    tasks: JoinSet<GuestUid>,
}

impl Supervisor {
    async fn run(mut self) {
        loop {
            tokio::select! {
                changed = self.records.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended.map(|(_, uid)| uid)),
            }
            self.follow();
        }
    }

    /// A task ends when nothing is left of its guest; the same uid may have come again meanwhile.
    fn ended(&mut self, ended: Result<GuestUid, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.desired.remove(&uid);
                self.executors.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            }
            Err(error) => tracing::error!(%error, "a guest's task was cut off"),
        }
    }

    fn follow(&mut self) {
        let records = self.records.borrow_and_update().clone();
        for (uid, record) in records.iter() {
            match self.desired.get(uid) {
                Some(desired) => {
                    desired.send_if_modified(|known| {
                        let changed = !Arc::ptr_eq(known, record);
                        *known = Arc::clone(record);
                        changed
                    });
                }
                None => self.begin(*uid, record),
            }
        }
    }

    fn begin(&mut self, uid: GuestUid, record: &Arc<GuestRecord>) {
        let (sender, receiver) = watch::channel(Arc::clone(record));
        self.desired.insert(uid, sender);
        let executor = HostExecutor::new(uid, Arc::clone(&self.rooms));
        let facts_file = FactsFile::in_directory(executor.paths().state());
        executor.lease_known_image(&facts_file.read());
        self.executors.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, executor.clone());
        let board = Arc::new(Board::new(uid, self.rooms.observed.clone()));
        // Before the API is served: a watch from the present state must not leave out a guest that is still looked for.
        board.update(|_| ());
        let ledger = self.rooms.ledger.clone();
        self.tasks.spawn(async move {
            // A panic in a step is a defect, of which this guest's task alone shall suffer: it looks around anew.
            loop {
                let (executor, ledger, board) = (executor.clone(), ledger.clone(), Arc::clone(&board));
                let (receiver, facts_file) = (receiver.clone(), facts_file.clone());
                let life = tokio::spawn(async move {
                    let mut task = GuestTask::new(executor, ledger, receiver, board, facts_file);
                    task.discover().await;
                    task.run().await;
                });
                match life.await {
                    Ok(()) => return uid,
                    Err(error) => {
                        tracing::error!(guest = %uid, %error, "a guest's task fell over; it is started anew");
                        tokio::time::sleep(AFTER_PANIC).await;
                    }
                }
            }
        });
    }
}
