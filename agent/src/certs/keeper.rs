//! One task a guest owns the guest's certificates: it has them issued, lays them down, and renews them while the guest
//! runs.
//!
//! ```text
//!            issued                    two thirds of the life over: issued again
//!  Missing ----------> Valid <------------------------------------------------+
//!                        |  the spec changed          issued                  |
//!                        +-------------------> Outdated ----------------------+
//!                        |  never renewed             issued                  |
//!                        +-------------------> Expired -----------------------+
//! ```
//!
//! A failure is a part of the state, never an end: the task tries again with growing delays for as long as it lives.

mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{info, warn};

pub use state::{CertificateInfo, CertificateState, DiskState, Failure, KeeperState, Warning};

use super::{
    check,
    issuer::{IssueError, IssuedCertificate, Issuers},
    schedule::{Urgency, next_attempt, next_renewal},
    volume::{Held, Issued, Record, Volume, VolumeError},
};
use crate::{
    files,
    spec::{CertificateName, CertificateRequest, ClusterName, GuestUid},
};

/// Clocks are set and machines sleep: no wait is trusted for longer.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// A full tmpfs is the one thing that keeps a disk from being written.
const DISK_RETRY: Duration = Duration::from_secs(5);
/// More commands than anybody has for one guest.
const COMMANDS: usize = 16;

/// What a keeper needs.
pub struct KeeperConfig {
    /// Whose certificates these are, for logs.
    pub uid: GuestUid,
    /// The guest's.
    pub cluster: ClusterName,
    /// The guest's certificate directory, on a tmpfs; made if it is not there.
    pub directory: PathBuf,
    /// Where disk images of the certificates go, on a tmpfs; made if it is needed.
    pub images: PathBuf,
    /// Whether there is a disk image, for a guest without virtiofs: as new as the state that is shown.
    pub on_disk: bool,
    /// What the guest needs; names differ.
    pub requests: Vec<CertificateRequest>,
    /// The host's.
    pub issuers: Issuers,
}

/// A guest's certificates, kept. When it is dropped the task ends and the files stay.
#[derive(Debug)]
pub struct CertificateKeeper {
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<KeeperState>,
    task: JoinHandle<()>,
    directory: PathBuf,
    images: PathBuf,
}

/// Why certificates were not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The guest's spec has no such certificate.
    #[error("the guest has no certificate `{0}`")]
    UnknownName(CertificateName),
    /// The issuer did not issue it; the guest keeps the one it has.
    #[error("certificate `{name}` was not renewed: {failure}")]
    Failed {
        /// Which.
        name: CertificateName,
        /// Why.
        failure: Failure,
    },
    /// Renewal goes on behind.
    #[error("the certificates were not renewed within {0:?}; it is still being tried")]
    TimedOut(Duration),
    /// The guest is going.
    #[error("the guest's certificates are kept no longer")]
    Stopped,
}

enum Command {
    Update(Vec<CertificateRequest>),
    LayOnDisk(bool),
    Rotate { names: BTreeSet<CertificateName>, reply: oneshot::Sender<Result<(), RotateError>> },
    Stop,
}

