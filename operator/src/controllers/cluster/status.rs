//! What people are told of a cluster.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use super::{
    change::Change,
    decide::{Slot, State, View, why_not_ready},
    group::Group,
};
use crate::objects::{
    CertificateAuthority, ClusterStatus, Condition, ConditionStatus, GuestCounts, GuestRole, ObjectName, PoolStatus,
};

/// Why something of a cluster is not as the manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// False: it does not go on by itself.
    goes_on: bool,
    reason: &'static str,
    message: String,
}

impl Progress {
    /// Something else comes first.
    pub(super) fn wait(reason: &'static str, message: impl Into<String>) -> Self {
        Self { goes_on: true, reason, message: message.into() }
    }

    /// It happens step by step.
    pub(super) fn step(reason: &'static str, message: impl Into<String>) -> Self {
        Self::wait(reason, message)
    }

    /// Somebody has to do something.
    pub(super) fn fault(reason: &'static str, message: impl Into<String>) -> Self {
        Self { goes_on: false, reason, message: message.into() }
    }
}

/// On what a deletion waits.
pub(super) enum WaitsFor {
    Guests(Vec<String>),
    Network,
    Authority,
    Others,
}

impl WaitsFor {
    fn reason(&self) -> &'static str {
        match self {
            Self::Guests(_) => "WaitsForGuests",
            Self::Network => "WaitsForNetwork",
            Self::Authority => "WaitsForAuthority",
            Self::Others => "WaitsForFinalizers",
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How many are named.
        const MOST: usize = 3;
        match self {
            Self::Guests(guests) => {
                let (count, s) = (guests.len(), if guests.len() == 1 { "" } else { "s" });
                let named = guests.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join("; ");
                let more = if count > MOST { "; …" } else { "" };
                write!(formatter, "waits for {count} guest{s}: {named}{more}")
            }
            Self::Network => formatter.write_str("waits until no host has the network any more"),
            Self::Authority => formatter.write_str("waits until the issuer holds nothing of the cluster any more"),
            Self::Others => formatter.write_str("waits for the finalizers of others"),
        }
    }
}

/// Whether the authority has done what its manifest says.
pub(super) fn authority_is_ready(authority: &CertificateAuthority) -> bool {
    authority.status.as_ref().is_some_and(|status| {
        let observed =
            status.observed_generation.is_none_or(|observed| Some(observed) >= authority.metadata.generation);
        observed && status.conditions.is_true("Ready")
    })
}

/// Sets conditions of one object at one time.
struct Told<'v> {
    view: &'v View<'v>,
    status: ClusterStatus,
}

impl Told<'_> {
    fn set(&mut self, type_: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let holds = if holds { ConditionStatus::True } else { ConditionStatus::False };
        let generation = self.view.cluster.metadata.generation;
        self.status.conditions.set(type_, holds, reason, message, generation, self.view.now);
    }
}

fn begin<'v>(view: &'v View<'v>) -> Told<'v> {
    let mut status = view.cluster.status.clone().unwrap_or_default();
    status.observed_generation = view.cluster.metadata.generation;
    Told { view, status }
}

/// Of a cluster that goes.
pub(super) fn of_deletion(view: &View<'_>, waits: &WaitsFor) -> ClusterStatus {
    let mut told = begin(view);
    if view.cluster.spec.paused {
        told.set("Deleting", false, "Paused", "the cluster is paused: it goes when it is not any more");
        return told.status;
    }
    told.set("Deleting", true, waits.reason(), waits.to_string());
    told.set("Ready", false, "Deleting", "the cluster is being deleted");
    told.set("Progressing", true, "Deleting", waits.to_string());
    told.status.reserved_addresses.clear();
    for counts in [&mut told.status.masters, &mut told.status.workers] {
        *counts = GuestCounts::default();
    }
    told.status.pools.clear();
    for guest in view.guests {
        let counts = match guest.spec.role {
            GuestRole::Master => &mut told.status.masters,
            GuestRole::Worker => &mut told.status.workers,
        };
        counts.current += 1;
    }
    told.status
}

