//! A store in a single file, for an operator that runs on one machine. One thread writes; whatever waits while it
//! commits goes into the next commit, so that many writers share an fsync. Readers have snapshots of their own and wait
//! for nobody.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use redb::{Database, DatabaseError};
use tokio::sync::{mpsc, oneshot};

use super::{
    AnyObject, Deletion, List, Preconditions, Selector, Store, StoreError, Watch, WatchEvent, WatchFrom, WatchOptions,
    history::{Bounds, History},
    semantics::Change,
    watch::Reader,
};
use crate::objects::Kind;

#[cfg(test)]
mod model;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use snapshot::Snapshot;
use writer::{Command, Operation, Writer};

/// How many writes may wait; more wait for a place.
const MOST_WAITING: usize = 4096;

/// How a file is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Changes of each kind that are kept for watches.
    pub history_changes: usize,
    /// The most bytes that these may take, about, for each kind.
    pub history_bytes: usize,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_changes: 16_384, history_bytes: 64 << 20, cache_bytes: 128 << 20 }
    }
}

/// Why a file was not opened. It was not changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {} is in use: another operator runs on it", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of this program wrote it.
    #[error(
        "the store {} has format {found}, and this version reads up to {known}: start the version that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// What is read here.
        known: u64,
    },
    /// It is something else.
    #[error("{} is not a store of the operator: it has no format", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// It could not be made.
    #[error("the store {} cannot be made", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// It could not be read.
    #[error("the store {} cannot be opened", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: Box<redb::Error>,
    },
}

/// What a store has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Writes that changed something.
    pub changes: u64,
    /// Commits, each one fsync.
    pub commits: u64,
}

#[derive(Debug, Default)]
struct Counters {
    changes: AtomicU64,
    commits: AtomicU64,
}

/// A store in a file. Clones are the same store; the last one that goes closes it.
#[derive(Debug, Clone)]
pub struct EmbeddedStore(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    database: Arc<Database>,
    history: Arc<History>,
    counters: Arc<Counters>,
    /// None once it is being closed.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens a file, or makes it where there is none. It blocks: a file that was not closed is checked first.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let storage = |error: redb::Error| OpenError::Storage { path: path.to_owned(), source: Box::new(error) };
        if !path.exists() {
            make(path)?;
        }
        let database =
            Database::builder().set_cache_size(options.cache_bytes).open(path).map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.to_owned() },
                error => storage(error.into()),
            })?;
        match tables::format(&database).map_err(storage)? {
            Some(tables::FORMAT) => {}
            Some(found) => return Err(OpenError::Newer { path: path.to_owned(), found, known: tables::FORMAT }),
            None => return Err(OpenError::NotAStore { path: path.to_owned() }),
        }
        let database = Arc::new(database);
        let version = Snapshot::of(&database).and_then(|snapshot| snapshot.version()).map_err(storage)?;
        let history = Arc::new(History::new(version));
        let counters = Arc::new(Counters::default());
        let (commands, waiting) = mpsc::channel(MOST_WAITING);
        let writer = Writer {
            database: Arc::clone(&database),
            history: Arc::clone(&history),
            bounds: Bounds { changes: options.history_changes, bytes: options.history_bytes },
            counters: Arc::clone(&counters),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
        let opened = Opened {
            database,
            history,
            counters,
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self(Arc::new(opened)))
    }

    /// What it has done.
    pub fn statistics(&self) -> Statistics {
        let Counters { changes, commits } = &*self.0.counters;
        Statistics { changes: changes.load(Ordering::Relaxed), commits: commits.load(Ordering::Relaxed) }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.0.database);
        // Pages that are not cached come from disk.
        tokio::task::spawn_blocking(move || read(Snapshot::of(&database)?)).await.map_err(|_| StoreError::closed())?
    }

    async fn write(&self, operation: Operation) -> Result<(Change, Option<AnyObject>), StoreError> {
        let commands = self.0.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let commands = commands.ok_or_else(StoreError::closed)?;
        let (reply, answer) = oneshot::channel();
        commands.send(Command { operation, reply }).await.map_err(|_| StoreError::closed())?;
        answer.await.map_err(|_| StoreError::closed())?
    }

    async fn written(&self, operation: Operation) -> Result<AnyObject, StoreError> {
        match self.write(operation).await? {
            (Change::Write(object) | Change::Remove(object), _) | (Change::None, Some(object)) => Ok(object),
            (Change::None, None) => Err(StoreError::closed()),
        }
    }
}