impl CertificateKeeper {
    /// Starts the guest's task: it takes up what is in the directory and issues what is missing.
    pub fn start(config: KeeperConfig) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let requests = by_name(config.requests);
        let (publish, state) = watch::channel(KeeperState::all_missing(requests.keys(), config.on_disk));
        let (directory, images) = (config.directory.clone(), config.images.clone());
        let task = Task {
            uid: config.uid,
            cluster: config.cluster,
            directory: config.directory,
            images: config.images,
            disk: if config.on_disk { DiskState::Pending(None) } else { DiskState::NotWanted },
            issuers: config.issuers,
            place: Place::Closed { failures: 0, retry: Timestamp::MIN },
            slots: requests.into_iter().map(|(name, request)| (name, Slot::new(request))).collect(),
            rotations: Vec::new(),
            publish,
        };
        Self { commands, state, task: tokio::spawn(task.run(receiver)), directory, images }
    }

    /// What is there and what is not; it changes as that does.
    pub fn state(&self) -> watch::Receiver<KeeperState> {
        self.state.clone()
    }

    /// What the guest holds now.
    pub fn list(&self) -> Vec<CertificateInfo> {
        self.state.borrow().infos()
    }

    /// A changed spec: what is new or differs is issued at once, what is no longer asked for leaves the volume.
    pub async fn update(&self, requests: Vec<CertificateRequest>) {
        // A task that ended has nothing to update.
        let _ = self.commands.send(Command::Update(requests)).await;
    }

    /// Whether the certificates are on a disk image too. No QEMU may show one when they are not any more.
    pub async fn lay_on_disk(&self, on_disk: bool) {
        let _ = self.commands.send(Command::LayOnDisk(on_disk)).await;
    }

    /// Renews now; no names: all.
    pub async fn rotate(
        &self,
        names: &[CertificateName],
        timeout: Duration,
    ) -> Result<Vec<CertificateInfo>, RotateError> {
        let names: BTreeSet<CertificateName> = names.iter().cloned().collect();
        let (reply, answer) = oneshot::channel();
        let rotation = async {
            let command = Command::Rotate { names: names.clone(), reply };
            self.commands.send(command).await.map_err(|_| RotateError::Stopped)?;
            answer.await.map_err(|_| RotateError::Stopped)?
        };
        tokio::time::timeout(timeout, rotation).await.map_err(|_| RotateError::TimedOut(timeout))??;
        Ok(self.list().into_iter().filter(|info| names.is_empty() || names.contains(&info.name)).collect())
    }

    /// Ends the task; the files stay for the guest and for a later agent.
    pub async fn stop(self) {
        let _ = self.commands.send(Command::Stop).await;
        if let Err(reason) = self.task.await {
            warn!(%reason, directory = %self.directory.display(), "the certificate task had ended before it was asked to");
        }
    }

    /// Ends the task and removes the directory and the disk images.
    pub async fn remove(self) -> Result<(), VolumeError> {
        let (directory, images) = (self.directory.clone(), self.images.clone());
        self.stop().await;
        blocking(move || {
            Volume::remove(&directory)?;
            remove_images(&images)
        })
        .await
    }
}

/// One certificate that the spec asks for.
struct Slot {
    request: CertificateRequest,
    failures: u32,
    last_failure: Option<Failure>,
    /// Drawn anew for each issuance and each failure.
    jitter: f64,
    in_flight: bool,
    /// Asked for by hand: due now, whatever its age.
    rotate: bool,
    /// Not before this, after a failure.
    not_before: Option<Timestamp>,
}

impl Slot {
    fn new(request: CertificateRequest) -> Self {
        Self {
            request,
            failures: 0,
            last_failure: None,
            jitter: jitter(),
            in_flight: false,
            rotate: false,
            not_before: None,
        }
    }

    /// When it is to be issued, given what the volume holds of it.
    fn due(&self, held: Option<&Held>, now: Timestamp) -> Timestamp {
        if self.rotate {
            return now;
        }
        if let Some(not_before) = self.not_before {
            return not_before;
        }
        match held {
            Some(held) if held.record.request == self.request => next_renewal(held.lifetime(), now, 0, self.jitter),
            _ => now,
        }
    }

    fn failed(&mut self, failure: Failure, held: Option<&Held>, now: Timestamp) {
        let current = held.filter(|held| held.record.request == self.request);
        let renewal = current.map(|held| next_renewal(held.lifetime(), now, 0, self.jitter));
        self.rotate = false;
        self.last_failure = Some(failure);
        // A rotation that was asked for early and failed is over: the regular renewal has its own time.
        if renewal.is_some_and(|renewal| renewal > now) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.jitter = jitter();
        self.not_before = Some(match current {
            Some(held) => next_renewal(held.lifetime(), now, self.failures, self.jitter),
            None => next_attempt(now, self.failures, self.jitter),
        });
    }

    fn succeeded(&mut self) {
        *self = Self { in_flight: self.in_flight, ..Self::new(self.request.clone()) };
    }
}

struct Rotation {
    waiting: BTreeSet<CertificateName>,
    reply: oneshot::Sender<Result<(), RotateError>>,
}

/// An issuance that came to its end: for which request, and what came.
struct Finished {
    request: CertificateRequest,
    result: Result<IssuedCertificate, IssueError>,
}

struct Task {
    uid: GuestUid,
    cluster: ClusterName,
    directory: PathBuf,
    images: PathBuf,
    disk: DiskState,
    issuers: Issuers,
    place: Place,
    slots: BTreeMap<CertificateName, Slot>,
    rotations: Vec<Rotation>,
    publish: watch::Sender<KeeperState>,
}

