//! Carries out the steps of one guest on this host.

mod certificates;
mod ending;
mod machine;
mod machine_config;
mod medium;
mod prepare;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use self::{
    certificates::Certificates,
    machine::{HostMachine, Parts},
    medium::CertificateDrive,
    prepare::Prepared,
};
use super::{
    board::Board,
    executor::{Discovery, Executor, Failure, MachineEvent},
    facts::Facts,
    rooms::Rooms,
    session::{Session, SessionFile},
};
use crate::{
    certs::{CertificateKeeper, Virtiofsd},
    errors::with_causes,
    files,
    image::{Image, ImageLease},
    network::Port,
    qemu::{
        self, BootWatch, ConsoleLog, GuestPaths, Process, Qmp, QmpLimits, Running, arguments::Listener, discover,
        is_guest,
    },
    spec::{ByteSize, CertificateVolume, Digest, GuestSpec, GuestUid},
};

/// QEMU and its virtiofsd end together within this time.
const TOGETHER: Duration = Duration::from_secs(2);

/// One guest's hands. Clones share what it holds.
#[derive(Clone)]
pub(super) struct HostExecutor {
    shared: Arc<Shared>,
}

struct Shared {
    uid: GuestUid,
    rooms: Arc<Rooms>,
    paths: GuestPaths,
    certificates: Certificates,
    /// Keeps the guest's image from being collected.
    lease: Mutex<Option<ImageLease>>,
}

impl HostExecutor {
    pub(super) fn new(uid: GuestUid, rooms: Arc<Rooms>) -> Self {
        let paths = rooms.launcher.paths(uid);
        Self {
            shared: Arc::new(Shared {
                uid,
                rooms,
                paths,
                certificates: Certificates::default(),
                lease: Mutex::new(None),
            }),
        }
    }

    pub(super) fn paths(&self) -> &GuestPaths {
        &self.shared.paths
    }

    /// The guest's certificates, while they are kept.
    pub(super) fn certificates(&self) -> Option<Arc<CertificateKeeper>> {
        self.shared.certificates.keeper()
    }

    /// Keeps the image that the guest was started from, before garbage can be collected.
    pub(super) fn lease_known_image(&self, facts: &Facts) {
        if let Some(image) = &facts.image {
            self.lease(&image.digest);
        }
    }

    fn lease(&self, digest: &Digest) -> bool {
        let lease = self.shared.rooms.images.lease(digest, self.shared.uid);
        let leased = lease.is_some();
        if leased {
            *self.shared.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
        }
        leased
    }

    /// Watches for the guest's word that it booted, and for the end of its volume's process.
    fn watch(
        &self,
        process: &Process,
        qmp: watch::Receiver<Option<Qmp>>,
        has_virtiofs: bool,
    ) -> mpsc::Receiver<MachineEvent> {
        let (reports, receiver) = mpsc::channel(4);
        let boot = BootWatch::start(self.shared.paths.clone(), process.clone(), qmp);
        tokio::spawn(tell_boot(boot, reports.clone()));
        let log = ConsoleLog::new(
            self.shared.paths.console_log(),
            ByteSize::bytes(self.shared.rooms.qemu.console_log_kib.saturating_mul(1 << 10)),
        );
        tokio::spawn(keep_bounded(log, self.shared.uid, reports.clone()));
        if has_virtiofs {
            tokio::spawn(watch_volume(self.shared.paths.clone(), process.clone(), reports));
        }
        receiver
    }

    /// What keeps the certificate drive of a QEMU that was started with a spec, if it has one.
    fn drive(&self, launched: &GuestSpec) -> Option<CertificateDrive> {
        let keeper = self.certificates().filter(|_| has_volume(launched, CertificateVolume::Disk))?;
        Some(CertificateDrive::new(keeper.state()))
    }

    fn port(spec: &GuestSpec) -> Option<Port> {
        let network = spec.network.as_ref()?;
        Some(Port { uid: spec.uid, address: network.address, mac: spec.mac_address() })
    }
}

