//! What the RPCs work with.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::{Caller, errors};
use crate::{
    accelerator,
    admission::{Conflict, ConflictKind, Overheads, Refusal, Shortage},
    certs::CertificateKeeper,
    config::Config,
    doctor::Check,
    image::ImageStore,
    ledger::Ledger,
    network::HostFacts,
    observed::{Conditions, Observed},
    spec::{GuestUid, NetworkSpec},
};

/// What the RPCs work with. A handle: clones share it.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
}

/// The agent's parts, as they are handed over.
#[derive(Debug)]
pub struct Parts {
    /// As it was read.
    pub config: Arc<Config>,
    /// This host, for people and for the operator.
    pub host_name: String,
    /// Desired state.
    pub ledger: Ledger,
    /// Observed state.
    pub observed: Observed,
    /// Images by digest.
    pub images: ImageStore,
    /// Questions to the reconcilers.
    pub questions: Questions,
}

/// Judges a network beside the host's others.
pub type AgainstNetwork = Box<dyn Fn(&NetworkSpec, &[&NetworkSpec]) -> Vec<Conflict> + Send + Sync>;

/// What only the reconcilers know. Answers are given at once; the doctor's examination may take a while.
pub struct Questions {
    /// All that the host has against a network beside the others.
    pub against_network: AgainstNetwork,
    /// What keeps a guest's certificates, if it has any.
    pub certificates: Box<dyn Fn(GuestUid) -> Option<Arc<CertificateKeeper>> + Send + Sync>,
    /// What runs vCPUs here.
    pub accelerator: Box<dyn Fn() -> accelerator::Known + Send + Sync>,
    /// What QEMUs were seen to take beside their guests' memory.
    pub overheads: Box<dyn Fn() -> Overheads + Send + Sync>,
    /// The host's own devices.
    pub host_facts: Box<dyn Fn() -> HostFacts + Send + Sync>,
    /// Tries what guests need.
    pub doctor: Box<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>,
}

impl fmt::Debug for Questions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Questions").finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) parts: Parts,
    /// Ends every stream when the agent ends.
    pub(super) shutdown: CancellationToken,
    /// The host's own, with the times of their changes.
    pub(super) conditions: Mutex<Conditions>,
}

impl std::ops::Deref for Shared {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl std::ops::Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Context {
    pub(super) fn new(parts: Parts, shutdown: CancellationToken) -> Self {
        Self { shared: Arc::new(Shared { parts, shutdown, conditions: Mutex::default() }) }
    }

    /// The status for what admission refused.
    pub(super) fn refused(&self, refusal: Refusal) -> Status {
        match refusal {
            Refusal::Conflicts(conflicts) => {
                errors::failed_precondition(&conflicts.into_iter().map(precondition).collect::<Vec<_>>())
            }
            Refusal::Full(shortages) => {
                errors::exhausted(&self.host_name, &shortages.into_iter().map(quota).collect::<Vec<_>>())
            }
        }
    }
}

fn precondition(conflict: Conflict) -> errors::Precondition {
    let Conflict { kind, subject, description } = conflict;
    errors::Precondition { reason: ConflictKind::reason(kind), subject, description }
}

fn quota(shortage: Shortage) -> errors::Quota {
    let description = shortage.to_string();
    let (resource, asked, available) = match shortage {
        Shortage::Memory { asked, available, .. } => ("memory", asked.get(), available.get()),
        Shortage::Disk { asked, available } => ("disk", asked.get(), available.get()),
        Shortage::Vcpus { asked, available } => ("vcpus", asked, available),
    };
    errors::Quota { resource, description, asked, available }
}

/// Who calls, for the log of what was changed by whom.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    // Every connection has one: without it something else serves, and it may not.
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("the connection does not say who calls"))
}
