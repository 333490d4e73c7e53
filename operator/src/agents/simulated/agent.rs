//! A connection to a simulated agent.

use std::{collections::VecDeque, sync::Arc};

use futures::stream;
use goliath_proto::{
    agent::v1 as pb,
    values::{ClusterName, GuestUid},
};
use tokio::{
    sync::{oneshot, watch},
    time::{Duration, Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    host::{Fate, HostHandle},
    machine::Machine,
};
use crate::agents::{Agent, AgentError, GuestWatch, Limits};

/// As real agents do.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);

/// A connection to a simulated agent.
#[derive(Debug, Clone)]
pub struct SimulatedAgent(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    host: HostHandle,
    limits: Limits,
    life: CancellationToken,
}

impl Drop for Connection {
    /// What was asked and is not done yet is not done any more.
    fn drop(&mut self) {
        self.life.cancel();
    }
}

fn broken() -> AgentError {
    AgentError::lost("the connection was closed")
}

impl SimulatedAgent {
    pub(super) async fn connect(host: HostHandle, limits: Limits) -> Result<Self, AgentError> {
        let Some(life) = host.open() else {
            // Nothing answers: nobody refuses the connection either.
            sleep(limits.connect).await;
            return Err(AgentError::NoAnswer(limits.connect));
        };
        Ok(Self(Arc::new(Connection { host, limits, life })))
    }

    /// One call, as it would be over a network: what is asked may be done and its answer lost, or done late.
    async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Machine, Instant) -> Result<T, AgentError> + Send + 'static,
    ) -> Result<T, AgentError> {
        let Connection { host, limits, life } = &*self.0;
        if life.is_cancelled() {
            return Err(broken());
        }
        let fate = host.fate();
        if let Fate::Answered { after: Duration::ZERO } = fate {
            return host.act(act);
        }
        let (reply, answer) = oneshot::channel();
        let (server, connection) = (Arc::clone(host), life.clone());
        tokio::spawn(async move {
            // The end of the connection ends what was not begun.
            connection.clone().run_until_cancelled_owned(serve(server, fate, act, reply)).await;
        });
        tokio::select! {
            () = life.cancelled() => Err(broken()),
            answer = timeout(limits.call, answer) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(broken()),
                Err(_) => Err(AgentError::NoAnswer(limits.call)),
            },
        }
    }
}

async fn serve<T: Send>(
    host: HostHandle,
    fate: Fate,
    act: impl FnOnce(&mut Machine, Instant) -> Result<T, AgentError> + Send,
    reply: oneshot::Sender<Result<T, AgentError>>,
) {
    match fate {
        Fate::Answered { after } => {
            sleep(after).await;
            // Fails when nobody waits any more.
            let _ = reply.send(host.act(act));
            return;
        }
        Fate::RequestLost => {}
        Fate::ReplyLost { connection_too } => {
            let _ = host.act(act);
            if connection_too {
                host.cut();
            }
        }
    }
    // The reply is held back until the connection ends.
    let () = std::future::pending().await;
    drop(reply);
}

impl Agent for SimulatedAgent {
    async fn host(&self) -> Result<pb::Host, AgentError> {
        self.call(|machine, _| Ok(machine.host())).await
    }

    async fn doctor(&self) -> Result<Vec<pb::DoctorCheck>, AgentError> {
        self.call(|machine, _| Ok(machine.doctor())).await
    }

    async fn cordon(&self, cordoned: bool) -> Result<pb::Host, AgentError> {
        self.call(move |machine, _| {
            machine.cordon(cordoned);
            Ok(machine.host())
        })
        .await
    }

    async fn images(&self) -> Result<Vec<pb::Image>, AgentError> {
        self.call(|machine, _| Ok(machine.images())).await
    }

    async fn apply_guest(&self, spec: pb::GuestSpec) -> Result<pb::ApplyGuestResponse, AgentError> {
        if let Some(refusal) = self.0.host.refuses() {
            return Err(refusal);
        }
        self.call(|machine, now| machine.apply_guest(spec, now)).await
    }

    async fn delete_guest(&self, uid: GuestUid) -> Result<(), AgentError> {
        self.call(move |machine, now| machine.delete_guest(uid, now)).await
    }

    async fn guest(&self, uid: GuestUid) -> Result<pb::Guest, AgentError> {
        self.call(move |machine, _| machine.guest(uid).ok_or(AgentError::NotFound)).await
    }

    async fn guests(&self) -> Result<pb::ListGuestsResponse, AgentError> {
        self.call(|machine, _| Ok(machine.list())).await
    }

    async fn watch_guests(&self, revision: u64) -> Result<GuestWatch, AgentError> {
        let revisions = self.0.host.revisions();
        let (after, pending) = self.call(move |machine, _| machine.begin_watch(revision)).await?;
        let watcher =
            Watcher { connection: Arc::clone(&self.0), revisions, after, pending: pending.into(), over: false };
        Ok(GuestWatch::new(stream::unfold(watcher, |mut watcher| async {
            watcher.next().await.map(|event| (event, watcher))
        })))
    }

    async fn apply_network(&self, request: pb::ApplyNetworkRequest) -> Result<pb::ApplyNetworkResponse, AgentError> {
        self.call(|machine, now| machine.apply_network(request, now)).await
    }

    async fn delete_network(&self, cluster: &ClusterName) -> Result<(), AgentError> {
        let cluster = cluster.to_string();
        self.call(move |machine, now| machine.delete_network(cluster, now)).await
    }

    async fn network(&self, cluster: &ClusterName) -> Result<pb::Network, AgentError> {
        let cluster = cluster.to_string();
        self.call(move |machine, _| machine.network(&cluster).ok_or(AgentError::NotFound)).await
    }

    async fn networks(&self) -> Result<Vec<pb::Network>, AgentError> {
        self.call(|machine, _| Ok(machine.networks())).await
    }
}

struct Watcher {
    connection: Arc<Connection>,
    revisions: watch::Receiver<u64>,
    after: u64,
    pending: VecDeque<pb::WatchGuestsResponse>,
    over: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<pb::WatchGuestsResponse, AgentError>> {
        let silent_until = Instant::now() + BOOKMARK_INTERVAL;
        loop {
            if self.over {
                return None;
            }
            if self.connection.life.is_cancelled() {
                self.over = true;
                return Some(Err(broken()));
            }
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            // Marked as seen first, so that no change falls between the two.
            self.revisions.borrow_and_update();
            let after = self.after;
            let seen = self
                .connection
                .host
                .act(|machine, _| machine.after(after).map(|events| (machine.revision(), events, machine.next_due())));
            let (revision, events, due) = match seen {
                Ok(seen) => seen,
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            };
            self.after = revision;
            self.pending.extend(events);
            if !self.pending.is_empty() {
                continue;
            }
            if Instant::now() >= silent_until {
                return Some(Ok(super::machine::bookmark(revision)));
            }
            tokio::select! {
                () = self.connection.life.cancelled() => {}
                _ = self.revisions.changed() => {}
                () = sleep_until(due.map_or(silent_until, |due| due.min(silent_until))) => {}
            }
        }
    }
}
