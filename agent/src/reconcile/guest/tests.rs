//! The task against a simulated host: a QEMU there is a number, and the host counts them.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    ledger::{Change, Ledger},
    observed::{ChosenAccelerator, GuestStatus, Observed, ProcessStatus, ShutdownStep},
    spec::{DesiredState, Digest, RestartPolicy, test::guest},
};

/// What the simulated host has of one guest.
#[derive(Default)]
struct World {
    /// The QEMU that is there: its number, and where to send what is seen of it.
    qemu: Option<(i32, mpsc::UnboundedSender<MachineEvent>)>,
    spec: Option<GuestSpec>,
    stopping: Option<Stopping>,
    launches: i32,
    /// Fails the next preparations.
    broken_preparations: u32,
    /// Preparation never ends.
    preparation_hangs: bool,
    stranger: bool,
    released: bool,
}

#[derive(Clone, Default)]
struct Simulated(Arc<Mutex<World>>);

struct SimulatedMachine {
    world: Simulated,
    pid: i32,
    spec: GuestSpec,
    events: mpsc::UnboundedReceiver<MachineEvent>,
}

impl Simulated {
    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn machine(&self, pid: i32, spec: GuestSpec) -> SimulatedMachine {
        let (sender, events) = mpsc::unbounded_channel();
        sender.send(MachineEvent::Vcpus(Vcpus::Running)).unwrap();
        self.with(|world| world.qemu = Some((pid, sender)));
        SimulatedMachine { world: self.clone(), pid, spec, events }
    }

    fn qemu_ends(&self, reason: ExitReason) {
        let (_, events) = self.with(|world| world.qemu.take()).expect("no QEMU to end");
        let exit = Exit { reason, message: "simulated".to_owned(), time: Timestamp::now() };
        events.send(MachineEvent::Exited(exit)).unwrap();
    }
}

fn digest() -> Digest {
    Digest::from_sha256(&[7; 32])
}

impl Executor for Simulated {
    type Image = ();
    type Prepared = ();
    type Machine = SimulatedMachine;

    async fn discover(&self, _: &GuestSpec, _: &Arc<Board>) -> Discovery<SimulatedMachine> {
        let (stranger, qemu) = self.with(|world| (world.stranger, world.qemu.as_ref().map(|(pid, _)| *pid)));
        match qemu {
            _ if stranger => Discovery::Stranger("somebody else's".to_owned()),
            Some(pid) => {
                let spec = self.with(|world| world.spec.clone()).unwrap();
                Discovery::Found(self.machine(pid, spec))
            }
            None => Discovery::Nothing,
        }
    }

    async fn image(&self, _: &GuestSpec, _: Option<&Digest>, _: &Arc<Board>) -> Result<((), Digest), Failure> {
        Ok(((), digest()))
    }

    async fn prepare(&self, _: &GuestSpec, (): (), _: &Arc<Board>) -> Result<(), Failure> {
        if self.with(|world| world.preparation_hangs) {
            std::future::pending::<()>().await;
        }
        let broken = self.with(|world| {
            let broken = world.broken_preparations > 0;
            world.broken_preparations = world.broken_preparations.saturating_sub(1);
            broken
        });
        if broken { Err(Failure::new("ImageReady", "Unreachable", "simulated")) } else { Ok(()) }
    }

    async fn launch(&self, spec: &GuestSpec, (): (), _: &Arc<Board>) -> Result<SimulatedMachine, Failure> {
        let pid = self.with(|world| {
            assert!(world.qemu.is_none(), "a second QEMU of one uid");
            world.launches += 1;
            world.spec = Some(spec.clone());
            world.stopping = None;
            world.launches
        });
        Ok(self.machine(pid, spec.clone()))
    }

    async fn refresh(&self, _: &GuestSpec) {}

    async fn park(&self, _: &GuestSpec) -> Result<(), Failure> {
        assert!(self.with(|world| world.qemu.is_none()), "parked under a running QEMU");
        Ok(())
    }

    async fn release(&self, _: &GuestSpec) -> Result<(), Failure> {
        self.with(|world| {
            assert!(world.qemu.is_none(), "released under a running QEMU");
            world.released = true;
        });
        Ok(())
    }
}