impl Executor for HostExecutor {
    type Image = Arc<Image>;
    type Prepared = Prepared;
    type Machine = HostMachine;

    async fn discover(&self, spec: &GuestSpec, board: &Arc<Board>) -> Discovery<HostMachine> {
        let (process, record) = match discover(&self.shared.paths, spec.uid).await {
            Ok(qemu::Discovery::None) => return Discovery::Nothing,
            Ok(qemu::Discovery::Stranger { reason, pids }) => {
                return Discovery::Stranger(format!("{reason}; its lock is held by process {pids:?}"));
            }
            Ok(qemu::Discovery::Running(process, record)) => (process, record),
            // Whether there is one cannot be known, so nothing may be started.
            Err(error) => return Discovery::Stranger(with_causes(&error)),
        };
        let connection = match Qmp::connect(&self.shared.paths.socket(Listener::Qmp), QmpLimits::default()).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                // The lock and the start time say that it is ours; that it is silent is its condition.
                tracing::warn!(guest = %spec.uid, error = with_causes(&error), "its QEMU does not answer");
                None
            }
        };
        if let Some((qmp, _)) = &connection
            && let Ok(false) = is_guest(qmp, spec.uid).await
        {
            return Discovery::Stranger(format!("process {} runs a machine of another uid", record.pid));
        }
        let session = match SessionFile::in_directory(self.shared.paths.runtime()).read() {
            Ok(session) => session,
            // It is ours, and what it was started with is not known: as if it were what is wanted now.
            Err(reason) => {
                tracing::warn!(guest = %spec.uid, %reason, "no session of a running QEMU; it is taken for what is wanted");
                Session { spec: spec.clone(), stopping: None }
            }
        };
        if let Some(port) = Self::port(&session.spec) {
            self.shared.rooms.networks.adopt(&spec.cluster, port).await;
        }
        if !spec.certificates.is_empty() {
            let (volume, places) = (session.spec.certificate_volume, self.certificate_places());
            self.shared.certificates.keep(spec, volume, &places, &self.shared.rooms.issuers, board).await;
        }
        let has_virtiofs = has_volume(&session.spec, CertificateVolume::Virtiofs);
        let qmp = watch::Sender::new(connection.as_ref().map(|(qmp, _)| qmp.clone()));
        let reports = self.watch(&process, qmp.subscribe(), has_virtiofs);
        let (drive, paths) = (self.drive(&session.spec), self.shared.paths.clone());
        Discovery::Found(HostMachine::new(Parts { process, record, connection, qmp, paths, session, reports, drive }))
    }

    async fn image(
        &self,
        spec: &GuestSpec,
        known: Option<&Digest>,
        board: &Arc<Board>,
    ) -> Result<(Arc<Image>, Digest), Failure> {
        self.directories()?;
        let image = self.pull_image(spec, known, board).await?;
        let digest = image.digest.clone();
        Ok((image, digest))
    }

    async fn prepare(&self, spec: &GuestSpec, image: Arc<Image>, board: &Arc<Board>) -> Result<Prepared, Failure> {
        self.prepare_all(spec, &image, board).await
    }

    async fn launch(&self, spec: &GuestSpec, prepared: Prepared, board: &Arc<Board>) -> Result<HostMachine, Failure> {
        let refused = |reason, message| Failure { condition: "Running", reason, message, launch: true };
        // Before QEMU: an agent that dies in between finds a session without a QEMU, and overwrites it.
        let session = Session { spec: spec.clone(), stopping: None };
        SessionFile::in_directory(self.shared.paths.runtime()).write(&session).map_err(|reason| {
            refused("SessionNotWritten", format!("{}: {reason}", self.shared.paths.runtime().display()))
        })?;
        board.unknown("Running", "Starting", "QEMU was started and did not say `running` yet");
        let launched = self.shared.rooms.launcher.launch(prepared.machine, prepared.handed).await;
        let running = launched.map_err(|error| refused("LaunchFailed", with_causes(&error)))?;
        let Running { process, record, qmp, events } = running;
        let (connection, qmp) = (Some((qmp.clone(), events)), watch::Sender::new(Some(qmp)));
        let reports = self.watch(&process, qmp.subscribe(), has_volume(spec, CertificateVolume::Virtiofs));
        let (drive, paths) = (self.drive(spec), self.shared.paths.clone());
        Ok(HostMachine::new(Parts { process, record, connection, qmp, paths, session, reports, drive }))
    }

    async fn refresh(&self, spec: &GuestSpec) {
        if let Some(keeper) = self.shared.certificates.keeper() {
            keeper.update(spec.certificates.clone()).await;
        }
    }

    async fn park(&self, spec: &GuestSpec) -> Result<(), Failure> {
        self.shared.certificates.leave();
        if spec.network.is_some() {
            self.shared.rooms.networks.detach(&spec.cluster, spec.uid).await;
        }
        SessionFile::in_directory(self.shared.paths.runtime())
            .remove()
            .map_err(|reason| Failure::new("VolumesReady", "SessionNotRemoved", reason.to_string()))
    }

    async fn release(&self, spec: &GuestSpec) -> Result<(), Failure> {
        self.park(spec).await?;
        let directories = [self.shared.paths.runtime().to_owned(), self.shared.paths.state().to_owned()];
        let removed = tokio::task::spawn_blocking(move || {
            for directory in &directories {
                files::remove_directory(directory).map_err(|reason| format!("{}: {reason}", directory.display()))?;
            }
            Ok::<_, String>(())
        });
        if let Err(message) = removed.await.unwrap_or_else(|reason| Err(reason.to_string())) {
            return Err(Failure::new("Deleting", "FilesNotRemoved", message));
        }
        self.shared.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}

