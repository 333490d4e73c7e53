//! One cluster's network on this host: its task.

mod converge;
mod deletion;
mod status;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{COMPARE_EVERY, Command, SETTLE, Shared, drift::in_words};
use crate::{
    errors::with_causes,
    ledger::NetworkRecord,
    network::{
        EgressSlot, Port, Role, State, Wanted, Worker, WorkerGone,
        kernel::{ClusterKernel, Failure, KernelError},
        monitor::{Changed, Monitor},
    },
    observed::{ConditionStatus, NetworkStatus},
    spec::{ClusterName, GuestUid, Mtu},
};

/// After changes of our own, the kernel's echo of them is waited out and looked at once.
const ECHO: Duration = Duration::from_secs(1);
/// Between two looks: somebody who keeps changing things keeps us this busy and no more.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);
/// Guests that are attached together.
const AT_ONCE: usize = 64;
/// After a failure, and then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Keeps one network as its record says, until the record is gone.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut records: watch::Receiver<Arc<NetworkRecord>>,
    mut commands: mpsc::Receiver<Command>,
) {
    let record = records.borrow_and_update().clone();
    let cluster = record.spec.cluster.clone();
    let mut view = shared.view.clone();
    view.borrow_and_update();
    let mut task = Task {
        path: shared.config.namespace_of(&cluster),
        status: NetworkStatus::default(),
        shared,
        cluster,
        record,
        kernel: None,
        ports: BTreeMap::new(),
        believed: None,
        mtu: None,
        slot: None,
        way_out_removed: false,
        gone: false,
        look_at: Instant::now(),
        looked_at: None,
        echo_until: Instant::now(),
        failures: 0,
    };
    loop {
        let look_at = task.look_at;
        tokio::select! {
            changed = records.changed() => {
                if changed.is_err() {
                    task.forget();
                    return;
                }
                let record = records.borrow_and_update().clone();
                task.take(record).await;
            }
            Some(command) = commands.recv() => task.obey(command, &mut commands).await,
            changed = task.changed() => task.noticed(changed),
            changed = view.changed() => {
                if changed.is_err() {
                    return;
                }
                view.borrow_and_update();
                task.look_soon();
            }
            () = sleep_until(look_at) => task.look().await,
        }
    }
}

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) cluster: ClusterName,
    /// Where the namespace is bound.
    path: PathBuf,
    pub(super) record: Arc<NetworkRecord>,
    pub(super) kernel: Option<Kernel>,
    /// The guests that were attached, adopted, or found by their taps.
    pub(super) ports: BTreeMap<GuestUid, Port>,
    /// What is there as far as we know; None: unknown, look before changing.
    pub(super) believed: Option<State>,
    pub(super) mtu: Option<Mtu>,
    /// The addresses of the way out, where there is one.
    slot: Option<EgressSlot>,
    /// Nothing of a way out is left: there is none wanted.
    way_out_removed: bool,
    /// Deleted to the end: nothing to do until the record is another.
    gone: bool,
    pub(super) look_at: Instant,
    looked_at: Option<Instant>,
    /// Until then, what the kernel tells of is probably our own doing.
    echo_until: Instant,
    /// In a row.
    failures: u32,
    status: NetworkStatus,
}

pub(super) struct Kernel {
    pub(super) worker: Worker<ClusterKernel>,
    monitor: Monitor,
}

/// Why the network is not whole.
struct Problem {
    reason: &'static str,
    message: String,
}

impl Problem {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<KernelError> for Problem {
    fn from(error: KernelError) -> Self {
        let reason = match error {
            KernelError::NameTaken(_) => "NameTaken",
            _ => "KernelRefused",
        };
        Self::new(reason, with_causes(&error))
    }
}

impl From<WorkerGone> for Problem {
    fn from(error: WorkerGone) -> Self {
        Self::new("AgentFault", error.to_string())
    }
}

impl Task {
    /// Waits for news from the cluster's namespace.
    async fn changed(&mut self) -> io::Result<Changed> {
        match &mut self.kernel {
            Some(kernel) => kernel.monitor.changed().await,
            None => std::future::pending().await,
        }
    }

    fn noticed(&mut self, changed: io::Result<Changed>) {
        match changed {
            Ok(changed) => {
                if changed.rules
                    && let Some(kernel) = &self.kernel
                {
                    kernel.worker.post(ClusterKernel::look_at_rules_again);
                }
            }
            Err(error) => {
                tracing::warn!(cluster = %self.cluster, %error, "cannot listen to changes of the network");
                // It is opened again with the next look.
                self.kernel = None;
            }
        }
        self.look_soon();
    }

    /// Soon after others changed something; later after we did, because it was probably that.
    fn look_soon(&mut self) {
        let now = Instant::now();
        let after_others = self.looked_at.map_or(now, |looked| looked + BETWEEN_LOOKS).max(now + SETTLE);
        let at = if now < self.echo_until { self.echo_until.max(after_others) } else { after_others };
        // A retry after failures is not hurried by the echo of the failure.
        if self.failures == 0 || self.look_at > at {
            self.look_at = self.look_at.min(at);
        }
    }

    /// What happened until now was our own doing.
    pub(super) fn changed_by_us(&mut self) {
        self.echo_until = Instant::now() + ECHO;
    }