impl Machine for SimulatedMachine {
    async fn next_event(&mut self) -> MachineEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    async fn resume(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn begin_stopping(&mut self, stopping: Stopping) -> Result<(), Failure> {
        self.world.with(|world| world.stopping = Some(stopping));
        Ok(())
    }

    async fn shut_down(&mut self, _: Stopping) -> Exit {
        self.world.with(|world| world.qemu = None);
        let reason = ExitReason::Stopped { step: ShutdownStep::PowerButton };
        Exit { reason, message: "simulated".to_owned(), time: Timestamp::now() }
    }

    fn stopping(&self) -> Option<Stopping> {
        self.world.with(|world| world.stopping)
    }

    fn launched(&self) -> &GuestSpec {
        &self.spec
    }

    fn process(&self) -> ProcessStatus {
        ProcessStatus {
            pid: self.pid,
            started_at: Timestamp::now(),
            accelerator: ChosenAccelerator::Tcg,
            qemu_version: String::new(),
        }
    }
}

/// One agent's life around one guest. Dropping it is a `kill -9` of the agent: the world stays.
struct Life {
    _directory: Arc<tempfile::TempDir>,
    ledger: Ledger,
    observed: Observed,
    record: watch::Sender<Arc<GuestRecord>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Life {
    async fn begin(world: &Simulated, directory: &Arc<tempfile::TempDir>, spec: GuestSpec) -> Self {
        let ledger = Ledger::open(&directory.path().join("ledger")).unwrap();
        let record = Arc::new(GuestRecord { spec, deleting: false });
        let put = Arc::clone(&record);
        ledger.update(move |_| Ok::<_, Infallible>((vec![Change::PutGuest(put)], ()))).await.unwrap();
        let observed = Observed::new();
        let board = Arc::new(Board::new(record.spec.uid, observed.clone()));
        let (sender, receiver) = watch::channel(record);
        let facts = FactsFile::in_directory(directory.path());
        let mut task = GuestTask::new(world.clone(), ledger.clone(), receiver, board, facts);
        task.discover().await;
        let task = tokio::spawn(task.run());
        Self { _directory: Arc::clone(directory), ledger, observed, record: sender, task }
    }

    fn change(&self, change: impl FnOnce(&mut GuestRecord)) {
        self.record.send_modify(|record| change(Arc::make_mut(record)));
    }

    fn status(&self) -> Option<Arc<GuestStatus>> {
        self.observed.guest(self.record.borrow().spec.uid).map(|seen| seen.status)
    }

    async fn until(&self, reached: impl Fn(Option<&GuestStatus>) -> bool) {
        let mut watch = self.observed.watch_guests(self.observed.guests().0).unwrap();
        let followed = async {
            while !reached(self.status().as_deref()) {
                watch.next().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(10), followed).await;
        assert!(reached.is_ok(), "not reached; the guest is {:#?}", self.status());
    }

    async fn phase(&self, phase: GuestPhase) {
        self.until(|status| status.is_some_and(|status| status.phase == phase)).await;
    }
}

fn directory() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn a_guest_comes_up_stops_and_leaves_nothing() {
    let (world, directory) = (Simulated::default(), directory());
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Running).await;
    assert_eq!(life.status().unwrap().image_digest, Some(digest()));

    life.change(|record| record.spec.lifecycle.desired_state = DesiredState::Stopped);
    life.phase(GuestPhase::Stopped).await;
    assert!(world.with(|world| world.qemu.is_none()));

    life.change(|record| record.deleting = true);
    life.until(|status| status.is_none()).await;
    assert!(world.with(|world| world.released));
    assert!(life.ledger.snapshot().guests.is_empty());
}

#[tokio::test]
async fn an_agent_that_is_killed_finds_its_guest_again_and_starts_no_second() {
    let (world, directory) = (Simulated::default(), directory());
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Running).await;
    drop(life);

    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Running).await;
    assert_eq!(world.with(|world| world.launches), 1);
    assert_eq!(life.status().unwrap().restart_count, 0);
}

