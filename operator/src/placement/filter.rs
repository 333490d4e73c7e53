//! What keeps a guest off a host.

use std::fmt;

use goliath_proto::values::{ClusterName, Digest, HostRole, Vni, ZoneName};
use ipnetwork::Ipv4Network;

use super::{
    guest::{Accelerator, Group, Guest, Needs},
    host::{Accelerators, Condition, Held, Host, Resource, Resources},
};
use crate::network::overlap;

/// A host that a guest might go to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) host: &'a Host,
    /// What a guest with its QEMU can have.
    pub(super) free: Resources,
}

/// Why a guest cannot be on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection<'a> {
    /// An administrator keeps guests off.
    Cordoned,
    /// No agent told of it yet.
    NeverHeardOf,
    /// Its condition says so.
    NotReady(&'a Condition),
    /// The doctor found it.
    Fault(&'a Condition),
    /// The guest asks for another one than there is.
    Accelerator {
        /// By the guest.
        wanted: Accelerator,
        /// On the host.
        there: Accelerators,
    },
    /// The pool is for hosts that have this role.
    Role(&'a HostRole),
    /// The pool is for other zones.
    Zone(Option<&'a ZoneName>),
    /// The pool selects hosts by this label.
    Label {
        /// The label.
        key: &'a str,
        /// By the pool.
        wanted: &'a str,
        /// On the host.
        found: Option<&'a str>,
    },
    /// Too little is left.
    Short {
        /// Of what.
        resource: Resource,
        /// By the guest, with what QEMU takes beside it.
        asked: u64,
        /// What is left on the host.
        available: u64,
    },
    /// It was seen to fail to get the image.
    Image(&'a Digest),
    /// A master of the cluster is there.
    AntiAffinity(&'a ClusterName),
    /// The cluster's network covers one of the host's own.
    NetworkOverlap {
        /// The cluster's.
        cluster: Ipv4Network,
        /// The host's.
        host: Ipv4Network,
    },
    /// Something else uses the cluster's VNI there.
    VniTaken {
        /// The cluster's.
        vni: Vni,
        /// Who has it.
        by: &'a Held,
    },
}

/// A [`Rejection`] without its numbers.
#[allow(missing_docs, reason = "each is told at Rejection")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectionKind {
    Cordoned,
    NeverHeardOf,
    NotReady,
    Fault,
    Accelerator,
    Role,
    Zone,
    Label,
    Short(Resource),
    Image,
    AntiAffinity,
    NetworkOverlap,
    VniTaken,
}

impl Rejection<'_> {
    /// Without its numbers.
    pub fn kind(&self) -> RejectionKind {
        match self {
            Self::Cordoned => RejectionKind::Cordoned,
            Self::NeverHeardOf => RejectionKind::NeverHeardOf,
            Self::NotReady(_) => RejectionKind::NotReady,
            Self::Fault(_) => RejectionKind::Fault,
            Self::Accelerator { .. } => RejectionKind::Accelerator,
            Self::Role(_) => RejectionKind::Role,
            Self::Zone(_) => RejectionKind::Zone,
            Self::Label { .. } => RejectionKind::Label,
            Self::Short { resource, .. } => RejectionKind::Short(*resource),
            Self::Image(_) => RejectionKind::Image,
            Self::AntiAffinity(_) => RejectionKind::AntiAffinity,
            Self::NetworkOverlap { .. } => RejectionKind::NetworkOverlap,
            Self::VniTaken { .. } => RejectionKind::VniTaken,
        }
    }

    /// What would have to change, as an order.
    pub fn remedy(&self) -> String {
        match self {
            Self::Cordoned => "uncordon it".to_owned(),
            Self::NeverHeardOf => "start its agent".to_owned(),
            Self::NotReady(condition) => format!("mend what made it not ready ({})", condition.reason),
            Self::Fault(check) => format!("mend what the doctor's check {} found", check.reason),
            Self::Accelerator { wanted, .. } => format!("provide the accelerator {wanted}"),
            Self::Role(role) => format!("give it the role {role}"),
            Self::Zone(_) => "let the pool use its zone".to_owned(),
            Self::Label { key, wanted, .. } => format!("set the label {key}={wanted}"),
            Self::Short { resource, asked, available } => {
                format!("free {} of {resource}", resource.amount(asked.saturating_sub(*available)))
            }
            Self::Image(_) => "let it reach the image's registry".to_owned(),
            Self::AntiAffinity(_) => "move the other master".to_owned(),
            Self::NetworkOverlap { host, .. } => format!("take the network {host} off it"),
            Self::VniTaken { vni, .. } => format!("release VNI {vni}"),
        }
    }

    /// How much more there had to be.
    pub fn gap(&self) -> Option<u64> {
        match self {
            Self::Short { asked, available, .. } => Some(asked.saturating_sub(*available)),
            _ => None,
        }
    }
}

impl fmt::Display for Rejection<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordoned => formatter.write_str("cordoned"),
            Self::NeverHeardOf => formatter.write_str("its agent was never heard of"),
            Self::NotReady(Condition { reason, message }) => write!(formatter, "not ready ({reason}): {message}"),
            Self::Fault(Condition { reason, message }) => {
                write!(formatter, "the doctor's check {reason} failed: {message}")
            }
            Self::Accelerator { wanted, there } => {
                write!(formatter, "the guest needs the accelerator {wanted}, the host has {there}")
            }
            Self::Role(role) => write!(formatter, "it does not have the role {role}, which the pool needs"),
            Self::Zone(Some(zone)) => write!(formatter, "it is in zone {zone}, which is not one of the pool's"),
            Self::Zone(None) => formatter.write_str("it is in no zone, and the pool is for some"),
            Self::Label { key, wanted, found: Some(found) } => {
                write!(formatter, "its label {key} is {found}, the pool needs {wanted}")
            }
            Self::Label { key, wanted, found: None } => {
                write!(formatter, "it has no label {key}, the pool needs {wanted}")
            }
            Self::Short { resource, asked, available } => {
                let amount = |number| resource.amount(number);
                let short = amount(asked.saturating_sub(*available));
                write!(
                    formatter,
                    "{resource} short by {short}: the guest takes {}, {} left",
                    amount(*asked),
                    amount(*available)
                )
            }
            Self::Image(image) => write!(formatter, "it could not get the image {image}"),
            Self::AntiAffinity(cluster) => write!(formatter, "another master of {cluster} is there"),
            Self::NetworkOverlap { cluster, host } => {
                write!(formatter, "the cluster's network {cluster} overlaps {host}, the host's own")
            }
            Self::VniTaken { vni, by: Held::ByCluster(cluster) } => {
                write!(formatter, "VNI {vni} is cluster {cluster}'s there")
            }
            Self::VniTaken { vni, by: Held::ByStranger } => {
                write!(formatter, "VNI {vni} is used there by a device that is not ours")
            }
        }
    }
}