/// Makes a whole file with nothing in it but its format, then gives it its name: a crash leaves no half of one.
fn make(path: &Path) -> Result<(), OpenError> {
    let create = |source: std::io::Error| OpenError::Create { path: path.to_owned(), source };
    let storage = |error: redb::Error| OpenError::Storage { path: path.to_owned(), source: Box::new(error) };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // For its owner alone: seeds may hold secrets.
    let file = tempfile::Builder::new().prefix(".new-store-").tempfile_in(directory).map_err(create)?;
    let database = Database::builder().create(file.path()).map_err(|error| storage(error.into()))?;
    tables::prepare(&database).map_err(storage)?;
    drop(database);
    file.as_file().sync_all().map_err(create)?;
    match file.persist_noclobber(path) {
        // Somebody else made it meanwhile.
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(create(error.error)),
        Ok(_) => {}
    }
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(create)
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.history.close();
        // Without senders the thread ends, after what it was given.
        self.commands.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

impl Store for EmbeddedStore {
    async fn create_any(&self, object: AnyObject) -> Result<AnyObject, StoreError> {
        self.written(Operation::Create(object)).await
    }

    async fn get_any(&self, kind: Kind, name: &str) -> Result<AnyObject, StoreError> {
        let name = name.to_owned();
        self.read(move |snapshot| match snapshot.object(kind, &name)? {
            Some(object) => Ok(object),
            None => Err(StoreError::NotFound { kind, name }),
        })
        .await
    }

    async fn list_any(&self, kind: Kind, selector: &Selector) -> Result<List<AnyObject>, StoreError> {
        let selector = selector.clone();
        self.read(move |snapshot| snapshot.list(kind, &selector)).await
    }

    async fn replace_any(&self, object: AnyObject) -> Result<AnyObject, StoreError> {
        self.written(Operation::Replace(object)).await
    }

    async fn replace_status_any(&self, object: AnyObject) -> Result<AnyObject, StoreError> {
        self.written(Operation::ReplaceStatus(object)).await
    }

    async fn delete_any(
        &self,
        kind: Kind,
        name: &str,
        preconditions: Preconditions,
    ) -> Result<Deletion<AnyObject>, StoreError> {
        match self.write(Operation::Delete { kind, name: name.to_owned(), preconditions }).await? {
            (Change::Remove(object), _) => Ok(Deletion::Removed(object)),
            (Change::Write(object), _) | (Change::None, Some(object)) => Ok(Deletion::Pending(object)),
            (Change::None, None) => Err(StoreError::closed()),
        }
    }

    async fn watch_any(&self, kind: Kind, options: WatchOptions) -> Result<Watch<AnyObject>, StoreError> {
        let (version, first) = match options.from {
            WatchFrom::State => {
                let List { items, resource_version } = self.list_any(kind, &options.selector).await?;
                let mut first: VecDeque<_> = items.into_iter().map(WatchEvent::Added).collect();
                first.push_back(WatchEvent::Bookmark(resource_version));
                (resource_version.get(), first)
            }
            WatchFrom::After(version) => {
                // One that is not yet written is of another store, or of this one before it lost its file.
                let written = self.read(|snapshot| Ok(snapshot.version()?)).await?;
                if version.get() > written || self.0.history.has_forgotten(kind, version.get()) {
                    return Err(StoreError::Expired(version));
                }
                (version.get(), VecDeque::new())
            }
        };
        let reader = Reader::new(Arc::clone(&self.0.history), kind, options, version, first);
        Ok(reader.ok_or_else(StoreError::closed)?.into_watch())
    }
}