impl fmt::Debug for HostExecutor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HostExecutor").field("uid", &self.shared.uid).finish_non_exhaustive()
    }
}

async fn tell_boot(mut boot: BootWatch, reports: mpsc::Sender<MachineEvent>) {
    tokio::select! {
        booted = boot.booted() => {
            // Nobody hears it when the machine is gone by then.
            let _ = reports.send(MachineEvent::Booted(booted.signal.to_string())).await;
        }
        () = reports.closed() => {}
    }
}

/// Whether a QEMU that was started with a spec shows certificates in this way.
fn has_volume(launched: &GuestSpec, volume: CertificateVolume) -> bool {
    !launched.certificates.is_empty() && launched.certificate_volume == volume
}

/// QEMU itself appends to the console's log, and a guest can write without end.
async fn keep_bounded(log: ConsoleLog, uid: GuestUid, reports: mpsc::Sender<MachineEvent>) {
    tokio::select! {
        Err(reason) = log.keep_bounded() => {
            tracing::warn!(guest = %uid, %reason, "its console log is not kept bounded any more");
        }
        () = reports.closed() => {}
    }
}

/// Tells when the process behind a running guest's certificate volume ends.
async fn watch_volume(paths: GuestPaths, process: Process, reports: mpsc::Sender<MachineEvent>) {
    let lost = match Virtiofsd::find(paths.runtime()) {
        Ok(Some(virtiofsd)) => {
            tokio::select! {
                exit = virtiofsd.ended() => format!("virtiofsd ended with {exit}: {}", virtiofsd.said()),
                () = reports.closed() => return,
            }
        }
        Ok(None) => "there is no virtiofsd".to_owned(),
        Err(error) => with_causes(&error),
    };
    // It ends with its QEMU, which is no fault.
    if tokio::time::timeout(TOGETHER, process.wait_exit()).await.is_err() {
        let message = format!("{lost}; the guest cannot read its certificates any more: restart the guest to mend it");
        let _ = reports.send(MachineEvent::VolumeLost(message)).await;
    }
}
