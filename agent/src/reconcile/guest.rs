//! One guest's task: it alone makes the guest's transitions.
//!
//! It looks at what is desired and what is, asks [`plan`] for the step, does it, and starts over. Waiting ends when the
//! desired state changes, when QEMU has something to say, or when a time is reached.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{
    board::Board,
    executor::{Discovery, Executor, Failure, Machine, MachineEvent, Stopping},
    facts::{Facts, FactsFile, ResolvedImage, Run},
    plan::{Backoff, Desired, Ended, Goal, Qemu, Situation, Step, Vcpus, plan, stays_ended},
};
use crate::{
    ledger::{GuestRecord, Ledger},
    observed::{
        ConditionStatus::{False, True},
        Exit, ExitReason, GuestPhase,
    },
    spec::{Generation, GuestSpec},
};

/// Everything that a guest's task holds.
pub(super) struct GuestTask<E: Executor> {
    executor: E,
    ledger: Ledger,
    record: watch::Receiver<Arc<GuestRecord>>,
    board: Arc<Board>,
    facts_file: FactsFile,
    facts: Facts,
    machine: Option<E::Machine>,
    vcpus: Vcpus,
    stranger: bool,
    holds_runtime: bool,
    backoff: Backoff,
    retry_at: Option<Timestamp>,
}

impl<E: Executor> GuestTask<E> {
    pub(super) fn new(
        executor: E,
        ledger: Ledger,
        record: watch::Receiver<Arc<GuestRecord>>,
        board: Arc<Board>,
        facts_file: FactsFile,
    ) -> Self {
        let facts = facts_file.read();
        Self {
            executor,
            ledger,
            record,
            board,
            facts_file,
            backoff: Backoff::after(facts.failures),
            facts,
            machine: None,
            vcpus: Vcpus::Unknown,
            stranger: false,
            // What an earlier agent left is not known: giving it back twice is safe.
            holds_runtime: true,
            retry_at: None,
        }
    }

    /// Finds out what an earlier agent left. Before this, nothing may be decided for the guest.
    pub(super) async fn discover(&mut self) {
        let record = self.record.borrow().clone();
        match self.executor.discover(&record.spec, &self.board).await {
            Discovery::Found(machine) => {
                tracing::info!(guest = %record.spec.uid, pid = machine.process().pid, "found its QEMU again");
                self.machine = Some(machine);
            }
            Discovery::Stranger(what) => {
                tracing::error!(guest = %record.spec.uid, %what, "quarantined: a QEMU that is not ours to touch");
                self.stranger = true;
                self.board.unknown("Running", "Quarantined", what);
            }
            Discovery::Nothing => {
                if let Some(run) = self.facts.running.take() {
                    let exit = Exit {
                        reason: ExitReason::Unobserved,
                        message: "it ended while no agent watched, or with the machine".to_owned(),
                        time: Timestamp::now(),
                    };
                    self.ended(exit, run.generation, run.started_at);
                    self.facts_file.write(&self.facts).await;
                }
            }
        }
        self.publish(&record, None);
    }

    /// Brings the guest where it is wanted, again and again, until nothing of it is left.
    pub(super) async fn run(mut self) {
        loop {
            let record = self.record.borrow_and_update().clone();
            let desired = desired(&record);
            let situation = self.situation(&record.spec);
            let step = plan(&desired, &situation, Timestamp::now());
            self.publish(&record, Some(step));
            match step {
                Step::Wait => self.wait(None).await,
                Step::WaitUntil(time) => self.wait(Some(time)).await,
                Step::Start => self.start(&record.spec).await,
                Step::Resume | Step::Pause => self.set_vcpus(step).await,
                Step::ShutDown => self.shut_down(&record.spec).await,
                Step::Park => self.park(&record.spec).await,
                Step::Release => {
                    if self.release(&record.spec).await {
                        return;
                    }
                }
            }
            // The ledger is gone: the agent is ending. The guest is not.
            if self.record.has_changed().is_err() {
                return;
            }
        }
    }

