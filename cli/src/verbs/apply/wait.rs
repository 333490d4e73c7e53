//! Waits until what was applied is there.

use std::{collections::BTreeMap, time::Duration};

use goliath_proto::agent::v1::{ConditionStatus, GetNetworkRequest, Network};
use tokio::time::Instant;

use super::{
    ladder::{Asked, Goal, Progress, progress},
    progress::Board,
};
use crate::{
    connection::Agent,
    failure::{ExitCode, Failure},
    guest_reference::uid,
    guest_watch::{Change, GuestWatch},
    refusal::Refusal,
    style::Terminal,
};

/// Networks have no watch: they are asked after.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Why the waiting did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    #[error("gave up after {} s; still waiting:\n{}", after.as_secs(), list(waiting))]
    TimedOut { after: Duration, waiting: Vec<String>, follow: &'static str },
    #[error("guest {name} {why}")]
    Ended { name: String, why: String },
}

fn list(waiting: &[String]) -> String {
    waiting.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

impl WaitError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::TimedOut { .. } => ExitCode::TimedOut,
            Self::Ended { .. } => ExitCode::Error,
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::TimedOut { follow, .. } => {
                format!("it goes on without us: {follow} follows it, --timeout waits longer")
            }
            Self::Ended { name, .. } => format!("goliath describe guest {name}; goliath logs {name}"),
        }
    }
}

/// What to wait for.
#[derive(Debug, Default)]
pub(super) struct Targets {
    pub(super) guests: Vec<GuestTarget>,
    pub(super) networks: Vec<NetworkTarget>,
}

#[derive(Debug)]
pub(super) struct GuestTarget {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) restarts: bool,
    pub(super) goal: Goal,
}

#[derive(Debug)]
pub(super) struct NetworkTarget {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) peers_generation: u64,
}

pub(super) async fn wait(
    agent: &Agent,
    targets: Targets,
    timeout: Duration,
    terminal: Terminal,
) -> Result<(), Failure> {
    let mut waiting = BTreeMap::new();
    for network in &targets.networks {
        waiting.insert(format!("network {}", network.name), "Ready".to_owned());
    }
    for guest in &targets.guests {
        waiting.insert(guest.name.clone(), "its first state".to_owned());
    }
    let everything = async {
        for target in &targets.networks {
            network(agent, target, &mut waiting).await?;
        }
        guests(agent, &targets.guests, &mut waiting, &mut Board::new(terminal)).await
    };
    if let Ok(result) = tokio::time::timeout(timeout, everything).await {
        return result;
    }
    let waiting = waiting.into_iter().map(|(name, what)| format!("{name} waits for {what}")).collect();
    Err(WaitError::TimedOut { after: timeout, waiting, follow: "goliath get guests -w" }.into())
}

async fn guests(
    agent: &Agent,
    targets: &[GuestTarget],
    waiting: &mut BTreeMap<String, String>,
    board: &mut Board,
) -> Result<(), Failure> {
    let started = Instant::now();
    let mut open: BTreeMap<&str, &GuestTarget> = targets.iter().map(|target| (target.uid.as_str(), target)).collect();
    let mut watch = GuestWatch::start(agent).await?;
    while !open.is_empty() {
        let (guest, gone) = match watch.next().await? {
            Change::Present(guest) => (guest, false),
            Change::Gone(guest) => (guest, true),
        };
        let Some(target) = open.get(uid(&guest)) else { continue };
        let asked = Asked { goal: target.goal, generation: target.generation, restarts: target.restarts };
        let progress =
            if gone { Progress::Ended("was deleted meanwhile".to_owned()) } else { progress(&guest, &asked) };
        board.show(&target.name, &progress, started.elapsed());
        match progress {
            Progress::Reached => {
                waiting.remove(&target.name);
                open.remove(uid(&guest));
            }
            Progress::Ended(why) => return Err(WaitError::Ended { name: target.name.clone(), why }.into()),
            Progress::Climbing { waits_for, .. } => {
                waiting.insert(target.name.clone(), waits_for);
            }
        }
    }
    Ok(())
}

async fn network(agent: &Agent, target: &NetworkTarget, waiting: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let name = format!("network {}", target.name);
    loop {
        let response = agent
            .networks()
            .get_network(GetNetworkRequest { cluster: target.name.clone() })
            .await
            .map_err(|status| Refusal::new(format!("wait for {name}"), &status))?;
        match missing(&response.into_inner().network.unwrap_or_default(), target) {
            None => break,
            Some(missing) => waiting.insert(name.clone(), missing),
        };
        tokio::time::sleep(ASK_AGAIN).await;
    }
    waiting.remove(&name);
    Ok(())
}

/// What a network still lacks.
fn missing(network: &Network, target: &NetworkTarget) -> Option<String> {
    let status = network.status.clone().unwrap_or_default();
    if status.observed_generation < target.generation || status.observed_peers_generation < target.peers_generation {
        return Some("the agent to take the new specification".to_owned());
    }
    match status.conditions.iter().find(|condition| condition.r#type == "Ready") {
        Some(condition) if condition.status() == ConditionStatus::True => None,
        Some(condition) if !condition.message.is_empty() => Some(format!("Ready: {}", condition.message)),
        _ => Some("Ready".to_owned()),
    }
}

/// Waits until guests are gone, by their uids and names.
pub(crate) async fn until_gone(
    agent: &Agent,
    guests: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<(), Failure> {
    let mut watch = GuestWatch::start(agent).await?;
    let everything = async {
        while guests.keys().any(|uid| watch.holds(uid)) {
            watch.next().await?;
        }
        Ok::<_, Failure>(())
    };
    if let Ok(result) = tokio::time::timeout(timeout, everything).await {
        return result;
    }
    let open = guests.iter().filter(|(uid, _)| watch.holds(uid));
    let waiting = open.map(|(_, name)| format!("{name} to be gone")).collect();
    Err(WaitError::TimedOut { after: timeout, waiting, follow: "goliath get guests -w" }.into())
}
