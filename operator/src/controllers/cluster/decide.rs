//! What is to be done for a cluster now. Pure: the same view gives the same decision, and whoever was killed in the midst
//! of carrying one out just decides again.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    certificates,
    change::{Blueprint, Change},
    group::{Group, name_of, object_name},
    health::{is_leaving, is_turned_away, waits_for},
    owner::{is_owned, owned_metadata},
    status::{self, Progress},
};
use crate::{
    controllers::finalizer,
    objects::{
        Certificate, CertificateAuthority, CertificateAuthoritySpec, Cluster, ClusterStatus, Guest, GuestRole,
        NetworkAllocation, Object, ObjectName,
    },
    pki::kubernetes,
    render::Templates,
    runtime::write::has_finalizer,
};

mod create;
mod rollout;
mod slot;

pub use rollout::DISCARD_MASTER_DATA;
use rollout::HOST;
pub(super) use slot::{Slot, State, why_not_ready};

/// All that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// As it was last read.
    pub cluster: &'a Cluster,
    /// The one that has the cluster's name.
    pub authority: Option<&'a CertificateAuthority>,
    /// Those that name the cluster, by name.
    pub guests: &'a [Arc<Guest>],
    /// Those that name the cluster, by name.
    pub certificates: &'a [Arc<Certificate>],
    /// What seeds are rendered from.
    pub templates: &'a Templates,
    /// Written into conditions.
    pub now: Timestamp,
}

/// What is to be done, and what people are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// To be written first: it keeps what the actions take away.
    pub status: ClusterStatus,
    /// Each for itself, and safe to repeat.
    pub actions: Vec<Action>,
}

/// A write. Objects that exist are as they were read, but for what changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// From now on the cluster does not go before all that it owns is gone.
    KeepCluster,
    /// All that it owned is gone.
    ReleaseCluster,
    /// The cluster's CA.
    CreateAuthority(Box<CertificateAuthority>),
    /// The manifest changed.
    UpdateAuthority(Box<CertificateAuthority>),
    /// The last of all.
    DeleteAuthority(Box<CertificateAuthority>),
    /// Complete, but for its host.
    CreateGuest(Box<Guest>),
    /// The manifest changed, and the guest can follow.
    UpdateGuest(Box<Guest>),
    /// One too many, or to be replaced, or the cluster goes.
    DeleteGuest(Arc<Guest>),
    /// What a guest asks its issuer for, to look at.
    CreateCertificate(Box<Certificate>),
    /// The guest asks for another one.
    UpdateCertificate(Box<Certificate>),
    /// The guest does not ask for it any more.
    DeleteCertificate(Arc<Certificate>),
    /// The guest's agent told something else.
    CertificateStatus(Box<Certificate>),
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    let mut decision = if view.cluster.metadata.deletion_timestamp.is_some() {
        delete(view)
    } else {
        let groups = Group::all(&view.cluster.spec);
        Builder::new(view, &groups).decide()
    };
    if view.cluster.spec.paused {
        decision.actions.clear();
    }
    decision
}

/// Guests, then the network, which is not ours to remove, then the authority.
fn delete(view: &View<'_>) -> Decision {
    let mut actions = Vec::new();
    let guests: Vec<_> = view.guests.iter().filter(|guest| is_owned(view.cluster, &guest.metadata)).collect();
    for guest in guests.iter().filter(|guest| !is_leaving(guest)) {
        actions.push(Action::DeleteGuest(Arc::clone(guest)));
    }
    let authority = view.authority.filter(|authority| is_owned(view.cluster, &authority.metadata));
    let waits = if !guests.is_empty() {
        status::WaitsFor::Guests(guests.iter().map(|guest| waits_for(guest)).collect())
    } else if has_finalizer(view.cluster, finalizer::NETWORK) {
        status::WaitsFor::Network
    } else if let Some(authority) = authority {
        if authority.metadata.deletion_timestamp.is_none() {
            actions.push(Action::DeleteAuthority(Box::new(authority.clone())));
        }
        status::WaitsFor::Authority
    } else {
        if has_finalizer(view.cluster, finalizer::CLUSTER) {
            actions.push(Action::ReleaseCluster);
        }
        status::WaitsFor::Others
    };
    Decision { actions, status: status::of_deletion(view, &waits) }
}

struct Builder<'a> {
    view: &'a View<'a>,
    groups: &'a [Group<'a>],
    actions: Vec<Action>,
    /// Why something that is missing is not done now; the first counts.
    waits: Vec<Progress>,
    reserved: BTreeMap<ObjectName, Ipv4Addr>,
}