    fn situation(&self, spec: &GuestSpec) -> Situation {
        let qemu = match &self.machine {
            _ if self.stranger => Qemu::Stranger,
            None => Qemu::Absent,
            Some(machine) => Qemu::Up {
                vcpus: self.vcpus,
                outdated: !machine.launched().restart_required_by(spec).is_empty(),
                stopping: machine.stopping().is_some(),
            },
        };
        let ended = match (&self.facts.last_exit, self.facts.ended_generation) {
            (Some(exit), Some(generation)) => Some(Ended { exit: exit.clone(), generation }),
            _ => None,
        };
        Situation { qemu, ended, holds_runtime: self.holds_runtime, retry_at: self.retry_at }
    }

    async fn wait(&mut self, until: Option<Timestamp>) {
        let timer = async {
            match until {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        let event = async {
            match &mut self.machine {
                Some(machine) => machine.next_event().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = event => self.seen(event).await,
            changed = self.record.changed() => {
                if changed.is_ok() && self.machine.is_some() {
                    let spec = self.record.borrow().spec.clone();
                    self.executor.refresh(&spec).await;
                }
            }
            () = timer => {}
        }
    }

    async fn seen(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Vcpus(vcpus) => self.vcpus = vcpus,
            MachineEvent::Booted(how) => self.board.is("Booted", "GuestSaidSo", how),
            MachineEvent::Silent(what) => {
                self.vcpus = Vcpus::Unknown;
                self.board.unknown("Running", "QmpSilent", what);
            }
            MachineEvent::VolumeLost(what) => self.board.is_not("VolumesReady", "VolumeProcessEnded", what),
            MachineEvent::CertificatesStale(what) => {
                tracing::warn!(reason = what, "the guest keeps its older certificate disk");
                self.board.is_not("VolumesReady", "CertificateDiskStale", what);
            }
            MachineEvent::CertificatesFresh => {
                self.board.is("VolumesReady", "Ready", "the guest has the newest certificate disk");
            }
            MachineEvent::Exited(exit) => self.exited(exit).await,
        }
    }

    async fn start(&mut self, spec: &GuestSpec) {
        self.holds_runtime = true;
        let known = self.facts.image.as_ref().filter(|image| image.reference == spec.image).map(|image| &image.digest);
        let known = known.cloned();
        let image = tokio::select! {
            biased;
            // Another wish: what was made ready so far is there still when it turns out to be needed.
            _ = self.record.changed() => return self.record.mark_changed(),
            image = self.executor.image(spec, known.as_ref(), &self.board) => image,
        };
        let (image, digest) = match image {
            Ok(image) => image,
            Err(failure) => return self.failed(spec, failure).await,
        };
        let resolved = Some(ResolvedImage { reference: spec.image.clone(), digest });
        let is_news = self.facts.image != resolved;
        self.facts.image = resolved;
        // Before the launch: a tag that moves between a crash of the agent and its next start moves no guest.
        let remember = async {
            if is_news {
                self.facts_file.write(&self.facts).await;
            }
        };
        let prepare = async {
            tokio::select! {
                biased;
                _ = self.record.changed() => None,
                prepared = self.executor.prepare(spec, image, &self.board) => Some(prepared),
            }
        };
        let prepared = match tokio::join!(prepare, remember) {
            (None, ()) => return self.record.mark_changed(),
            (Some(Err(failure)), ()) => return self.failed(spec, failure).await,
            (Some(Ok(prepared)), ()) => prepared,
        };
        match self.executor.launch(spec, prepared, &self.board).await {
            Ok(machine) => self.launched(spec, machine).await,
            Err(failure) => self.failed(spec, failure).await,
        }
    }

    async fn launched(&mut self, spec: &GuestSpec, machine: E::Machine) {
        let process = machine.process();
        tracing::info!(guest = %spec.uid, name = %spec.name, cluster = %spec.cluster, pid = process.pid, "started");
        if self.facts.was_started {
            self.facts.restart_count = self.facts.restart_count.saturating_add(1);
        }
        self.facts.was_started = true;
        self.facts.ended_generation = None;
        self.facts.running = Some(Run { generation: spec.generation, started_at: process.started_at });
        self.machine = Some(machine);
        self.vcpus = Vcpus::Unknown;
        self.retry_at = None;
        // What QEMU says first is known already, and nobody shall wait for the disk to hear it.
        self.wait(None).await;
        let record = self.record.borrow().clone();
        self.publish(&record, None);
        self.facts_file.write(&self.facts).await;
    }

    /// A step before QEMU ran did not work.
    async fn failed(&mut self, spec: &GuestSpec, failure: Failure) {
        tracing::warn!(guest = %spec.uid, condition = failure.condition, reason = failure.reason, message = failure.message, "a step failed");
        self.board.is_not(failure.condition, failure.reason, failure.message.clone());
        if failure.launch {
            self.facts.last_exit =
                Some(Exit { reason: ExitReason::LaunchFailed, message: failure.message, time: Timestamp::now() });
        }
        let wait = self.backoff.failed();
        self.facts.failures = self.backoff.failures();
        self.retry_at = Some(after(wait));
        self.facts_file.write(&self.facts).await;
    }

    async fn set_vcpus(&mut self, step: Step) {
        let Some(machine) = &mut self.machine else { return };
        let done = if step == Step::Resume { machine.resume().await } else { machine.pause().await };
        match done {
            Ok(()) => self.vcpus = if step == Step::Resume { Vcpus::Running } else { Vcpus::Paused },
            Err(failure) => {
                self.board.is_not(failure.condition, failure.reason, failure.message);
                // Not again before QEMU says something.
                self.vcpus = Vcpus::Unknown;
            }
        }
    }

    async fn shut_down(&mut self, spec: &GuestSpec) {
        let Some(machine) = &mut self.machine else { return };
        let stopping = if let Some(stopping) = machine.stopping() {
            stopping
        } else {
            let stopping = Stopping { since: Timestamp::now(), grace: spec.lifecycle.shutdown_grace };
            if let Err(failure) = machine.begin_stopping(stopping).await {
                tracing::warn!(guest = %spec.uid, message = failure.message, "an agent that comes after this one will not know of the shutdown");
            }
            stopping
        };
        let exit = machine.shut_down(stopping).await;
        self.exited(exit).await;
    }

    async fn exited(&mut self, exit: Exit) {
        let Some(machine) = self.machine.take() else { return };
        let launched = machine.launched();
        tracing::info!(guest = %launched.uid, reason = ?exit.reason, message = exit.message, "its QEMU ended");
        let (generation, started_at) = (launched.generation, machine.process().started_at);
        drop(machine);
        self.facts.running = None;
        self.ended(exit, generation, started_at);
        self.facts_file.write(&self.facts).await;
    }

    fn ended(&mut self, exit: Exit, generation: Generation, started_at: Timestamp) {
        self.vcpus = Vcpus::Unknown;
        let wait = self.backoff.ended(exit.reason, exit.time.duration_since(started_at));
        self.facts.failures = self.backoff.failures();
        self.retry_at = (!wait.is_zero()).then(|| after(wait));
        self.board.is_not("Running", "Ended", exit.message.clone());
        self.board.update(|status| {
            for condition in ["Booted", "Ready", "RestartRequired"] {
                status.conditions.clear(condition);
            }
        });
        self.facts.last_exit = Some(exit);
        self.facts.ended_generation = Some(generation);
    }

    async fn park(&mut self, spec: &GuestSpec) {
        match self.executor.park(spec).await {
            Ok(()) => self.holds_runtime = false,
            Err(failure) => self.try_again(failure).await,
        }
    }

    /// True: nothing is left.
    async fn release(&mut self, spec: &GuestSpec) -> bool {
        if let Err(failure) = self.executor.release(spec).await {
            self.try_again(failure).await;
            return false;
        }
        if let Err(error) = self.ledger.forget_guest(spec.uid).await {
            self.try_again(Failure::new("Deleting", "LedgerFailed", crate::errors::with_causes(&error))).await;
            return false;
        }
        tracing::info!(guest = %spec.uid, name = %spec.name, cluster = %spec.cluster, "deleted");
        self.board.wipe();
        true
    }

    async fn try_again(&mut self, failure: Failure) {
        self.board.is_not(failure.condition, failure.reason, failure.message);
        let time = after(self.backoff.failed());
        self.wait(Some(time)).await;
    }

    fn publish(&self, record: &GuestRecord, step: Option<Step>) {
        let situation = self.situation(&record.spec);
        let phase = phase(&desired(record), &situation, step);
        let reasons = self.machine.as_ref().map(|machine| machine.launched().restart_required_by(&record.spec));
        self.board.update(|status| {
            status.phase = phase;
            status.observed_generation = Some(record.spec.generation);
            status.running_generation = self.machine.as_ref().map(|machine| machine.launched().generation);
            let version = status.process.take().map(|process| process.qemu_version).unwrap_or_default();
            status.process = self.machine.as_ref().map(Machine::process).map(|mut process| {
                if process.qemu_version.is_empty() {
                    process.qemu_version = version;
                }
                process
            });
            status.image_digest = self.facts.image.as_ref().map(|image| image.digest.clone());
            status.mac_address = record.spec.network.as_ref().map(|_| record.spec.mac_address());
            status.restart_count = self.facts.restart_count;
            status.last_exit.clone_from(&self.facts.last_exit);
            status.next_attempt = if phase == GuestPhase::Backoff { self.retry_at } else { None };
            match situation.qemu {
                Qemu::Up { vcpus: Vcpus::Running, .. } => {
                    status.conditions.set("Running", True, "Running", "QMP says running");
                }
                Qemu::Up { vcpus: Vcpus::Paused, .. } => {
                    status.conditions.set("Running", False, "Paused", "QMP says that its vCPUs stand");
                }
                Qemu::Up { vcpus: Vcpus::Stuck(state), .. } => {
                    let message = format!(
                        "QEMU stopped the vCPUs itself: {state}; look at the host's disks, then resume or delete it"
                    );
                    status.conditions.set("Running", False, "Stuck", message);
                }
                _ => {}
            }
            match reasons.as_deref() {
                Some([]) | None => status.conditions.clear("RestartRequired"),
                Some(fields) => status.conditions.set(
                    "RestartRequired",
                    True,
                    "SpecChanged",
                    format!("{} take effect when the guest starts again", fields.join(", ")),
                ),
            }
            if record.deleting {
                status.conditions.set("Deleting", True, "Asked", "it is being deleted");
            }
        });
    }
}

fn desired(record: &GuestRecord) -> Desired {
    let lifecycle = &record.spec.lifecycle;
    Desired {
        goal: Goal::of(lifecycle.desired_state, record.deleting),
        generation: record.spec.generation,
        restart_policy: lifecycle.restart_policy,
        restart_on_change: lifecycle.restart_on_change,
    }
}

/// Where the guest is on its way, from what was seen and what is done next.
fn phase(desired: &Desired, situation: &Situation, step: Option<Step>) -> GuestPhase {
    match situation.qemu {
        Qemu::Stranger => GuestPhase::Quarantined,
        Qemu::Up { .. } if step == Some(Step::ShutDown) => GuestPhase::Stopping,
        Qemu::Up { stopping: true, .. } => GuestPhase::Stopping,
        Qemu::Up { vcpus: Vcpus::Running, .. } => GuestPhase::Running,
        Qemu::Up { vcpus: Vcpus::Paused | Vcpus::Stuck(_), .. } => GuestPhase::Paused,
        Qemu::Up { vcpus: Vcpus::Unknown, .. } => GuestPhase::Starting,
        Qemu::Absent => match (step, desired.goal) {
            (_, Goal::Gone) => GuestPhase::Stopping,
            (_, Goal::Stopped) => GuestPhase::Stopped,
            (Some(Step::Start), _) => GuestPhase::Preparing,
            (Some(Step::WaitUntil(_)), _) => GuestPhase::Backoff,
            _ if stays_ended(desired, situation) => match situation.ended.as_ref().map(|ended| ended.exit.reason) {
                Some(ExitReason::GuestShutdown) => GuestPhase::Stopped,
                _ => GuestPhase::Failed,
            },
            _ => GuestPhase::Accepted,
        },
    }
}

fn after(wait: std::time::Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    Timestamp::now().saturating_add(wait).unwrap_or(Timestamp::MAX)
}

async fn sleep_until(time: Timestamp) {
    let wait = time.duration_since(Timestamp::now());
    tokio::time::sleep(std::time::Duration::try_from(wait).unwrap_or_default()).await;
}

#[cfg(test)]
mod tests;
