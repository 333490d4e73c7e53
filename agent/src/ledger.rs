//! Desired state on disk: what the agent was told to run, and nothing that it observed.
//!
//! A record is a file, written whole before the caller hears of it and before a reconciler does. Reconcilers follow two
//! watch channels: the maps in them are snapshots, cheap to clone and never changed in place.

mod records;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

pub use records::{GuestRecord, HostRecord, NetworkRecord};

use crate::{
    files,
    spec::{ClusterName, GuestUid},
};

/// All guests that the host was told to run.
pub type GuestRecords = Arc<BTreeMap<GuestUid, Arc<GuestRecord>>>;
/// All networks that the host was told to have.
pub type NetworkRecords = Arc<BTreeMap<ClusterName, Arc<NetworkRecord>>>;

/// Desired state, durable. A handle: clones share one ledger.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    /// Held by whoever decides and writes: never across an await.
    writing: Mutex<()>,
    guests: watch::Sender<GuestRecords>,
    networks: watch::Sender<NetworkRecords>,
    host: watch::Sender<HostRecord>,
    unreadable: Vec<Unreadable>,
}

/// A record that was found and could not be understood. It is left as it is, and so is what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What a decision sees: one moment of the ledger.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Guests by uid.
    pub guests: GuestRecords,
    /// Networks by cluster.
    pub networks: NetworkRecords,
    /// The host itself.
    pub host: HostRecord,
}

/// One change, to be written.
#[derive(Debug, Clone)]
pub enum Change {
    /// Insert or replace.
    PutGuest(Arc<GuestRecord>),
    /// As if it had never been.
    ForgetGuest(GuestUid),
    /// Insert or replace.
    PutNetwork(Arc<NetworkRecord>),
    /// As if it had never been.
    ForgetNetwork(ClusterName),
    /// Replace.
    PutHost(HostRecord),
}

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: is the disk full or read-only?", path.display())]
pub struct LedgerError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Why an update did not happen.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The caller's own decision; nothing was written.
    #[error(transparent)]
    Refused(E),
    /// The record is there but unreadable: overwriting it could lose a guest.
    #[error("{} is unreadable ({reason}): mend or remove it, then start the agent again", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The agent is ending.
    #[error("the agent is shutting down")]
    ShuttingDown,
}

impl Ledger {
    /// Reads what is there. A record that cannot be understood does not keep the others from being kept: it is reported
    /// by [`Self::unreadable`], and its guest or network is left alone.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let mut unreadable = Vec::new();
        let mut guests = BTreeMap::new();
        for record in read_all::<GuestRecord>(&directory.join("guests"), &mut unreadable)? {
            guests.insert(record.spec.uid, Arc::new(record));
        }
        let mut networks = BTreeMap::new();
        for record in read_all::<NetworkRecord>(&directory.join("networks"), &mut unreadable)? {
            networks.insert(record.spec.cluster.clone(), Arc::new(record));
        }
        let host = match read_one(&directory.join("host.json")) {
            Ok(host) => host.unwrap_or_default(),
            Err(problem) => {
                unreadable.push(problem);
                HostRecord::default()
            }
        };
        for Unreadable { path, reason } in &unreadable {
            tracing::error!(path = %path.display(), %reason, "a record of the ledger is unreadable; what it is about is left alone");
        }
        Ok(Self {
            shared: Arc::new(Shared {
                directory: directory.to_owned(),
                writing: Mutex::new(()),
                guests: watch::Sender::new(Arc::new(guests)),
                networks: watch::Sender::new(Arc::new(networks)),
                host: watch::Sender::new(host),
                unreadable,
            }),
        })
    }

    /// The guests, now and as they change.
    pub fn guests(&self) -> watch::Receiver<GuestRecords> {
        self.shared.guests.subscribe()
    }

    /// The networks, now and as they change.
    pub fn networks(&self) -> watch::Receiver<NetworkRecords> {
        self.shared.networks.subscribe()
    }

    /// The host, now and as it changes.
    pub fn host(&self) -> watch::Receiver<HostRecord> {
        self.shared.host.subscribe()
    }

    /// One moment of it all.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// The records that were found unreadable when the agent started.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.shared.unreadable
    }

    /// Decides and writes in one step: no other update comes between what `decide` sees and what is written. The changes
    /// are on disk when this returns, and followers see them only then.
    ///
    /// Dropping the future does not undo the update: it is finished or was never begun.
    pub async fn update<T, E>(
        &self,
        decide: impl FnOnce(&Snapshot) -> Result<(Vec<Change>, T), E> + Send + 'static,
    ) -> Result<T, UpdateError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        // fsync blocks.
        let written = tokio::task::spawn_blocking(move || shared.update(decide)).await;
        written.unwrap_or(Err(UpdateError::ShuttingDown))
    }

    /// After a deletion is complete: the guest is gone from this host.
    pub async fn forget_guest(&self, uid: GuestUid) -> Result<(), LedgerError> {
        self.forget(Change::ForgetGuest(uid)).await
    }

    /// After a deletion is complete: the network is gone from this host.
    pub async fn forget_network(&self, cluster: &ClusterName) -> Result<(), LedgerError> {
        self.forget(Change::ForgetNetwork(cluster.clone())).await
    }

    async fn forget(&self, change: Change) -> Result<(), LedgerError> {
        match self.update(move |_| Ok::<_, std::convert::Infallible>((vec![change], ()))).await {
            Err(UpdateError::Ledger(error)) => Err(error),
            // The rest cannot be, or does not matter any more: the next start finds the deletion and repeats it.
            _ => Ok(()),
        }
    }
}

