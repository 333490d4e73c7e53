//! Networks: one task per cluster network owns all of its transitions.
//!
//! A task follows its record in the ledger, the host's devices, and what the kernel says happens in the cluster's
//! namespace. What it knows to be there it does not read again to change it: a new peer list costs its difference. What
//! others may have changed it reads and compares, when the kernel tells of a change and on a slow timer.
//!
//! ```text
//!            +-> waiting (no underlay, kernel refused: again, with back-off)
//!  record ---+-> ready <-> repairing
//!            +-> deleting (waits while guests are attached) -> gone
//! ```

mod attach;
mod drift;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::network::{Port, admission::Refusal};
use crate::{
    config::NetworkConfig,
    ledger::{Ledger, NetworkRecord, NetworkRecords},
    network::{
        HostFacts, Namespace, TapError, Worker, admission,
        host::{HostError, HostKernel},
        monitor::Monitor,
        overlay_mtu,
    },
    observed::Observed,
    spec::{ClusterName, GuestUid, Mtu, NetworkSpec},
};

/// Changes come in bursts: look once after them.
const SETTLE: Duration = Duration::from_millis(50);
/// What the kernel does not tell of, such as most settings, is looked at this often.
const COMPARE_EVERY: Duration = Duration::from_mins(1);
/// Requests to one network that may wait.
const QUEUE: usize = 64;

/// A tap as QEMU gets it.
#[derive(Debug)]
pub struct Tap {
    /// The device lives as long as somebody has it open.
    pub file: OwnedFd,
    /// The network's, to be told to the guest.
    pub mtu: Mtu,
    /// Its name in the cluster's namespace.
    pub device: String,
}

/// What a guest is told of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLink {
    /// Of the overlay.
    pub cidr: Ipv4Network,
    /// Its default route.
    pub gateway: Ipv4Addr,
    /// Of its interface.
    pub mtu: Mtu,
    /// As the cluster's network says.
    pub dns_servers: Vec<Ipv4Addr>,
}

/// Whether guests can be attached to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It was seen to be whole.
    Ready,
    /// Not yet, or not any more.
    NotReady {
        /// A sentence for people.
        reason: String,
    },
}

/// Why a guest cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Later, perhaps.
    #[error("the network of cluster {cluster} is not ready: {reason}")]
    NotReady {
        /// Whose.
        cluster: ClusterName,
        /// As its condition says.
        reason: String,
    },
    /// A QEMU that runs has the guest's tap.
    #[error("the guest's tap is in use: its QEMU still runs")]
    Held,
    /// The guest cannot have this place.
    #[error("{0}")]
    Refused(String),
    /// The tap could not be opened.
    #[error(transparent)]
    Tap(TapError),
    /// The tap was opened, but not joined to the network; it is gone again.
    #[error("cannot join the guest to its network: {0}")]
    Kernel(String),
}

/// What a task is asked to do.
enum Command {
    Attach(Attach),
    Adopt { port: Port, answer: oneshot::Sender<()> },
    Detach { uid: GuestUid, answer: oneshot::Sender<()> },
}

/// A guest to be joined to its network.
struct Attach {
    port: Port,
    answer: oneshot::Sender<Result<Tap, AttachError>>,
}

/// The networks of this host. A handle: clones share it.
#[derive(Clone)]
pub struct NetworkReconciler {
    shared: Arc<Shared>,
}

struct Shared {
    config: NetworkConfig,
    ledger: Ledger,
    observed: Observed,
    host: Worker<HostKernel>,
    host_namespace: Namespace,
    view: watch::Receiver<HostView>,
    readiness: watch::Sender<BTreeMap<ClusterName, Readiness>>,
    tasks: Mutex<BTreeMap<ClusterName, TaskHandle>>,
}

/// What is seen of the host; a new one means that something there changed.
#[derive(Debug, Clone, Default)]
struct HostView {
    facts: HostFacts,
}

struct TaskHandle {
    records: watch::Sender<Arc<NetworkRecord>>,
    commands: mpsc::Sender<Command>,
}

impl NetworkReconciler {
    /// Brings up what the ledger says, in the calling thread's network namespace as the host's.
    pub async fn start(config: NetworkConfig, ledger: Ledger, observed: Observed) -> Result<Self, HostError> {
        Self::start_in(Namespace::current()?, config, ledger, observed).await
    }

