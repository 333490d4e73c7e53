//! A QEMU that is there, as its guest's task sees it.

use std::time::Duration;

use tokio::{
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    ending::Omens,
    medium::{CertificateDrive, News},
};
use crate::{
    errors::with_causes,
    observed::{ChosenAccelerator, Exit, ExitReason, ProcessStatus, ShutdownStep},
    qemu::{
        GuestPaths, Process, ProcessExit, ProcessRecord, Qmp, QmpError, QmpEvent, QmpEvents, QmpLimits, ShutdownPlan,
        VcpuAccelerator,
        arguments::Listener,
        qmp::schema::{self, Event, RunState},
        shut_down,
    },
    reconcile::{
        executor::{Failure, Machine, MachineEvent, Stopping},
        plan::Vcpus,
        session::{Session, SessionFile},
    },
    spec::GuestSpec,
};

/// How often QMP is asked, so that a QEMU that hangs is seen though it says nothing.
const CHECKED_EVERY: Duration = Duration::from_secs(10);
/// Between the end of QEMU's process and the end of its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(in crate::reconcile) struct HostMachine {
    process: Process,
    record: ProcessRecord,
    /// None: it was lost, or could not be made yet.
    connection: Option<(Qmp, QmpEvents)>,
    /// The same for those who watch the guest.
    qmp: watch::Sender<Option<Qmp>>,
    paths: GuestPaths,
    session_file: SessionFile,
    session: Session,
    omens: Omens,
    /// What others saw of it: that it booted, that its volume's process ended.
    reports: mpsc::Receiver<MachineEvent>,
    /// What the connection knew from its start, until it was handed on.
    first: Option<RunState>,
    /// The state of the vCPUs is to be asked for. Set until the answer was handed on, so that a cancelled question is
    /// asked again.
    ask: bool,
    last: Option<Vcpus>,
    check: tokio::time::Interval,
    /// None: the guest has its certificates by virtiofs, or has none.
    drive: Option<CertificateDrive>,
    /// A change of its medium failed and is to be tried again.
    retry_drive: bool,
}

/// What a machine is made of.
pub(super) struct Parts {
    pub(super) process: Process,
    pub(super) record: ProcessRecord,
    pub(super) connection: Option<(Qmp, QmpEvents)>,
    /// The same for those who watch the guest.
    pub(super) qmp: watch::Sender<Option<Qmp>>,
    pub(super) paths: GuestPaths,
    pub(super) session: Session,
    pub(super) reports: mpsc::Receiver<MachineEvent>,
    pub(super) drive: Option<CertificateDrive>,
}

impl HostMachine {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { process, record, connection, qmp, paths, session, reports, drive } = parts;
        let mut check = interval_at(Instant::now() + CHECKED_EVERY, CHECKED_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = connection.as_ref().and_then(|(qmp, _)| qmp.first_status());
        Self {
            process,
            record,
            connection,
            first,
            qmp,
            session_file: SessionFile::in_directory(paths.runtime()),
            paths,
            session,
            omens: Omens::default(),
            reports,
            ask: true,
            last: None,
            check,
            drive,
            retry_drive: false,
        }
    }

    fn qmp(&self) -> Result<&Qmp, QmpError> {
        let lost = || QmpError::Disconnected { reason: "there is no connection now".into() };
        self.connection.as_ref().map(|(qmp, _)| qmp).ok_or_else(lost)
    }

    async fn ask(&mut self) -> Option<MachineEvent> {
        let answer = match (self.first.take(), self.qmp()) {
            (Some(status), _) => Ok(status),
            (None, Ok(qmp)) => qmp.execute(schema::query_status {}).await.map(|answer| answer.status),
            (None, Err(lost)) => Err(lost),
        };
        self.ask = false;
        match answer {
            Ok(status) => {
                let vcpus = vcpus(status);
                (self.last.replace(vcpus) != Some(vcpus)).then_some(MachineEvent::Vcpus(vcpus))
            }
            Err(error) => {
                self.last = None;
                Some(MachineEvent::Silent(with_causes(&error)))
            }
        }
    }

    /// Gives QEMU the newest certificate disk.
    async fn refresh_drive(&mut self) -> Option<MachineEvent> {
        let (Some(drive), Some((qmp, _))) = (&mut self.drive, &self.connection) else { return None };
        let news = if self.retry_drive { drive.retry(qmp).await } else { drive.refresh(qmp).await };
        self.retry_drive = false;
        news.map(|news| match news {
            News::Stale(reason) => MachineEvent::CertificatesStale(reason),
            News::Mended => MachineEvent::CertificatesFresh,
        })
    }

    /// A connection that was lost while QEMU lives is made again.
    async fn connect_again(&mut self) {
        if self.connection.is_none()
            && let Ok((qmp, events)) = Qmp::connect(&self.paths.socket(Listener::Qmp), QmpLimits::default()).await
        {
            self.qmp.send_replace(Some(qmp.clone()));
            self.connection = Some((qmp, events));
        }
    }

