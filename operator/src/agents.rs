//! The way to hosts' agents: what may be asked of one ([`Agent`]), how one is reached ([`AgentConnector`]), and what
//! became of a question ([`AgentError`]). [`Tls`] reaches real ones; [`simulated::World`] holds some thousand in memory.
//!
//! An [`Agent`] is one connection. It never connects anew by itself: behind a new connection may be another machine, so
//! whoever holds it dials again and looks who answers. Dropping the last clone closes the connection, and what was asked
//! and not answered yet is then not done any more.

mod connections;
pub mod convert;
mod error;
mod held;
mod real;
pub mod simulated;

use std::{future::Future, pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use goliath_proto::{
    agent::v1 as pb,
    values::{ClusterName, GuestUid, HostName},
};

pub use connections::{Connections, Heard, Link};
pub use error::{AgentError, Problem, Refusal, RefusalKind};
pub use held::HeldGuest;
pub use real::{CredentialsError, Tls, TlsFiles};

use crate::objects::{DomainName, Endpoint};

/// Where an agent is, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What the agent must call itself.
    pub host: HostName,
    /// Where it listens.
    pub address: Endpoint,
    /// The name in its certificate; none: the address's.
    pub server_name: Option<DomainName>,
}

/// How long an agent may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To accept a connection and agree on keys.
    pub connect: Duration,
    /// To answer a call.
    pub call: Duration,
    /// To examine its host, which starts a virtual machine.
    pub doctor: Duration,
    /// To give a sign of life on an idle connection.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(10),
            doctor: Duration::from_mins(1),
            keep_alive: Duration::from_secs(10),
        }
    }
}

/// Reaches agents.
pub trait AgentConnector: Send + Sync + 'static {
    /// A connection.
    type Agent: Agent;

    /// Connects. Who answers is not known yet: see [`dial`].
    fn connect(&self, target: &Target) -> impl Future<Output = Result<Self::Agent, AgentError>> + Send;
}

/// A connection to an agent. Clones share it. Each call has a time limit.
pub trait Agent: Clone + Send + Sync + 'static {
    /// What the machine has, and what is left of it.
    fn host(&self) -> impl Future<Output = Result<pb::Host, AgentError>> + Send;
    /// Has the machine examined: it takes seconds.
    fn doctor(&self) -> impl Future<Output = Result<Vec<pb::DoctorCheck>, AgentError>> + Send;
    /// Whether new guests are taken.
    fn cordon(&self, cordoned: bool) -> impl Future<Output = Result<pb::Host, AgentError>> + Send;
    /// The images in its store.
    fn images(&self) -> impl Future<Output = Result<Vec<pb::Image>, AgentError>> + Send;

    /// Tells what a guest shall be.
    fn apply_guest(
        &self,
        spec: pb::GuestSpec,
    ) -> impl Future<Output = Result<pb::ApplyGuestResponse, AgentError>> + Send;
    /// Has a guest stopped and removed; `NotFound` once it is gone.
    fn delete_guest(&self, uid: GuestUid) -> impl Future<Output = Result<(), AgentError>> + Send;
    /// One guest.
    fn guest(&self, uid: GuestUid) -> impl Future<Output = Result<pb::Guest, AgentError>> + Send;
    /// All guests, without the documents of their seeds, and from where to watch.
    fn guests(&self) -> impl Future<Output = Result<pb::ListGuestsResponse, AgentError>> + Send;
    /// What changes after a revision; `RevisionGone`: list again.
    fn watch_guests(&self, revision: u64) -> impl Future<Output = Result<GuestWatch, AgentError>> + Send;

    /// Tells what a network, or its peer list, shall be.
    fn apply_network(
        &self,
        request: pb::ApplyNetworkRequest,
    ) -> impl Future<Output = Result<pb::ApplyNetworkResponse, AgentError>> + Send;
    /// Has a network removed; `NotFound` once it is gone.
    fn delete_network(&self, cluster: &ClusterName) -> impl Future<Output = Result<(), AgentError>> + Send;
    /// One network.
    fn network(&self, cluster: &ClusterName) -> impl Future<Output = Result<pb::Network, AgentError>> + Send;
    /// All networks.
    fn networks(&self) -> impl Future<Output = Result<Vec<pb::Network>, AgentError>> + Send;
}

/// Connects and makes sure that the machine which answers is the one that was meant: nothing is told to another.
pub async fn dial<C: AgentConnector>(connector: &C, target: &Target) -> Result<(C::Agent, pb::Host), AgentError> {
    let agent = connector.connect(target).await?;
    let host = agent.host().await?;
    if host.name == target.host.as_str() {
        Ok((agent, host))
    } else {
        Err(AgentError::WrongHost { asked: target.host.clone(), answered: host.name })
    }
}

/// What happens to an agent's guests. It ends with its first error, and with the connection.
pub struct GuestWatch(Pin<Box<dyn Stream<Item = Result<pb::WatchGuestsResponse, AgentError>> + Send>>);

impl GuestWatch {
    /// Of any source.
    pub fn new(events: impl Stream<Item = Result<pb::WatchGuestsResponse, AgentError>> + Send + 'static) -> Self {
        Self(Box::pin(events))
    }

    /// Waits for what happens next; the end of a watch is an error too. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Result<pb::WatchGuestsResponse, AgentError> {
        self.0.next().await.unwrap_or_else(|| Err(AgentError::lost("the watch of its guests ended")))
    }
}