    async fn take(&mut self, record: Arc<NetworkRecord>) {
        let before = std::mem::replace(&mut self.record, record);
        self.gone = false;
        self.way_out_removed = false;
        self.failures = 0;
        // Where only peers changed, what is there is known: their difference is all there is to write.
        let only_peers = before.spec == self.record.spec && !before.deleting && !self.record.deleting;
        if only_peers && self.believed.is_some() {
            self.update().await;
        } else {
            self.look().await;
        }
    }

    /// Does what it is told; of guests that come at once, all together.
    async fn obey(&mut self, command: Command, more: &mut mpsc::Receiver<Command>) {
        let mut next = Some(command);
        while let Some(command) = next.take() {
            match command {
                Command::Attach(first) => {
                    let mut guests = vec![first];
                    while next.is_none() && guests.len() < AT_ONCE {
                        match more.try_recv() {
                            Ok(Command::Attach(guest)) => guests.push(guest),
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    self.attach(guests).await;
                }
                other => self.obey_one(other).await,
            }
        }
    }

    async fn obey_one(&mut self, command: Command) {
        match command {
            Command::Attach(guest) => self.attach(vec![guest]).await,
            Command::Adopt { port, answer } => {
                if self.ports.insert(port.uid, port) != Some(port) {
                    self.look_at = Instant::now();
                }
                let _ = answer.send(());
            }
            Command::Detach { uid, answer } => {
                self.detach(uid).await;
                let _ = answer.send(());
            }
        }
    }

    async fn detach(&mut self, uid: GuestUid) {
        let Some(kernel) = &self.kernel else {
            self.ports.remove(&uid);
            return;
        };
        match kernel.worker.run(move |kernel| kernel.delete_tap(uid)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                tracing::warn!(cluster = %self.cluster, %uid, problem = failure.message, "a tap stays for now");
            }
            Err(_) => self.kernel = None,
        }
        self.changed_by_us();
        self.ports.remove(&uid);
        if let Some(believed) = self.believed.take() {
            self.believed = Some(believed.without(Role::Tap(uid)));
            self.update().await;
        } else {
            self.look_at = Instant::now();
        }
    }

    /// Reads what is there, and puts it right.
    pub(super) async fn look(&mut self) {
        if self.gone {
            self.look_at = Instant::now() + COMPARE_EVERY;
            return;
        }
        let slow = self.looked_at.is_none_or(|looked| looked.elapsed() >= COMPARE_EVERY);
        self.looked_at = Some(Instant::now());
        let result = if self.record.deleting { self.delete().await } else { self.converge(slow).await };
        match result {
            Ok(()) => {
                self.failures = 0;
                self.look_at = Instant::now() + COMPARE_EVERY;
                self.publish();
            }
            Err(problem) => self.failed(problem),
        }
    }

    fn failed(&mut self, problem: Problem) {
        tracing::warn!(cluster = %self.cluster, reason = problem.reason, problem = problem.message, "the network is not ready");
        let pause = FIRST_RETRY.saturating_mul(1 << self.failures.min(7)).min(COMPARE_EVERY);
        self.failures = self.failures.saturating_add(1);
        self.look_at = Instant::now() + pause;
        let Problem { reason, message } = problem;
        self.status.conditions.set("Ready", ConditionStatus::False, reason, message);
        self.publish();
    }

    pub(super) fn wanted<'a>(&'a self, mtu: Mtu, ports: &'a BTreeMap<GuestUid, Port>) -> Wanted<'a> {
        Wanted {
            spec: &self.record.spec,
            peers: self.record.peers.as_ref(),
            ports,
            underlay_address: self.shared.config.underlay_address,
            vxlan_port: self.shared.config.vxlan_port,
            mtu,
            egress: self.slot,
        }
    }

    async fn kernel(&mut self) -> Result<Worker<ClusterKernel>, Problem> {
        if let Some(kernel) = &self.kernel {
            return Ok(kernel.worker.clone());
        }
        self.believed = None;
        let shared = Arc::clone(&self.shared);
        let (cluster, path) = (self.cluster.clone(), self.path.clone());
        let (worker, started) = Worker::start(&format!("net-{cluster}"), move || {
            ClusterKernel::open(cluster, path, &shared.host_namespace, shared.config.nft.clone())
        })
        .map_err(KernelError::Thread)?;
        started.await.map_err(|_| WorkerGone)??;
        let monitor = worker.run(|_| Monitor::open()).await?.map_err(KernelError::Thread)?;
        self.kernel = Some(Kernel { worker: worker.clone(), monitor });
        Ok(worker)
    }
}

/// The ports whose taps are there.
pub(super) fn present(ports: &BTreeMap<GuestUid, Port>, state: &State) -> BTreeMap<GuestUid, Port> {
    ports
        .iter()
        .filter(|(uid, _)| state.devices.contains_key(&Role::Tap(**uid)))
        .map(|(uid, port)| (*uid, *port))
        .collect()
}

pub(super) fn sentence(failures: &[Failure]) -> String {
    let messages: Vec<String> = failures.iter().map(|failure| failure.message.clone()).collect();
    in_words(&messages)
}