type NeedsFilter = for<'a> fn(&Candidate<'a>, &'a Needs) -> Option<Rejection<'a>>;

/// The number: others of the guest's group on the host.
type GuestFilter = for<'a> fn(&Candidate<'a>, u32, &'a Guest) -> Option<Rejection<'a>>;

/// Filters that look at a host and at what guests of one kind need: their outcome is kept in an index.
const OF_NEEDS: [NeedsFilter; 12] =
    [cordoned, never_heard_of, not_ready, fault, role, zone, label, accelerator, memory, vcpus, disk, image];

/// Filters that look at a host and at one guest among the others of its cluster.
const OF_GUEST: [GuestFilter; 3] = [anti_affinity, network_overlap, vni_taken];

/// Whether guests with these needs can be there, as far as no other guest of their cluster matters.
pub(super) fn suits(candidate: &Candidate<'_>, needs: &Needs) -> bool {
    OF_NEEDS.iter().all(|filter| filter(candidate, needs).is_none())
}

/// Whether this guest can be on a host that [`suits`]. `members`: others of its group there.
pub(super) fn admits(candidate: &Candidate<'_>, members: u32, guest: &Guest) -> bool {
    OF_GUEST.iter().all(|filter| filter(candidate, members, guest).is_none())
}

/// All that keeps a guest off a host, the most lasting first.
pub(super) fn rejections<'a>(candidate: &Candidate<'a>, members: u32, guest: &'a Guest) -> Vec<Rejection<'a>> {
    let of_needs = OF_NEEDS.iter().filter_map(|filter| filter(candidate, &guest.needs));
    of_needs.chain(OF_GUEST.iter().filter_map(|filter| filter(candidate, members, guest))).collect()
}

