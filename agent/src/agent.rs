//! The agent, built from its configuration.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    accelerator::Accelerators,
    admission::{Conflict, ConflictKind},
    api::{BindError, Parts, Questions, ServeError, Server},
    certs::{Issuers, IssuersError},
    config::Config,
    doctor, files,
    image::{ImageError, ImageStore},
    ledger::{Ledger, LedgerError},
    network::{admission::Refusal, host::HostError},
    observed::Observed,
    qemu::{Launcher, LauncherError},
    reconcile::{Guests, NetworkReconciler, Rooms, measure_overheads},
    spec::ByteSize,
};

/// An agent that runs.
#[derive(Debug)]
pub struct Agent {
    /// Held for as long as the agent lives: two agents on one directory would be two masters.
    _lock: File,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

/// Why the agent does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory of its own.
    #[error("cannot {what} {}", path.display())]
    Directory {
        /// What was tried.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another one is there.
    #[error("another agent holds {}: stop it, or give this one directories of its own", path.display())]
    AnotherAgent {
        /// The lock.
        path: PathBuf,
    },
    /// Desired state.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Images.
    #[error("the image store cannot be opened")]
    Images(#[from] ImageError),
    /// QEMU.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// Certificates.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The underlay.
    #[error("the host's own network cannot be read")]
    Network(#[from] HostError),
    /// The API.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The API, later.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The API's task.
    #[error("the API's task fell over: this is a defect")]
    Fell,
}

impl Agent {
    /// Starts everything; what an earlier agent left is found again. When this returns, the API is served.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        let (state, runtime) = (config.directories.state.clone(), config.directories.runtime.clone());
        // The socket in the runtime directory is for a group, too; what is secret in it has directories of its own.
        make_directory(&runtime, 0o755)?;
        make_directory(&state, 0o711)?;
        let lock = take_lock(&runtime.join("agent.lock"))?;
        let server = Server::bind(&config.api).await?;

        let ledger = Ledger::open(&state.join("ledger"))?;
        let observed = Observed::new();
        let images = ImageStore::open(&config.images, &state.join("images"), &config.qemu.image_tool)?;
        let launcher = Launcher::new(&config.qemu, &runtime, &state, "/proc/self/exe".into())?;
        let issuers = Issuers::from_config(&config.issuers, &runtime)?;
        let accelerators = Accelerators::new(config.qemu.allow_tcg, launcher.clone());
        let trial = accelerators.clone();
        // It takes seconds, and who does not need to know need not wait.
        tokio::spawn(async move { trial.warm_up().await });
        let networks = NetworkReconciler::start(config.network.clone(), ledger.clone(), observed.clone()).await?;
        let rooms = Arc::new(Rooms {
            ledger,
            observed,
            images,
            networks,
            issuers,
            launcher,
            accelerators,
            qemu: config.qemu.clone(),
        });
        let guests = Guests::start(Arc::clone(&rooms));
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(parts(config, &rooms, guests), shutdown.clone()));
        Ok(Self { _lock: lock, shutdown, serving })
    }

    /// Returns only when the agent cannot go on.
    pub async fn failed(&mut self) -> AgentError {
        match (&mut self.serving).await {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(_) => AgentError::Fell,
        }
    }

    /// Takes no more calls and lets those under way end, for so long at most. Guests are not touched.
    pub async fn drain(self, limit: Duration) {
        self.shutdown.cancel();
        if tokio::time::timeout(limit, self.serving).await.is_err() {
            tracing::warn!(?limit, "calls were still under way at the end");
        }
    }
}

/// What the API works with.
fn parts(config: Config, rooms: &Arc<Rooms>, guests: Guests) -> Parts {
    let config = Arc::new(config);
    let questions = Questions {
        against_network: {
            let rooms = Arc::clone(rooms);
            Box::new(move |spec, others| {
                let refusals = rooms.networks.admit(spec, others.iter().copied()).err().unwrap_or_default();
                let conflict = |refusal: Refusal| Conflict {
                    kind: ConflictKind::Host,
                    subject: format!("spec.{}", refusal.field),
                    description: refusal.reason,
                };
                refusals.into_iter().map(conflict).collect()
            })
        },
        certificates: Box::new(move |uid| guests.certificates(uid)),
        accelerator: {
            let rooms = Arc::clone(rooms);
            Box::new(move || rooms.accelerators.known())
        },
        overheads: {
            let floor = ByteSize::mib(config.capacity.guest_overhead_mib);
            let overheads = measure_overheads(Arc::clone(rooms), floor);
            Box::new(move || overheads.borrow().clone())
        },
        host_facts: {
            let rooms = Arc::clone(rooms);
            Box::new(move || rooms.networks.host_facts())
        },
        doctor: {
            let (config, rooms) = (Arc::clone(&config), Arc::clone(rooms));
            Box::new(move || {
                let (config, rooms) = (Arc::clone(&config), Arc::clone(&rooms));
                Box::pin(async move { doctor::examine(&config, &rooms).await })
            })
        },
    };
    Parts {
        host_name: host_name(&config),
        config,
        ledger: rooms.ledger.clone(),
        observed: rooms.observed.clone(),
        images: rooms.images.clone(),
        questions,
    }
}

fn host_name(config: &Config) -> String {
    config.name.clone().unwrap_or_else(|| {
        let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        machine.unwrap_or_else(|| "unnamed".to_owned())
    })
}

fn make_directory(path: &Path, mode: u32) -> Result<(), AgentError> {
    files::make_directory(path, mode).map_err(|source| AgentError::Directory {
        what: "make the directory",
        path: path.to_owned(),
        source,
    })
}

fn take_lock(path: &Path) -> Result<File, AgentError> {
    let failed = |source| AgentError::Directory { what: "lock", path: path.to_owned(), source };
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AgentError::AnotherAgent { path: path.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}