impl<'a> Builder<'a> {
    fn new(view: &'a View<'a>, groups: &'a [Group<'a>]) -> Self {
        Self { view, groups, actions: Vec::new(), waits: Vec::new(), reserved: BTreeMap::new() }
    }

    fn decide(mut self) -> Decision {
        let cluster = self.view.cluster;
        if !has_finalizer(cluster, finalizer::CLUSTER) {
            // Before anything is made that it has to take away.
            self.actions.push(Action::KeepCluster);
            return self.done(&[]);
        }
        let authority_is_ready = self.authority();
        let Some(network) = cluster.status.as_ref().and_then(|status| status.network.as_ref()) else {
            self.waits.push(Progress::wait("WaitsForNetwork", "the network is not allocated yet"));
            return self.done(&[]);
        };
        let slots = match self.survey(network) {
            Ok(slots) => slots,
            Err(problem) => {
                self.waits.push(Progress::fault("Invalid", problem));
                return self.done(&[]);
            }
        };
        self.keep_addresses(&slots);
        self.remove_surplus(&slots);
        self.update(&slots);
        if authority_is_ready {
            self.create(network, &slots);
        } else if slots.iter().any(|slot| matches!(slot.state, State::Empty)) {
            self.waits.push(Progress::wait("WaitsForAuthority", "the certificate authority is not ready"));
        }
        self.done(&slots)
    }

    fn done(mut self, slots: &[Slot<'_>]) -> Decision {
        self.actions.extend(certificates::decide(self.view));
        let status = status::of_cluster(self.view, self.groups, slots, &self.waits, self.reserved);
        Decision { actions: self.actions, status }
    }

    /// Whether it has done what the manifest says.
    fn authority(&mut self) -> bool {
        let cluster = self.view.cluster;
        let name = name_of(cluster);
        let spec = name.parse().and_then(|name| kubernetes::authority(&name, &cluster.spec));
        let spec: CertificateAuthoritySpec = match spec {
            Ok(spec) => spec,
            Err(problem) => {
                self.waits.push(Progress::fault("Invalid", format!("no certificate authority can be made: {problem}")));
                return false;
            }
        };
        let Some(authority) = self.view.authority else {
            let metadata = owned_metadata(cluster, name.to_owned());
            let authority = CertificateAuthority::from_parts(metadata, spec, None);
            self.actions.push(Action::CreateAuthority(Box::new(authority)));
            return false;
        };
        if authority.spec.cluster.as_str() != name {
            let message = format!("CertificateAuthority {name} is that of cluster {}", authority.spec.cluster);
            self.waits.push(Progress::fault("AuthorityTaken", message));
            return false;
        }
        // One that somebody else made is used as it is.
        if is_owned(cluster, &authority.metadata) && authority.spec != spec {
            let mut authority = authority.clone();
            authority.spec = spec;
            self.actions.push(Action::UpdateAuthority(Box::new(authority)));
            return false;
        }
        status::authority_is_ready(authority)
    }

    /// All places that the manifest has, with what is there.
    fn survey(&self, network: &NetworkAllocation) -> Result<Vec<Slot<'a>>, String> {
        let cluster = self.view.cluster;
        let guests: HashMap<&str, &'a Arc<Guest>> =
            self.view.guests.iter().filter_map(|guest| Some((guest.metadata.name.as_deref()?, guest))).collect();
        let mut slots = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            let blueprint = Blueprint { cluster, network, group };
            for index in group.indexes() {
                let name = object_name(name_of(cluster), &group.hostname(index));
                let state = match guests.get(name.as_str()) {
                    None => State::Empty,
                    Some(guest) if is_leaving(guest) || !is_owned(cluster, &guest.metadata) => State::Blocked(guest),
                    // Its uid stays with that host, which may have begun with it; another one asks another host.
                    Some(guest) if is_turned_away(guest, self.view.now) => {
                        State::Filled(guest, Change::Replace(vec![HOST]))
                    }
                    Some(guest) => {
                        let change = blueprint.change(guest).map_err(|problem| format!("{name}: {problem}"))?;
                        State::Filled(guest, change)
                    }
                };
                slots.push(Slot { group: number, index, name, state });
            }
        }
        Ok(slots)
    }

    fn is_master(&self, slot: &Slot<'_>) -> bool {
        self.groups[slot.group].role == GuestRole::Master
    }

    /// A guest that goes and comes again gets the address that it had.
    fn keep_addresses(&mut self, slots: &[Slot<'_>]) {
        let known = self.view.cluster.status.as_ref().map(|status| &status.reserved_addresses);
        for slot in slots {
            let address = match &slot.state {
                State::Filled(..) => None,
                State::Blocked(guest) => guest.spec.network.as_ref().map(|interface| interface.ipv4_address),
                State::Empty => {
                    known.and_then(|known| known.iter().find(|(name, _)| name.as_str() == slot.name)).map(|(_, a)| *a)
                }
            };
            self.reserved.extend(slot.name.parse().ok().zip(address));
        }
    }
}