fn cordoned<'a>(candidate: &Candidate<'a>, _: &'a Needs) -> Option<Rejection<'a>> {
    candidate.host.cordoned.then_some(Rejection::Cordoned)
}

fn never_heard_of<'a>(candidate: &Candidate<'a>, _: &'a Needs) -> Option<Rejection<'a>> {
    candidate.host.inventory.is_none().then_some(Rejection::NeverHeardOf)
}

fn not_ready<'a>(candidate: &Candidate<'a>, _: &'a Needs) -> Option<Rejection<'a>> {
    candidate.host.not_ready.as_ref().map(Rejection::NotReady)
}

fn fault<'a>(candidate: &Candidate<'a>, _: &'a Needs) -> Option<Rejection<'a>> {
    candidate.host.faults.first().map(Rejection::Fault)
}

fn role<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    needs.roles.iter().find(|role| !candidate.host.roles.contains(*role)).map(Rejection::Role)
}

fn zone<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    let zone = candidate.host.zone.as_ref();
    let allowed = needs.zones.is_empty() || zone.is_some_and(|zone| needs.zones.contains(zone));
    (!allowed).then_some(Rejection::Zone(zone))
}

fn label<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    needs.labels.iter().find_map(|(key, wanted)| {
        let found = candidate.host.labels.get(key).map(String::as_str);
        (found != Some(wanted)).then_some(Rejection::Label { key, wanted, found })
    })
}

fn accelerator<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    let there = candidate.host.inventory.as_ref()?.accelerators;
    let wanted = needs.accelerator;
    let has = match wanted {
        Accelerator::Auto => there.kvm || there.tcg,
        Accelerator::Kvm => there.kvm,
        Accelerator::Tcg => there.tcg,
    };
    (!has).then_some(Rejection::Accelerator { wanted, there })
}

fn memory<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    short(candidate, needs, Resource::Memory)
}

fn vcpus<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    short(candidate, needs, Resource::Vcpus)
}

fn disk<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    short(candidate, needs, Resource::Disk)
}

fn short<'a>(candidate: &Candidate<'a>, needs: &Needs, resource: Resource) -> Option<Rejection<'a>> {
    let overhead = candidate.host.inventory.as_ref()?.overhead;
    let asked = needs.demand.with_overhead(overhead).get(resource);
    let available = candidate.free.get(resource);
    (asked > available).then_some(Rejection::Short { resource, asked, available })
}

fn image<'a>(candidate: &Candidate<'a>, needs: &'a Needs) -> Option<Rejection<'a>> {
    let image = needs.image.as_ref()?;
    candidate.host.inventory.as_ref()?.unobtainable.contains(image).then_some(Rejection::Image(image))
}

fn anti_affinity<'a>(_: &Candidate<'a>, members: u32, guest: &'a Guest) -> Option<Rejection<'a>> {
    (guest.group == Group::Masters && members > 0).then_some(Rejection::AntiAffinity(&guest.cluster))
}

fn network_overlap<'a>(candidate: &Candidate<'a>, _: u32, guest: &'a Guest) -> Option<Rejection<'a>> {
    let cluster = guest.overlay?.cidr.network();
    let networks = &candidate.host.inventory.as_ref()?.networks;
    let host = *networks.iter().find(|network| overlap(**network, cluster))?;
    Some(Rejection::NetworkOverlap { cluster, host })
}

fn vni_taken<'a>(candidate: &Candidate<'a>, _: u32, guest: &'a Guest) -> Option<Rejection<'a>> {
    let vni = guest.overlay?.vni;
    let by = candidate.host.inventory.as_ref()?.vnis.get(&vni)?;
    let own = matches!(by, Held::ByCluster(cluster) if *cluster == guest.cluster);
    (!own).then_some(Rejection::VniTaken { vni, by })
}