impl Shared {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            guests: self.guests.borrow().clone(),
            networks: self.networks.borrow().clone(),
            host: *self.host.borrow(),
        }
    }

    fn update<T, E>(&self, decide: impl FnOnce(&Snapshot) -> Result<(Vec<Change>, T), E>) -> Result<T, UpdateError<E>> {
        // A panic of an earlier decision left nothing half-done in memory: maps are replaced whole.
        let _writing = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (changes, answer) = decide(&self.snapshot()).map_err(UpdateError::Refused)?;
        for change in &changes {
            let path = self.path_of(change);
            if let Some(Unreadable { path, reason }) = self.unreadable.iter().find(|problem| problem.path == path) {
                return Err(UpdateError::Unreadable { path: path.clone(), reason: reason.clone() });
            }
        }
        for change in changes {
            self.write(change)?;
        }
        Ok(answer)
    }

    fn path_of(&self, change: &Change) -> PathBuf {
        let guest = |uid: &GuestUid| self.directory.join("guests").join(format!("{uid}.json"));
        let network = |cluster: &ClusterName| self.directory.join("networks").join(format!("{cluster}.json"));
        match change {
            Change::PutGuest(record) => guest(&record.spec.uid),
            Change::ForgetGuest(uid) => guest(uid),
            Change::PutNetwork(record) => network(&record.spec.cluster),
            Change::ForgetNetwork(cluster) => network(cluster),
            Change::PutHost(_) => self.directory.join("host.json"),
        }
    }

    fn write(&self, change: Change) -> Result<(), LedgerError> {
        let path = self.path_of(&change);
        match change {
            Change::PutGuest(record) => {
                put(&path, record.as_ref())?;
                self.guests.send_modify(|guests| {
                    Arc::make_mut(guests).insert(record.spec.uid, record);
                });
            }
            Change::ForgetGuest(uid) => {
                remove(&path)?;
                self.guests.send_modify(|guests| {
                    Arc::make_mut(guests).remove(&uid);
                });
            }
            Change::PutNetwork(record) => {
                put(&path, record.as_ref())?;
                self.networks.send_modify(|networks| {
                    Arc::make_mut(networks).insert(record.spec.cluster.clone(), record);
                });
            }
            Change::ForgetNetwork(cluster) => {
                remove(&path)?;
                self.networks.send_modify(|networks| {
                    Arc::make_mut(networks).remove(&cluster);
                });
            }
            Change::PutHost(record) => {
                put(&path, &record)?;
                self.host.send_replace(record);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ledger").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

fn put<T: serde::Serialize>(path: &Path, record: &T) -> Result<(), LedgerError> {
    let failed = |source| LedgerError { action: "write", path: path.to_owned(), source };
    let content = serde_json::to_vec_pretty(record).map_err(|reason| failed(reason.into()))?;
    // Seeds are in it, and seeds hold secrets of the guests'.
    files::write_whole(path, &content, 0o600).map_err(failed)
}

fn remove(path: &Path) -> Result<(), LedgerError> {
    files::remove(path).map_err(|source| LedgerError { action: "remove", path: path.to_owned(), source })
}

fn read_all<T: serde::de::DeserializeOwned>(
    directory: &Path,
    unreadable: &mut Vec<Unreadable>,
) -> Result<Vec<T>, LedgerError> {
    let failed = |action| move |source| LedgerError { action, path: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(failed("create"))?;
    let mut records = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read"))? {
        let path = entry.map_err(failed("read"))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(files::is_temporary) {
            // A crash came before the rename: nobody was told that it was written.
            remove(&path)?;
            continue;
        }
        match read_one(&path) {
            Ok(record) => records.extend(record),
            Err(problem) => unreadable.push(problem),
        }
    }
    Ok(records)
}

fn read_one<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Unreadable> {
    let problem = |reason: String| Unreadable { path: path.to_owned(), reason };
    match fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map(Some).map_err(|reason| problem(reason.to_string())),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(problem(reason.to_string())),
    }
}

#[cfg(test)]
mod tests;
