//! Why a guest is where it is, why not elsewhere, and what would have to change.

use std::{collections::BTreeMap, fmt};

use goliath_proto::values::HostName;

use super::{
    filter::{Rejection, RejectionKind},
    fleet::Fleet,
    guest::Guest,
    score::{Rank, RingPlace, Score},
};

/// How many hosts are named that are nearest to having room.
const MOST_REMEDIES: usize = 3;

/// Every host, seen from one guest as if it were nowhere yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// Where the guest is bound.
    pub bound: Option<&'a HostName>,
    /// Those that can have it from best to worst, then the others by name.
    pub hosts: Vec<HostVerdict<'a>>,
}

/// One host, seen from one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVerdict<'a> {
    /// Which.
    pub host: &'a HostName,
    /// Whether it can have the guest.
    pub verdict: Verdict<'a>,
}

/// Whether a host can have a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It can.
    Fits(Score),
    /// It cannot, for all of these.
    Rejected(Vec<Rejection<'a>>),
}

/// Why no host can have a guest, short enough for a condition's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoom {
    /// How many there are.
    pub hosts: usize,
    /// Each host counted once, by its most lasting reason; the most frequent first.
    pub reasons: Vec<ReasonCount>,
    /// Hosts that lack least.
    pub remedies: Vec<Remedy>,
}

/// How many hosts have a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    /// Which.
    pub kind: RejectionKind,
    /// How many.
    pub hosts: usize,
    /// By how much the worst of them falls short.
    pub largest_gap: Option<u64>,
}

/// What would have to change for one host to have room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// Which.
    pub host: HostName,
    /// All of these.
    pub changes: Vec<String>,
}

impl Fleet {
    /// Looks at every host.
    pub fn explain<'a>(&'a self, guest: &'a Guest) -> Explanation<'a> {
        let place = RingPlace::of(guest.uid.as_uuid().as_bytes());
        let mut fitting = Vec::new();
        let mut rejected = Vec::new();
        for (id, slot) in self.known() {
            match self.judge(id, guest) {
                Ok(score) => fitting.push((Rank::of(&score, slot.place, place), &slot.name, score)),
                Err(rejections) => rejected.push((&slot.name, rejections)),
            }
        }
        fitting.sort_unstable_by_key(|(rank, ..)| *rank);
        rejected.sort_unstable_by_key(|(name, _)| *name);
        let fitting = fitting.into_iter().map(|(_, host, score)| HostVerdict { host, verdict: Verdict::Fits(score) });
        let rejected =
            rejected.into_iter().map(|(host, rejections)| HostVerdict { host, verdict: Verdict::Rejected(rejections) });
        Explanation { bound: self.host_of(guest.uid), hosts: fitting.chain(rejected).collect() }
    }
}

impl Explanation<'_> {
    /// Why there is no room; none: there is.
    pub fn no_room(&self) -> Option<NoRoom> {
        let mut counts: BTreeMap<RejectionKind, ReasonCount> = BTreeMap::new();
        let mut nearest = Vec::new();
        for HostVerdict { host, verdict } in &self.hosts {
            let Verdict::Rejected(rejections) = verdict else { return None };
            let Some(first) = rejections.first() else { continue };
            let kind = first.kind();
            let count = counts.entry(kind).or_insert(ReasonCount { kind, hosts: 0, largest_gap: None });
            count.hosts += 1;
            count.largest_gap = count.largest_gap.max(first.gap());
            let effort: Vec<_> = rejections.iter().map(|reason| (reason.kind(), reason.gap())).collect();
            nearest.push((rejections.len(), effort, *host, rejections));
        }
        nearest.sort_unstable_by(|one, other| (one.0, &one.1, one.2).cmp(&(other.0, &other.1, other.2)));
        let remedies = nearest.into_iter().take(MOST_REMEDIES).map(|(_, _, host, rejections)| Remedy {
            host: host.clone(),
            changes: rejections.iter().map(Rejection::remedy).collect(),
        });
        let mut reasons: Vec<_> = counts.into_values().collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.hosts));
        Some(NoRoom { hosts: self.hosts.len(), reasons, remedies: remedies.collect() })
    }
}

impl fmt::Display for ReasonCount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            RejectionKind::Cordoned => "cordoned",
            RejectionKind::NeverHeardOf => "never heard of",
            RejectionKind::NotReady => "not ready",
            RejectionKind::Fault => "with a failed doctor's check",
            RejectionKind::Accelerator => "without the accelerator",
            RejectionKind::Role => "without the pool's roles",
            RejectionKind::Zone => "in other zones",
            RejectionKind::Label => "without the pool's labels",
            RejectionKind::Short(resource) => {
                write!(formatter, "{} lack{} {resource}", self.hosts, if self.hosts == 1 { "s" } else { "" })?;
                return match self.largest_gap {
                    Some(gap) => write!(formatter, " (largest gap {})", resource.amount(gap)),
                    None => Ok(()),
                };
            }
            RejectionKind::Image => "that cannot get the image",
            RejectionKind::AntiAffinity => "with another master of the cluster",
            RejectionKind::NetworkOverlap => "with networks that the cluster's overlaps",
            RejectionKind::VniTaken => "where the cluster's VNI is taken",
        };
        write!(formatter, "{} {what}", self.hosts)
    }
}

impl fmt::Display for NoRoom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts == 0 {
            return formatter.write_str("no hosts: add one with `goliath host add`");
        }
        write!(formatter, "{} host{}: ", self.hosts, if self.hosts == 1 { "" } else { "s" })?;
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(formatter, "{}{reason}", if index == 0 { "" } else { ", " })?;
        }
        for (index, remedy) in self.remedies.iter().enumerate() {
            write!(formatter, "{}{remedy}", if index == 0 { "; would do: " } else { ", or " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "on {} {}", self.host, self.changes.join(" and "))
    }
}