/// The guest's directory.
enum Place {
    Open(Volume),
    /// It could not be opened, this often, and is tried again then.
    Closed {
        failures: u32,
        retry: Timestamp,
    },
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut running: FuturesUnordered<BoxFuture<'static, Finished>> = FuturesUnordered::new();
        loop {
            self.open().await;
            self.drop_unwanted().await;
            self.lay_disk().await;
            running.extend(self.launch(Timestamp::now()));
            self.show(Timestamp::now());
            let sleep = tokio::time::sleep(self.until_next(Timestamp::now()));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Update(requests)) => self.update(requests),
                    Some(Command::LayOnDisk(on_disk)) => self.lay_on_disk(on_disk).await,
                    Some(Command::Rotate { names, reply }) => self.rotate(names, reply),
                    Some(Command::Stop) | None => return,
                },
                Some(finished) = running.next() => {
                    let mut batch = vec![finished];
                    // Those that came together are shown together.
                    while let Some(Some(finished)) = running.next().now_or_never() {
                        batch.push(finished);
                    }
                    self.finish(batch).await;
                }
                () = sleep => {}
            }
        }
    }

    async fn open(&mut self) {
        let now = Timestamp::now();
        let Place::Closed { failures, retry } = self.place else { return };
        if retry > now {
            return;
        }
        let directory = self.directory.clone();
        self.place = match blocking(move || Volume::open(&directory)).await {
            Ok(volume) => Place::Open(volume),
            Err(reason) => {
                let failure = Failure::of_volume(&reason);
                warn!(guest = %self.uid, reason = %failure, "certificates cannot be laid down");
                for slot in self.slots.values_mut() {
                    slot.last_failure = Some(failure.clone());
                }
                let names: Vec<CertificateName> = self.slots.keys().cloned().collect();
                for name in names {
                    self.tell_rotations(&name, Some(&failure));
                }
                let failures = failures.saturating_add(1);
                Place::Closed { failures, retry: next_attempt(now, failures, jitter()) }
            }
        };
    }

    /// Has a disk image of the present generation, where one is wanted: an agent before this one may not have come to
    /// it.
    async fn lay_disk(&mut self) {
        match (&self.disk, &self.place) {
            (DiskState::NotWanted, _) | (_, Place::Closed { .. }) => return,
            (DiskState::Laid(disk), Place::Open(volume)) if disk.generation == volume.generation() => return,
            _ => {}
        }
        let images = self.images.clone();
        let Some(laid) = self.with_volume(move |volume| volume.lay_disk(&images)).await else { return };
        self.disk = match laid.flatten() {
            Ok(disk) => DiskState::Laid(disk),
            Err(reason) => {
                let failure = Failure::of_volume(&reason);
                warn!(guest = %self.uid, reason = %failure, "the certificate disk is not written");
                DiskState::Pending(Some(failure))
            }
        };
    }

    async fn lay_on_disk(&mut self, on_disk: bool) {
        match (on_disk, &self.disk) {
            (true, DiskState::NotWanted) => self.disk = DiskState::Pending(None),
            (true, _) | (false, DiskState::NotWanted) => {}
            (false, _) => {
                self.disk = DiskState::NotWanted;
                let images = self.images.clone();
                if let Err(reason) = blocking(move || remove_images(&images)).await {
                    warn!(guest = %self.uid, reason = %Failure::of_volume(&reason), "certificate disks stay");
                }
            }
        }
    }

    /// Works with the open volume; none: it is closed. An error: the work did not come to its end.
    async fn with_volume<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Volume) -> T + Send + 'static,
    ) -> Option<Result<T, VolumeError>> {
        let closed = Place::Closed { failures: 0, retry: Timestamp::now() };
        let mut volume = match std::mem::replace(&mut self.place, closed) {
            Place::Open(volume) => volume,
            still_closed @ Place::Closed { .. } => {
                self.place = still_closed;
                return None;
            }
        };
        let worked = blocking_infallible(move || {
            let result = work(&mut volume);
            (volume, result)
        })
        .await;
        Some(worked.map(|(volume, result)| {
            self.place = Place::Open(volume);
            result
        }))
    }

    fn held(&self, name: &CertificateName) -> Option<&Held> {
        match &self.place {
            Place::Open(volume) => volume.held().get(name),
            Place::Closed { .. } => None,
        }
    }

    /// What the spec no longer asks for leaves the volume.
    async fn drop_unwanted(&mut self) {
        let Place::Open(volume) = &self.place else { return };
        if volume.held().keys().all(|name| self.slots.contains_key(name)) {
            return;
        }
        if let Err(reason) = self.write(BTreeMap::new()).await {
            warn!(guest = %self.uid, reason = %Failure::of_volume(&reason), "certificates that nobody asks for stay");
        }
    }

    /// Starts the issuance of what is due.
    fn launch(&mut self, now: Timestamp) -> Vec<BoxFuture<'static, Finished>> {
        let Place::Open(volume) = &self.place else { return Vec::new() };
        let mut started: Vec<BoxFuture<'static, Finished>> = Vec::new();
        for (name, slot) in &mut self.slots {
            if slot.in_flight || slot.due(volume.held().get(name), now) > now {
                continue;
            }
            slot.in_flight = true;
            let (issuers, cluster, request) = (self.issuers.clone(), self.cluster.clone(), slot.request.clone());
            started.push(Box::pin(async move {
                let result = issuers.issue(&cluster, &request).await;
                Finished { request, result }
            }));
        }
        started
    }

    fn update(&mut self, requests: Vec<CertificateRequest>) {
        let mut requests = by_name(requests);
        self.slots.retain(|name, slot| requests.get(name).is_some_and(|request| *request == slot.request));
        for name in self.slots.keys() {
            requests.remove(name);
        }
        self.slots.extend(requests.into_iter().map(|(name, request)| (name, Slot::new(request))));
        // Nobody waits for what is no longer asked for.
        let slots = &self.slots;
        for rotation in &mut self.rotations {
            rotation.waiting.retain(|name| slots.contains_key(name));
        }
        self.answer_rotations();
    }

    fn rotate(&mut self, names: BTreeSet<CertificateName>, reply: oneshot::Sender<Result<(), RotateError>>) {
        if let Some(unknown) = names.iter().find(|name| !self.slots.contains_key(name)) {
            let _ = reply.send(Err(RotateError::UnknownName(unknown.clone())));
            return;
        }
        let waiting = if names.is_empty() { self.slots.keys().cloned().collect() } else { names };
        for name in &waiting {
            if let Some(slot) = self.slots.get_mut(name) {
                slot.rotate = true;
            }
        }
        if let Place::Closed { retry, .. } = &mut self.place {
            *retry = Timestamp::now();
        }
        self.rotations.push(Rotation { waiting, reply });
        self.answer_rotations();
    }

    async fn finish(&mut self, batch: Vec<Finished>) {
        let mut new = BTreeMap::new();
        for Finished { request, result } in batch {
            let name = request.name.clone();
            let issuance = self.held(&name).map_or(1, |held| held.record.issuance.saturating_add(1));
            let Some(slot) = self.slots.get_mut(&name).filter(|slot| slot.request == request) else {
                // The spec changed meanwhile, and what it says now was started then.
                continue;
            };
            slot.in_flight = false;
            let issued = result.and_then(|certificate| {
                let leaf = check::leaf(&certificate.certificate_chain).map_err(|reason| IssueError::Unexpected {
                    path: request.issuer.to_string(),
                    detail: reason.to_string(),
                })?;
                Ok(Issued { record: Record { issuance, request, issued_at: Timestamp::now() }, certificate, leaf })
            });
            match issued {
                Ok(issued) => {
                    new.insert(name, issued);
                }
                Err(reason) => self.failed(&name, &Failure::of_issuer(&reason)),
            }
        }
        if new.is_empty() {
            return;
        }
        let names: Vec<CertificateName> = new.keys().cloned().collect();
        match self.write(new).await {
            Ok(()) => {
                for name in &names {
                    self.succeeded(name);
                }
            }
            Err(reason) => {
                let failure = Failure::of_volume(&reason);
                for name in &names {
                    self.failed(name, &failure);
                }
            }
        }
    }

    /// Shows a new generation: what the spec asks for and is there, with these beside or instead.
    async fn write(&mut self, new: BTreeMap<CertificateName, Issued>) -> Result<(), VolumeError> {
        let keep: BTreeSet<CertificateName> = self.slots.keys().cloned().collect();
        if let Some(written) = self.with_volume(move |volume| volume.write(&keep, new)).await {
            written??;
        }
        // Whoever waits for the new generation finds it on the disk too.
        self.lay_disk().await;
        Ok(())
    }

    fn succeeded(&mut self, name: &CertificateName) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.succeeded();
        }
        if let Some(held) = self.held(name) {
            info!(
                guest = %self.uid, certificate = %name, serial = %held.leaf.serial_number,
                not_after = %held.leaf.lifetime.not_after, issuance = held.record.issuance, "certificate issued"
            );
        }
        self.tell_rotations(name, None);
    }

    fn failed(&mut self, name: &CertificateName, failure: &Failure) {
        let now = Timestamp::now();
        let held = self.held(name).cloned();
        if let Some(slot) = self.slots.get_mut(name) {
            slot.failed(failure.clone(), held.as_ref(), now);
            let next = slot.due(held.as_ref(), now);
            warn!(guest = %self.uid, certificate = %name, reason = %failure, %next, "certificate not issued");
        }
        self.tell_rotations(name, Some(failure));
    }

    fn tell_rotations(&mut self, name: &CertificateName, failure: Option<&Failure>) {
        let (mut concerned, others): (Vec<_>, Vec<_>) =
            self.rotations.drain(..).partition(|rotation| rotation.waiting.contains(name));
        self.rotations = others;
        match failure {
            None => {
                for rotation in &mut concerned {
                    rotation.waiting.remove(name);
                }
                self.rotations.extend(concerned);
                self.answer_rotations();
            }
            Some(failure) => {
                self.show(Timestamp::now());
                for Rotation { reply, .. } in concerned {
                    let _ = reply.send(Err(RotateError::Failed { name: name.clone(), failure: failure.clone() }));
                }
            }
        }
    }

    /// Rotations that wait for nothing more are answered once the state shows what they did.
    fn answer_rotations(&mut self) {
        if self.rotations.iter().all(|rotation| !rotation.waiting.is_empty()) {
            return;
        }
        self.show(Timestamp::now());
        let (done, waiting): (Vec<_>, Vec<_>) =
            self.rotations.drain(..).partition(|rotation| rotation.waiting.is_empty());
        self.rotations = waiting;
        for Rotation { reply, .. } in done {
            let _ = reply.send(Ok(()));
        }
    }

    fn show(&self, now: Timestamp) {
        let certificates = self.slots.iter().map(|(name, slot)| {
            let held = self.held(name);
            let renew_at = slot.due(held, now);
            let trouble = state::Trouble { last_failure: slot.last_failure.as_ref(), overdue: slot.failures > 0 };
            (name.clone(), state::of(&slot.request, held, trouble, renew_at, now))
        });
        let shown = KeeperState { certificates: certificates.collect(), disk: self.disk.clone() };
        self.publish.send_if_modified(|state| {
            let changed = *state != shown;
            *state = shown;
            changed
        });
    }

    /// How long nothing will have to be done.
    fn until_next(&self, now: Timestamp) -> Duration {
        let volume = match &self.place {
            Place::Closed { retry, .. } => return until(*retry, now),
            Place::Open(volume) => volume,
        };
        let moments = self.slots.iter().flat_map(|(name, slot)| {
            let held = volume.held().get(name);
            let due = (!slot.in_flight).then(|| slot.due(held, now));
            let urgency = held.and_then(|held| Urgency::next_change(held.lifetime(), now));
            [due, urgency]
        });
        let next = moments.flatten().min().map_or(LONGEST_SLEEP, |moment| until(moment, now));
        if matches!(self.disk, DiskState::Pending(_)) { next.min(DISK_RETRY) } else { next }
    }
}

fn until(moment: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(now)).unwrap_or(Duration::ZERO).min(LONGEST_SLEEP)
}

fn remove_images(images: &Path) -> Result<(), VolumeError> {
    files::remove_directory(images)
        .map_err(|source| VolumeError::Step { step: format!("remove {}", images.display()), source })
}

fn by_name(requests: Vec<CertificateRequest>) -> BTreeMap<CertificateName, CertificateRequest> {
    requests.into_iter().map(|request| (request.name.clone(), request)).collect()
}

/// 0 to 1.
fn jitter() -> f64 {
    let [first, second, third, fourth, ..] = *uuid::Uuid::new_v4().as_bytes();
    f64::from(u32::from_be_bytes([first, second, third, fourth])) / f64::from(u32::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    blocking_infallible(work).await?
}

async fn blocking_infallible<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, VolumeError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|reason| VolumeError::Step { step: "run to its end".to_owned(), source: reason.into() })
}

#[cfg(test)]
mod tests;