/// Of a cluster that is to be.
pub(super) fn of_cluster(
    view: &View<'_>,
    groups: &[Group<'_>],
    slots: &[Slot<'_>],
    waits: &[Progress],
    reserved: BTreeMap<ObjectName, Ipv4Addr>,
) -> ClusterStatus {
    let mut told = begin(view);
    told.status.reserved_addresses = reserved;
    if let Some(network) = &told.status.network {
        let endpoint = format!("{}:{}", network.gateway_address, view.cluster.spec.kubernetes.api_port);
        told.status.api_endpoint = endpoint.parse().ok();
    }
    count(&mut told.status, groups, slots);
    let parts =
        [authority(&mut told), network(&told), masters(&mut told, groups, slots), workers(&mut told, groups, slots)];
    match parts.into_iter().flatten().next() {
        None => told.set("Ready", true, "Ready", "all guests are ready"),
        Some((reason, message)) => told.set("Ready", false, reason, message),
    }
    progress(&mut told, slots, waits);
    told.status
}

fn count(status: &mut ClusterStatus, groups: &[Group<'_>], slots: &[Slot<'_>]) {
    let wanted = |group: &Group<'_>| GuestCounts { desired: group.replicas.into(), ..GuestCounts::default() };
    let mut counts: Vec<_> = groups.iter().map(wanted).collect();
    for slot in slots {
        let counts = &mut counts[slot.group];
        counts.current += u32::from(slot.guest().is_some());
        counts.updated += u32::from(matches!(slot.state, State::Filled(_, Change::None)));
        counts.ready += u32::from(slot.is_serving());
    }
    status.masters = counts.first().copied().unwrap_or_default();
    status.workers = counts.iter().skip(1).fold(GuestCounts::default(), |sum, counts| GuestCounts {
        desired: sum.desired + counts.desired,
        current: sum.current + counts.current,
        updated: sum.updated + counts.updated,
        ready: sum.ready + counts.ready,
    });
    let pools = groups
        .iter()
        .zip(&counts)
        .filter_map(|(group, guests)| Some(PoolStatus { name: group.pool?.clone(), guests: *guests }));
    status.pools = pools.collect();
}

/// What keeps the cluster from being ready.
type Unready = Option<(&'static str, String)>;

fn authority(told: &mut Told<'_>) -> Unready {
    let Some(authority) = told.view.authority else {
        told.set("AuthorityReady", false, "Creating", "the certificate authority is not there yet");
        return Some(("AuthorityNotReady", "the certificate authority is not there yet".to_owned()));
    };
    if authority_is_ready(authority) {
        told.set("AuthorityReady", true, "Ready", "");
        return None;
    }
    let ready = authority.status.as_ref().and_then(|status| status.conditions.get("Ready"));
    let ready = ready.filter(|ready| ready.status != ConditionStatus::True);
    let (reason, message) = match ready {
        Some(Condition { reason, message, .. }) => (reason.clone(), message.clone()),
        None => ("NotObserved".to_owned(), "its controller has not told yet".to_owned()),
    };
    told.set("AuthorityReady", false, &reason, message.clone());
    Some(("AuthorityNotReady", format!("the certificate authority is not ready: {message}")))
}

/// Its condition is the network controller's to write.
fn network(told: &Told<'_>) -> Unready {
    let condition = told.status.conditions.get("NetworkReady");
    let refused = condition.filter(|condition| condition.status == ConditionStatus::False);
    match (refused, &told.status.network) {
        (Some(refused), _) => Some(("NetworkNotReady", refused.message.clone())),
        (None, None) => Some(("NetworkNotReady", "the network is not allocated yet".to_owned())),
        (None, Some(_)) => None,
    }
}

fn masters(told: &mut Told<'_>, groups: &[Group<'_>], slots: &[Slot<'_>]) -> Unready {
    let counts = told.status.masters;
    group_ready(told, "MastersReady", counts, slots.iter().filter(|slot| groups[slot.group].role == GuestRole::Master))
        .map(|message| ("MastersNotReady", message))
}

fn workers(told: &mut Told<'_>, groups: &[Group<'_>], slots: &[Slot<'_>]) -> Unready {
    let counts = told.status.workers;
    group_ready(told, "WorkersReady", counts, slots.iter().filter(|slot| groups[slot.group].role == GuestRole::Worker))
        .map(|message| ("WorkersNotReady", message))
}

fn group_ready<'s, 'a: 's>(
    told: &mut Told<'_>,
    type_: &str,
    counts: GuestCounts,
    mut slots: impl Iterator<Item = &'s Slot<'a>>,
) -> Option<String> {
    let GuestCounts { desired, ready, .. } = counts;
    match slots.find(|slot| !slot.is_serving()) {
        // Before the network is there no place is looked at.
        Some(slot) => {
            let message = format!("{ready} of {desired} are ready; {}", why_not_ready(slot));
            told.set(type_, false, "NotReady", message.clone());
            Some(message)
        }
        None if told.status.network.is_none() => {
            told.set(type_, false, "WaitsForNetwork", "the network comes first");
            Some("the network comes first".to_owned())
        }
        None => {
            told.set(type_, true, "Ready", format!("{ready} of {desired} are ready"));
            None
        }
    }
}

fn progress(told: &mut Told<'_>, slots: &[Slot<'_>], waits: &[Progress]) {
    if told.view.cluster.spec.paused {
        return told.set("Progressing", false, "Paused", "the cluster is paused: nothing of it is changed");
    }
    // A fault before all that merely takes time.
    let first = waits.iter().find(|wait| !wait.goes_on).or_else(|| waits.first());
    if let Some(Progress { goes_on, reason, message }) = first {
        return told.set("Progressing", *goes_on, reason, message.clone());
    }
    match slots.iter().find(|slot| !slot.is_at_rest() || !matches!(slot.state, State::Filled(_, Change::None))) {
        Some(slot) if slot.is_at_rest() => {
            told.set("Progressing", true, "RollingOut", format!("{} follows the manifest", slot.name));
        }
        Some(slot) => told.set("Progressing", true, "WaitsForGuests", why_not_ready(slot)),
        None => told.set("Progressing", false, "Complete", "everything is as the manifest has it"),
    }
}
