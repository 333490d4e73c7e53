//! The seam between deciding and doing: what a guest's task asks to be done, and what it hears back.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{board::Board, plan::Vcpus};
use crate::{
    observed::{Exit, ProcessStatus},
    spec::{Digest, GuestSpec},
};

/// Carries out the steps of one guest. Every step is safe to repeat, whatever an earlier one left half-done.
pub(super) trait Executor: Send + Sync + 'static {
    /// What a spec's image reference means here.
    type Image: Send;
    /// What a start has made ready.
    type Prepared: Send;
    /// A QEMU that is there.
    type Machine: Machine;

    /// Looks for a QEMU that an earlier agent started.
    fn discover(&self, spec: &GuestSpec, board: &Arc<Board>) -> impl Future<Output = Discovery<Self::Machine>> + Send;

    /// Makes the image ready; dropping it is safe.
    ///
    /// `known` is what the spec's reference was resolved to before, if it was.
    fn image(
        &self,
        spec: &GuestSpec,
        known: Option<&Digest>,
        board: &Arc<Board>,
    ) -> impl Future<Output = Result<(Self::Image, Digest), Failure>> + Send;

    /// Makes network and volumes ready, waiting for what others must do first; dropping it is safe.
    fn prepare(
        &self,
        spec: &GuestSpec,
        image: Self::Image,
        board: &Arc<Board>,
    ) -> impl Future<Output = Result<Self::Prepared, Failure>> + Send;

    /// Starts QEMU. Not dropped half-way.
    fn launch(
        &self,
        spec: &GuestSpec,
        prepared: Self::Prepared,
        board: &Arc<Board>,
    ) -> impl Future<Output = Result<Self::Machine, Failure>> + Send;

    /// Takes over what a running QEMU can take of a changed spec.
    fn refresh(&self, spec: &GuestSpec) -> impl Future<Output = ()> + Send;

    /// Gives back what only a running guest needs.
    fn park(&self, spec: &GuestSpec) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes everything of the guest.
    fn release(&self, spec: &GuestSpec) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A QEMU that is there.
pub(super) trait Machine: Send + 'static {
    /// The next thing seen of it; dropping it loses nothing.
    fn next_event(&mut self) -> impl Future<Output = MachineEvent> + Send;

    /// Lets its vCPUs run.
    fn resume(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Stops its vCPUs.
    fn pause(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Notes that a shutdown began, so that an agent that comes after us goes on with it.
    fn begin_stopping(&mut self, stopping: Stopping) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The shutdown contract, from where it stands; when it returns there is no QEMU. Not dropped half-way.
    fn shut_down(&mut self, stopping: Stopping) -> impl Future<Output = Exit> + Send;

    /// The shutdown that was begun, if one was.
    fn stopping(&self) -> Option<Stopping>;

    /// The spec it was started with.
    fn launched(&self) -> &GuestSpec;

    /// For people.
    fn process(&self) -> ProcessStatus;
}

/// What was found at the start of the agent.
pub(super) enum Discovery<M> {
    /// No QEMU of this guest.
    Nothing,
    /// The guest's own, as an earlier agent left it.
    Found(M),
    /// Something holds the guest's lock and is not what was recorded.
    Stranger(String),
}

/// Something seen of a QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MachineEvent {
    /// QMP said so.
    Vcpus(Vcpus),
    /// The guest said so; how.
    Booted(String),
    /// QMP does not answer.
    Silent(String),
    /// The certificate volume's process ended under the guest.
    VolumeLost(String),
    /// QEMU does not take the newest certificate disk; why. The guest has an older one.
    CertificatesStale(String),
    /// It took it after all.
    CertificatesFresh,
    /// QEMU is gone.
    Exited(Exit),
}

/// A shutdown that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stopping {
    /// When.
    pub(super) since: Timestamp,
    /// How long the whole of it may take.
    pub(super) grace: Duration,
}

/// A step that did not work. A failure is a status of its guest, not an error of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The condition that is false because of it.
    pub(super) condition: &'static str,
    /// One word.
    pub(super) reason: &'static str,
    /// A sentence, with its causes.
    pub(super) message: String,
    /// Whether QEMU itself refused to start.
    pub(super) launch: bool,
}

impl Failure {
    pub(super) fn new(condition: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { condition, reason, message: message.into(), launch: false }
    }
}
