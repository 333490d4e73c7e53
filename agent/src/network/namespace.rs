//! Network namespaces, and threads that live in them.
//!
//! A thread's namespace is what its sockets, taps, children and `/proc/sys/net` belong to. So each namespace that the
//! agent works in has a thread of its own, and async code hands it jobs: no other thread ever changes its namespace.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::mpsc,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        stat::fstat,
        statfs::{NSFS_MAGIC, fstatfs},
    },
};
use tokio::sync::oneshot;

const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// A network namespace could not be made, bound or entered.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the network namespace {}", path.display())]
pub struct NamespaceError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An open network namespace: it is there at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// The calling thread's.
    pub fn current() -> Result<Self, NamespaceError> {
        let file = File::open(OF_THIS_THREAD).map_err(failed("open", Path::new(OF_THIS_THREAD)))?;
        Ok(Self { file })
    }

    /// The one bound at a path; None if there is none. The file alone, which a crash left, is none.
    pub fn bound_at(path: &Path) -> Result<Option<Self>, NamespaceError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(failed("open", path)(reason)),
        };
        let kind = fstatfs(&file).map_err(|reason| failed("look at", path)(reason.into()))?;
        Ok((kind.filesystem_type() == NSFS_MAGIC).then_some(Self { file }))
    }

    /// A second handle.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// Moves the calling thread into a new namespace.
    pub(super) fn enter_new() -> Result<Self, NamespaceError> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|reason| failed("make", Path::new(OF_THIS_THREAD))(reason.into()))?;
        Self::current()
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|reason| failed("enter", Path::new(OF_THIS_THREAD))(reason.into()))
    }

    /// Binds the calling thread's namespace, for people's tools and for the next life of the agent.
    pub(super) fn bind_current(path: &Path) -> Result<(), NamespaceError> {
        let bind = || -> io::Result<()> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            mount(Some(OF_THIS_THREAD), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        };
        bind().map_err(failed("bind", path))
    }

    /// Removes a binding; the namespace itself goes when nobody is in it any more. Not there is as good as removed.
    pub(super) fn unbind(path: &Path) -> Result<(), NamespaceError> {
        // Bound twice by hand, it is unbound twice.
        while Self::bound_at(path)?.is_some() {
            umount2(path, MntFlags::MNT_DETACH).map_err(|reason| failed("unbind", path)(reason.into()))?;
        }
        match fs::remove_file(path) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(reason)),
            _ => Ok(()),
        }
    }

    /// Whether both are one namespace.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        let identity = |namespace: &Self| fstat(&namespace.file).map(|stat| (stat.st_dev, stat.st_ino));
        matches!((identity(self), identity(other)), (Ok(one), Ok(other)) if one == other)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> NamespaceError {
    let path = path.to_owned();
    move |source| NamespaceError { action, path: path.clone(), source }
}

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A thread that keeps something which must not leave it, and does jobs with it, one after another. It ends when the
/// last handle is dropped.
#[derive(Debug)]
pub struct Worker<T> {
    jobs: mpsc::Sender<Job<T>>,
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

/// The thread is not there any more: a job panicked.
#[derive(Debug, thiserror::Error)]
#[error("the network thread ended unexpectedly")]
pub struct WorkerGone;

impl<T: 'static> Worker<T> {
    /// Starts the thread, in the calling thread's namespace, and tells once `make` has succeeded there.
    pub fn start<E: From<io::Error> + Send + 'static>(
        name: &str,
        make: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<Result<(), E>>), io::Error> {
        let (jobs, received) = mpsc::channel::<Job<T>>();
        let (started, start) = oneshot::channel();
        // Jobs may use timers and child processes of the runtime's.
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
            let _runtime = runtime.enter();
            let mut kept = match make() {
                Ok(kept) => kept,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(()));
            for job in received {
                job(&mut kept);
            }
        })?;
        Ok((Self { jobs }, start))
    }

    /// Leaves a job for the thread; nobody waits for it.
    pub fn post(&self, job: impl FnOnce(&mut T) + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does a job on the thread. Dropping the future does not stop it.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, WorkerGone> {
        let (done, answer) = oneshot::channel();
        let job = move |kept: &mut T| {
            let _ = done.send(job(kept));
        };
        self.jobs.send(Box::new(job)).map_err(|_| WorkerGone)?;
        answer.await.map_err(|_| WorkerGone)
    }
}
