//! One cluster's network on this host: its task.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    COMPARE_EVERY, Command, Readiness, SETTLE, Shared,
    drift::{drift, in_words},
};
use crate::{
    errors::with_causes,
    ledger::{self, NetworkRecord, UpdateError},
    network::{
        EgressSlot, Namespace, Port, Role, State, Wanted, Worker, WorkerGone, desired,
        host::EgressWanted,
        kernel::{ClusterKernel, Failure, KernelError},
        monitor::{Changed, Monitor},
        settings,
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

    /// Writes what is wanted over what is known to be there.
    async fn update(&mut self) {
        let (Some(believed), Some(kernel), Some(mtu)) = (self.believed.take(), &self.kernel, self.mtu) else {
            return self.look().await;
        };
        let present = present(&self.ports, &believed);
        let desired = desired(&self.wanted(mtu, &present));
        let changes = believed.changes_to(&desired);
        let result = if changes.is_empty() {
            Ok(Vec::new())
        } else {
            kernel.worker.run(move |kernel| kernel.apply(&changes)).await
        };
        self.changed_by_us();
        match result {
            Ok(failures) if failures.is_empty() => {
                self.believed = Some(desired);
                self.status.observed_peers_generation = self.record.peers.as_ref().map(|peers| peers.generation);
                self.publish();
            }
            // It may be that somebody changed what we believed: look.
            Ok(_) => self.look().await,
            Err(gone) => {
                self.kernel = None;
                self.failed(gone.into());
            }
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

impl Task {
    /// Brings the network to what its record says.
    async fn converge(&mut self, slow: bool) -> Result<(), Problem> {
        let record = Arc::clone(&self.record);
        let spec = &record.spec;
        let mtu = self.shared.mtu(spec).map_err(|(reason, message)| Problem::new(reason, message))?;
        let worker = self.kernel().await?;
        if slow {
            worker.post(ClusterKernel::look_at_rules_again);
        }
        let mut repaired = self.way_out(&worker, mtu).await?;
        self.mtu = Some(mtu);

        let known = self.ports.clone();
        let settings = settings(spec.egress);
        let observation = worker.run(move |kernel| kernel.observe(&known, &settings)).await??;
        if observation.rebound {
            repaired.push(format!("bind {} again", self.path.display()));
        }
        for (uid, port) in &observation.ports {
            self.ports.entry(*uid).or_insert(*port);
        }
        let present = present(&self.ports, &observation.state);
        let desired = desired(&self.wanted(mtu, &present));
        let changes = observation.state.changes_to(&desired);
        let believed = self.believed.take();
        if let Some(believed) = &believed {
            repaired.extend(drift(believed, &observation.state, &desired).iter().map(ToString::to_string));
        } else {
            // Nothing was known to be right, so nothing was changed by others.
            repaired.clear();
        }
        let failures = if changes.is_empty() {
            Vec::new()
        } else {
            let failures = worker.run(move |kernel| kernel.apply(&changes)).await?;
            self.changed_by_us();
            failures
        };
        self.tell_drift(&repaired, failures.is_empty());
        if !failures.is_empty() {
            return Err(Problem::new("KernelRefused", sentence(&failures)));
        }
        self.believed = Some(desired);
        self.status.observed_generation = Some(spec.generation);
        self.status.observed_peers_generation = record.peers.as_ref().map(|peers| peers.generation);
        self.status.conditions.clear("Deleting");
        self.status.conditions.set("Ready", ConditionStatus::True, "Ready", "guests can be attached");
        Ok(())
    }

    /// Makes the way out, or removes it; tells what was put right.
    async fn way_out(&mut self, worker: &Worker<ClusterKernel>, mtu: Mtu) -> Result<Vec<String>, Problem> {
        let spec = &self.record.spec;
        if !spec.egress {
            self.slot = None;
            if !self.way_out_removed {
                self.remove_way_out().await?;
                self.way_out_removed = true;
            }
            return Ok(Vec::new());
        }
        let (namespace, cluster_end_is_there) =
            worker.run(|kernel| (kernel.namespace(), kernel.has_device(Role::Egress))).await?;
        let namespace = namespace.map_err(KernelError::Thread)?;
        let (cluster, vni) = (self.cluster.clone(), spec.vni);
        let wanted = EgressWanted { cluster, vni, mtu, namespace, cluster_end_is_there };
        let egress = self
            .shared
            .host
            .run(move |host| host.ensure_egress(&wanted))
            .await?
            .map_err(|error| Problem::new("NoEgress", with_causes(&error)))?;
        self.slot = Some(egress.slot);
        Ok(egress.repaired)
    }

    async fn remove_way_out(&self) -> Result<(), Problem> {
        let cluster = self.cluster.clone();
        let removed = self.shared.host.run(move |host| host.remove_egress(&cluster)).await?;
        removed.map_err(|error| Problem::new("NoEgress", with_causes(&error)))
    }

    fn tell_drift(&mut self, repaired: &[String], done: bool) {
        if repaired.is_empty() {
            if self.status.conditions.get("Drift").is_none() || done && self.status.conditions.is_true("Drift") {
                self.status.conditions.set("Drift", ConditionStatus::False, "InSync", "nothing was changed by others");
            }
            return;
        }
        let what = in_words(repaired);
        tracing::warn!(cluster = %self.cluster, repairs = what, done, "somebody changed the network");
        if done {
            self.status.repairs += 1;
            let message = format!("changed by others and put right at {}: {what}", jiff::Timestamp::now());
            self.status.conditions.set("Drift", ConditionStatus::False, "Repaired", message);
        } else {
            let message = format!("changed by others and not yet put right: {what}");
            self.status.conditions.set("Drift", ConditionStatus::True, "NotRepaired", message);
        }
    }

    /// Removes everything; what is there and not removed yet is tried again.
    async fn delete(&mut self) -> Result<(), Problem> {
        self.status.conditions.set("Deleting", ConditionStatus::True, "Deleting", "it was asked to go");
        let bound = Namespace::bound_at(&self.path).map_err(KernelError::Namespace)?.is_some();
        let mut failures = Vec::new();
        if bound || self.kernel.is_some() {
            let worker = self.kernel().await?;
            let known = self.ports.clone();
            let attached = worker.run(move |kernel| kernel.taps(&known)).await??;
            if !attached.is_empty() {
                let message = format!("{} guests are attached: delete or stop them first", attached.len());
                return Err(Problem::new("GuestsAttached", message));
            }
            failures.extend(self.remove_way_out().await.err().map(|problem| problem.message));
            let torn_down = worker.run(ClusterKernel::tear_down).await?;
            failures.extend(torn_down.into_iter().map(|failure| failure.message));
            self.believed = None;
        } else {
            failures.extend(self.remove_way_out().await.err().map(|problem| problem.message));
        }
        if !failures.is_empty() {
            return Err(Problem::new("KernelRefused", failures.join("; ")));
        }
        self.kernel = None;
        self.ports.clear();
        self.forget_record().await
    }

    /// Nothing is left, so the record can go, unless the network was asked for again meanwhile.
    async fn forget_record(&mut self) -> Result<(), Problem> {
        let cluster = self.cluster.clone();
        let forgotten = self
            .shared
            .ledger
            .update(move |ledger| {
                let deleting = ledger.networks.get(&cluster).is_some_and(|record| record.deleting);
                let changes = if deleting { vec![ledger::Change::ForgetNetwork(cluster)] } else { Vec::new() };
                Ok::<_, std::convert::Infallible>((changes, deleting))
            })
            .await;
        match forgotten {
            Ok(true) => {
                self.gone = true;
                self.status = NetworkStatus::default();
                self.forget();
                Ok(())
            }
            Ok(false) | Err(UpdateError::ShuttingDown) => Ok(()),
            Err(error) => Err(Problem::new("LedgerFault", with_causes(&error))),
        }
    }

    /// What others saw of it.
    fn forget(&self) {
        self.shared.observed.forget_network(&self.cluster);
        self.shared.readiness.send_if_modified(|networks| networks.remove(&self.cluster).is_some());
    }

    pub(super) fn publish(&mut self) {
        if self.gone {
            return;
        }
        self.status.mtu = self.mtu;
        self.status.namespace.clone_from(&self.path);
        let taps = self.believed.as_ref().map(|believed| believed.taps().count());
        self.status.ports = taps.and_then(|taps| u32::try_from(taps).ok()).unwrap_or(self.status.ports);
        self.shared.observed.publish_network(self.cluster.clone(), self.status.clone());
        let readiness = self.readiness();
        self.shared.readiness.send_if_modified(|networks| {
            let changed = networks.get(&self.cluster) != Some(&readiness);
            if changed {
                networks.insert(self.cluster.clone(), readiness);
            }
            changed
        });
    }

    pub(super) fn readiness(&self) -> Readiness {
        if self.record.deleting {
            return Readiness::NotReady { reason: "it is being deleted".to_owned() };
        }
        match self.status.conditions.get("Ready") {
            Some(condition) if condition.status == ConditionStatus::True => Readiness::Ready,
            Some(condition) => Readiness::NotReady { reason: condition.message.clone() },
            None => Readiness::NotReady { reason: "it is being made".to_owned() },
        }
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