    /// Brings up what the ledger says, with a given network namespace as the host's.
    pub async fn start_in(
        host_namespace: Namespace,
        config: NetworkConfig,
        ledger: Ledger,
        observed: Observed,
    ) -> Result<Self, HostError> {
        let namespace = host_namespace.try_clone()?;
        let (nft, address, port) = (config.nft.clone(), config.underlay_address, config.vxlan_port);
        let (host, started) = Worker::start("host-network", move || {
            namespace.enter()?;
            HostKernel::open(nft, address, port)
        })?;
        started.await.map_err(std::io::Error::other)??;
        let gone = std::io::Error::other;
        let monitor = host.run(|_| Monitor::open()).await.map_err(gone)??;
        let facts = host.run(HostKernel::facts).await.map_err(gone)??;
        let (views, view) = watch::channel(HostView { facts });
        let reconciler = Self {
            shared: Arc::new(Shared {
                config,
                observed,
                host: host.clone(),
                host_namespace,
                view,
                readiness: watch::Sender::default(),
                tasks: Mutex::default(),
                ledger,
            }),
        };
        reconciler.tell_of_strangers();
        tokio::spawn(watch_host(host, monitor, views));
        tokio::spawn(reconciler.clone().follow_ledger());
        Ok(reconciler)
    }

    /// Namespaces by our names that the ledger does not know may hold guests that run: they are told of and left alone.
    fn tell_of_strangers(&self) {
        let records = self.shared.ledger.networks().borrow().clone();
        let known: BTreeSet<PathBuf> = records.keys().map(|cluster| self.shared.config.namespace_of(cluster)).collect();
        for entry in std::fs::read_dir(&self.shared.config.namespaces).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with("goliath-") && !known.contains(&path) {
                tracing::warn!(path = %path.display(), "a cluster's namespace that nobody asked for is left alone");
            }
        }
    }

    /// Starts a task for each network of the ledger, and tells each of its changes.
    async fn follow_ledger(self) {
        let mut networks = self.shared.ledger.networks();
        loop {
            let records: NetworkRecords = networks.borrow_and_update().clone();
            self.distribute(&records);
            if networks.changed().await.is_err() {
                return;
            }
        }
    }

    fn distribute(&self, records: &NetworkRecords) {
        let mut tasks = self.tasks();
        // A record that is gone was deleted to the end: its task ends with its handle.
        tasks.retain(|cluster, _| records.contains_key(cluster));
        for (cluster, record) in records.iter() {
            let task = tasks.entry(cluster.clone()).or_insert_with(|| {
                let (records, record_changes) = watch::channel(Arc::clone(record));
                let (commands, queue) = mpsc::channel(QUEUE);
                tokio::spawn(task::run(Arc::clone(&self.shared), record_changes, queue));
                TaskHandle { records, commands }
            });
            task.records.send_if_modified(|known| {
                let changed = known != record;
                if changed {
                    known.clone_from(record);
                }
                changed
            });
        }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<ClusterName, TaskHandle>> {
        // No code that holds it can leave it half-changed.
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a network can be on this host beside others: all that speaks against it.
    pub fn admit<'n>(
        &self,
        spec: &NetworkSpec,
        others: impl Iterator<Item = &'n NetworkSpec>,
    ) -> Result<(), Vec<Refusal>> {
        let view = self.shared.view.borrow();
        let refusals = admission::refusals(spec, others, &view.facts, self.shared.config.underlay_address);
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    }

    /// The host's own devices, as they were last seen.
    pub fn host_facts(&self) -> HostFacts {
        self.shared.view.borrow().facts.clone()
    }

    /// Makes a guest's tap and joins it to its network. When this returns, nothing but the guest's own addresses passes
    /// it. A tap that nobody holds is replaced.
    pub async fn attach(&self, cluster: &ClusterName, port: Port) -> Result<Tap, AttachError> {
        let (answer, answered) = oneshot::channel();
        let ended = || AttachError::NotReady { cluster: cluster.clone(), reason: no_network() };
        self.send(cluster, Command::Attach(Attach { port, answer })).await.ok_or_else(ended)?;
        answered.await.map_err(|_| ended())?
    }

    /// Tells of a guest that was found running when the agent started: its tap is there, and held by its QEMU.
    pub async fn adopt(&self, cluster: &ClusterName, port: Port) {
        let (answer, answered) = oneshot::channel();
        if self.send(cluster, Command::Adopt { port, answer }).await.is_some() {
            let _ = answered.await;
        }
    }

    /// Removes all that a network has of a guest. Without such a guest or network there is nothing to do.
    pub async fn detach(&self, cluster: &ClusterName, uid: GuestUid) {
        let (answer, answered) = oneshot::channel();
        if self.send(cluster, Command::Detach { uid, answer }).await.is_some() {
            let _ = answered.await;
        }
    }

    /// None: there is no such network.
    async fn send(&self, cluster: &ClusterName, command: Command) -> Option<()> {
        let commands = self.tasks().get(cluster).map(|task| task.commands.clone())?;
        commands.send(command).await.ok()
    }

    /// Whether guests can be attached now.
    pub fn readiness(&self, cluster: &ClusterName) -> Readiness {
        let known = self.shared.readiness.borrow().get(cluster).cloned();
        known.unwrap_or_else(|| Readiness::NotReady { reason: no_network() })
    }

    /// Waits until guests can be attached to a network, which may not have been asked for yet.
    pub async fn ready(&self, cluster: &ClusterName) {
        let mut readiness = self.shared.readiness.subscribe();
        // The sender lives as long as this handle.
        let _ = readiness.wait_for(|networks| networks.get(cluster) == Some(&Readiness::Ready)).await;
    }

    /// Tells when the readiness of some network changed.
    pub fn readiness_changes(&self) -> watch::Receiver<BTreeMap<ClusterName, Readiness>> {
        self.shared.readiness.subscribe()
    }

    /// What a guest of the cluster is told of its network; None: there is no such network, or nothing to lie on.
    pub fn guest_link(&self, cluster: &ClusterName) -> Option<GuestLink> {
        let record = self.shared.ledger.networks().borrow().get(cluster).cloned()?;
        let spec = &record.spec;
        let mtu = self.shared.mtu(spec).ok()?;
        Some(GuestLink { cidr: spec.cidr, gateway: spec.gateway, mtu, dns_servers: spec.dns_servers.clone() })
    }
}