#[tokio::test]
async fn an_end_that_nobody_watched_is_told_as_such_and_the_guest_starts_again() {
    let (world, directory) = (Simulated::default(), directory());
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.until(|status| status.is_some_and(|status| status.process.is_some())).await;
    life.phase(GuestPhase::Running).await;
    drop(life);
    world.with(|world| world.qemu = None);

    let life = Life::begin(&world, &directory, guest("a")).await;
    life.until(|status| status.is_some_and(|status| status.last_exit.is_some())).await;
    assert_eq!(life.status().unwrap().last_exit.as_ref().unwrap().reason, ExitReason::Unobserved);
    life.phase(GuestPhase::Running).await;
    assert_eq!(life.status().unwrap().restart_count, 1);
}

#[tokio::test]
async fn a_guest_that_ended_for_good_stays_ended_after_a_restart_of_the_agent() {
    let (world, directory) = (Simulated::default(), directory());
    let mut spec = guest("a");
    spec.lifecycle.restart_policy = RestartPolicy::Never;
    let life = Life::begin(&world, &directory, spec.clone()).await;
    life.phase(GuestPhase::Running).await;
    world.qemu_ends(ExitReason::GuestPanic);
    life.phase(GuestPhase::Failed).await;
    drop(life);

    let life = Life::begin(&world, &directory, spec).await;
    life.phase(GuestPhase::Failed).await;
    assert_eq!(world.with(|world| world.launches), 1);
}

#[tokio::test]
async fn a_shutdown_goes_on_after_a_restart_of_the_agent() {
    let (world, directory) = (Simulated::default(), directory());
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Running).await;
    drop(life);
    let begun = Stopping { since: Timestamp::now(), grace: Duration::from_mins(1) };
    world.with(|world| world.stopping = Some(begun));

    let mut spec = guest("a");
    spec.lifecycle.desired_state = DesiredState::Stopped;
    let life = Life::begin(&world, &directory, spec).await;
    life.phase(GuestPhase::Stopped).await;
    assert!(world.with(|world| world.qemu.is_none()));
}

#[tokio::test]
async fn a_stranger_is_left_alone_even_by_a_deletion() {
    let (world, directory) = (Simulated::default(), directory());
    world.with(|world| world.stranger = true);
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Quarantined).await;
    life.change(|record| record.deleting = true);
    life.until(|status| status.is_some_and(|status| status.conditions.is_true("Deleting"))).await;
    assert_eq!(life.status().unwrap().phase, GuestPhase::Quarantined);
    assert_eq!(world.with(|world| (world.launches, world.released)), (0, false));
}

#[tokio::test]
async fn a_deletion_does_not_wait_for_a_preparation_that_hangs() {
    let (world, directory) = (Simulated::default(), directory());
    world.with(|world| world.preparation_hangs = true);
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Preparing).await;
    life.change(|record| record.deleting = true);
    life.until(|status| status.is_none()).await;
}

#[tokio::test]
async fn a_step_that_fails_is_a_condition_and_is_tried_again() {
    let (world, directory) = (Simulated::default(), directory());
    world.with(|world| world.broken_preparations = 1);
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Backoff).await;
    let status = life.status().unwrap();
    assert_eq!(status.conditions.get("ImageReady").unwrap().reason, "Unreachable");
    assert!(status.next_attempt.is_some());
    life.phase(GuestPhase::Running).await;
}

#[tokio::test]
async fn a_changed_spec_waits_for_a_restart_unless_it_may_do_one() {
    let (world, directory) = (Simulated::default(), directory());
    let life = Life::begin(&world, &directory, guest("a")).await;
    life.phase(GuestPhase::Running).await;
    life.change(|record| {
        record.spec.machine.vcpus = 2;
        record.spec.generation = Generation::try_from(2).unwrap();
    });
    life.until(|status| status.is_some_and(|status| status.conditions.is_true("RestartRequired"))).await;
    assert_eq!(world.with(|world| world.launches), 1);

    life.change(|record| record.spec.lifecycle.restart_on_change = true);
    let is_second = |status: &GuestStatus| status.running_generation == Generation::try_from(2).ok();
    life.until(|status| status.is_some_and(is_second)).await;
    assert_eq!(world.with(|world| world.launches), 2);
}