    /// Hears what QEMU said last, then says what ended it.
    async fn explain(&mut self, exit: ProcessExit) -> Exit {
        let last_words = async {
            let Some((_, events)) = &mut self.connection else { return };
            loop {
                match events.recv().await {
                    Ok(event) => self.omens.hear(&event),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        };
        // What does not come by then does not come.
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        self.omens.explain(exit)
    }

    fn failure(what: &str, error: &QmpError) -> Failure {
        Failure::new("Running", "QmpFailed", format!("cannot {what} it: {}", with_causes(error)))
    }
}

/// Whether an event may mean another state of the vCPUs.
fn concerns_vcpus(event: &QmpEvent) -> bool {
    match event {
        QmpEvent::Known(event) => {
            matches!(
                event.as_ref(),
                Event::STOP { .. } | Event::RESUME { .. } | Event::BLOCK_IO_ERROR { .. } | Event::GUEST_PANICKED { .. }
            )
        }
        QmpEvent::Other { .. } => false,
    }
}

fn vcpus(state: RunState) -> Vcpus {
    match state {
        RunState::running => Vcpus::Running,
        RunState::paused | RunState::prelaunch | RunState::suspended => Vcpus::Paused,
        RunState::io_error => Vcpus::Stuck("io-error"),
        RunState::internal_error => Vcpus::Stuck("internal-error"),
        RunState::watchdog => Vcpus::Stuck("watchdog"),
        RunState::guest_panicked => Vcpus::Stuck("guest-panicked"),
        // It is about to end, or is being moved by somebody: not ours to judge.
        _ => Vcpus::Unknown,
    }
}

impl Machine for HostMachine {
    async fn next_event(&mut self) -> MachineEvent {
        loop {
            if self.ask
                && let Some(event) = self.ask().await
            {
                return event;
            }
            if let Some(event) = self.refresh_drive().await {
                return event;
            }
            let renewed = async {
                match &mut self.drive {
                    Some(drive) => drive.changed().await,
                    None => std::future::pending().await,
                }
            };
            let heard = async {
                match &mut self.connection {
                    Some((_, events)) => events.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                exit = self.process.wait_exit() => {
                    let exit = self.explain(exit).await;
                    return MachineEvent::Exited(exit);
                }
                event = heard => match event {
                    Ok(event) => {
                        self.omens.hear(&event);
                        self.ask |= concerns_vcpus(&event);
                    }
                    Err(RecvError::Lagged(_)) => self.ask = true,
                    // QEMU ends, which is seen above in a moment, or it broke the protocol: the process decides.
                    Err(RecvError::Closed) => {
                        self.connection = None;
                        self.qmp.send_replace(None);
                        self.ask = true;
                    }
                },
                Some(report) = self.reports.recv() => return report,
                // Looked at above.
                () = renewed => {}
                _ = self.check.tick() => {
                    self.connect_again().await;
                    self.ask = true;
                    self.retry_drive = true;
                }
            }
        }
    }

    async fn resume(&mut self) -> Result<(), Failure> {
        let done = async { self.qmp()?.execute(schema::cont {}).await };
        done.await.map(drop).map_err(|error| Self::failure("resume", &error))
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        let done = async { self.qmp()?.execute(schema::stop {}).await };
        done.await.map(drop).map_err(|error| Self::failure("pause", &error))
    }

    async fn begin_stopping(&mut self, stopping: Stopping) -> Result<(), Failure> {
        self.session.stopping = Some(stopping);
        let (file, session) = (self.session_file.clone(), self.session.clone());
        let written = tokio::task::spawn_blocking(move || file.write(&session)).await;
        match written {
            Ok(Err(reason)) => Err(Failure::new("Running", "SessionNotWritten", reason.to_string())),
            _ => Ok(()),
        }
    }

    async fn shut_down(&mut self, stopping: Stopping) -> Exit {
        self.connect_again().await;
        let plan = ShutdownPlan { started_at: stopping.since, grace: stopping.grace };
        let socket = self.paths.socket(Listener::GuestAgent);
        let step = loop {
            let qmp = self.connection.as_ref().map(|(qmp, _)| qmp);
            match shut_down(&self.process, qmp, &socket, plan).await {
                Ok(end) => break end.step,
                Err(error) => {
                    tracing::error!(guest = %self.session.spec.uid, error = with_causes(&error), "the kernel does not kill its QEMU; trying again");
                    tokio::time::sleep(CHECKED_EVERY).await;
                }
            }
        };
        let message = match step {
            ShutdownStep::PowerButton => "stopped by its power button",
            ShutdownStep::GuestAgent => "stopped through its guest agent, after the power button had not done it",
            ShutdownStep::Quit => "ended by QMP quit: neither power button nor guest agent had done it in time",
            ShutdownStep::Kill => "killed: QEMU itself did not answer any more",
        };
        Exit { reason: ExitReason::Stopped { step }, message: message.to_owned(), time: jiff::Timestamp::now() }
    }

    fn stopping(&self) -> Option<Stopping> {
        self.session.stopping
    }

    fn launched(&self) -> &GuestSpec {
        &self.session.spec
    }

    fn process(&self) -> ProcessStatus {
        ProcessStatus {
            pid: self.record.pid,
            started_at: self.record.started_at,
            accelerator: match self.record.accelerator {
                VcpuAccelerator::Kvm { .. } => ChosenAccelerator::Kvm,
                VcpuAccelerator::Tcg => ChosenAccelerator::Tcg,
            },
            qemu_version: self.qmp().map(|qmp| qmp.version().to_owned()).unwrap_or_default(),
        }
    }
}