fn no_network() -> String {
    "it was not asked for on this host: apply it first".to_owned()
}

impl Shared {
    /// The MTU of a network on this host, or why it cannot have one.
    fn mtu(&self, spec: &NetworkSpec) -> Result<Mtu, (&'static str, String)> {
        let underlay = self
            .view
            .borrow()
            .facts
            .underlay(self.config.underlay_address)
            .map_err(|reason| ("NoUnderlay", reason.to_string()))?;
        let largest = overlay_mtu(underlay.mtu);
        match (spec.mtu, largest) {
            (None, Some(largest)) => Ok(largest),
            (Some(asked), Some(largest)) if asked <= largest => Ok(asked),
            _ => Err((
                "UnderlayTooSmall",
                format!(
                    "the underlay {} has an MTU of {}, too little for the network's: raise it",
                    underlay.device, underlay.mtu
                ),
            )),
        }
    }
}

/// Keeps the view of the host up to date.
async fn watch_host(host: Worker<HostKernel>, mut monitor: Monitor, views: watch::Sender<HostView>) {
    loop {
        // Without news from the kernel the timer still finds what changed.
        let changed = match tokio::time::timeout(COMPARE_EVERY, monitor.changed()).await {
            Ok(Ok(changed)) => changed.rules,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot listen to changes of the host's network; looking every minute");
                tokio::time::sleep(COMPARE_EVERY).await;
                true
            }
            Err(_) => true,
        };
        tokio::time::sleep(SETTLE).await;
        let looked = host
            .run(move |kernel| {
                if changed {
                    kernel.look_at_rules_again();
                }
                kernel.facts()
            })
            .await;
        match looked {
            Ok(Ok(facts)) => {
                if views.send(HostView { facts }).is_err() {
                    return;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = crate::errors::with_causes(&error), "cannot look at the host's network");
            }
            Err(_) => return,
        }
    }
}
