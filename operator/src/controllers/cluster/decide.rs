//! What is to be done for a cluster now. Pure: the same view gives the same decision, and whoever was killed in the midst
//! of carrying one out just decides again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::Ipv4Addr,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    addresses::AddressPlan,
    certificates,
    change::{Blueprint, CONFIGURATION, Change, configuration, keeps_data},
    group::{Group, name_of, object_name},
    health::{Health, health, is_leaving, is_refused, is_settled, is_turned_away, waits_for},
    status::{self, Progress},
};
use crate::{
    controllers::finalizer,
    objects::{
        Certificate, CertificateAuthority, CertificateAuthoritySpec, Cluster, ClusterStatus, Guest, GuestIndex,
        GuestRole, NetworkAllocation, Object, ObjectMeta, ObjectName, OwnerReference, ResourceExt as _,
    },
    pki::kubernetes,
    render::{Inputs, Node, Templates},
    runtime::write::has_finalizer,
};

/// On Clusters: its value is the generation whose change may cost masters their data disks.
pub const DISCARD_MASTER_DATA: &str = "goliath.dev/discard-master-data";

/// Why a guest is made again that never was where it should be: there is nothing to lose.
const HOST: &str = "host";

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

/// A place for a guest.
pub(super) struct Slot<'a> {
    pub(super) group: usize,
    pub(super) index: GuestIndex,
    /// Of the object.
    pub(super) name: String,
    pub(super) state: State<'a>,
}

/// What is at a place.
pub(super) enum State<'a> {
    /// Nothing.
    Empty,
    /// A guest that goes, or one that is not the cluster's.
    Blocked(&'a Arc<Guest>),
    /// The guest, and what it lacks.
    Filled(&'a Arc<Guest>, Change),
}

impl<'a> Slot<'a> {
    pub(super) fn guest(&self) -> Option<&'a Arc<Guest>> {
        match &self.state {
            State::Empty => None,
            State::Blocked(guest) | State::Filled(guest, _) => Some(guest),
        }
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(&self.state, State::Filled(guest, _) if health(guest) == Health::Serving)
    }

    /// Serves, and by the latest of what it was told.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(&self.state, State::Filled(guest, _) if health(guest) == Health::Serving && is_settled(guest))
    }

    /// Why a change takes the guest away for a while.
    fn disruption(&self) -> Option<&[&'static str]> {
        match &self.state {
            State::Filled(_, Change::Restart(_, fields) | Change::Replace(fields)) => Some(fields),
            _ => None,
        }
    }

    fn is_down(&self) -> bool {
        matches!(&self.state, State::Filled(guest, _) if health(guest) == Health::Down)
    }
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

    /// Guests that no place is for. Workers go at once; masters one by one, while the others serve, since etcd wants a
    /// majority.
    fn remove_surplus(&mut self, slots: &[Slot<'_>]) {
        let wanted: HashSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        let mut surplus: Vec<_> = self
            .view
            .guests
            .iter()
            .filter(|guest| is_owned(self.view.cluster, &guest.metadata))
            .filter(|guest| !wanted.contains(guest.metadata.name.as_deref().unwrap_or_default()))
            .collect();
        surplus.sort_by_key(|guest| (guest.spec.pool.clone(), std::cmp::Reverse(guest.spec.index)));
        let (masters, workers): (Vec<_>, Vec<_>) =
            surplus.into_iter().partition(|guest| guest.spec.role == GuestRole::Master);
        for guest in workers.into_iter().filter(|guest| !is_leaving(guest)) {
            self.actions.push(Action::DeleteGuest(Arc::clone(guest)));
        }
        if let Some(highest) = masters.iter().find(|guest| !is_leaving(guest)) {
            let busy = masters.iter().find(|guest| is_leaving(guest)).map(|guest| waits_for(guest));
            let unready = slots.iter().filter(|slot| self.is_master(slot)).find(|slot| !slot.is_serving());
            match busy.or_else(|| unready.map(why_not_ready)) {
                None => self.actions.push(Action::DeleteGuest(Arc::clone(highest))),
                Some(reason) => {
                    let message = format!(
                        "{} is one too many, and stays until the others are ready: {reason}",
                        highest.name_any()
                    );
                    self.waits.push(Progress::step("ScalingDown", message));
                }
            }
        }
    }

    /// Guests that are not as the manifest has them.
    ///
    /// Those that were seen not to serve follow at once: nothing is lost by it, and a manifest that broke them can be
    /// mended. One that serves follows when every other one does, the highest index first. Masters go before workers.
    fn update(&mut self, slots: &[Slot<'_>]) {
        for slot in slots {
            if let State::Filled(_, Change::Live(guest)) = &slot.state {
                self.actions.push(Action::UpdateGuest(guest.clone()));
            }
        }
        let disrupted = |slot: &&Slot<'_>| slot.disruption().is_some();
        let masters: Vec<_> = slots.iter().filter(|slot| self.is_master(slot)).filter(disrupted).collect();
        let tier = if masters.is_empty() { slots.iter().filter(disrupted).collect() } else { masters };
        let (held, tier): (Vec<&Slot<'_>>, Vec<_>) = tier.into_iter().partition(|slot| self.is_held(slot));
        let down: Vec<_> = tier.iter().filter(|slot| slot.is_down()).collect();
        if !down.is_empty() {
            for slot in down {
                self.disrupt(slot);
            }
        } else if let Some(next) = next_to_disrupt(&tier) {
            match slots.iter().find(|slot| slot.name != next.name && !slot.is_at_rest()) {
                None => self.disrupt(next),
                Some(busy) => {
                    let fields = next.disruption().unwrap_or_default().join(", ");
                    let reason = why_not_ready(busy);
                    let message =
                        format!("{} is next to follow ({fields}), when all others are ready: {reason}", next.name);
                    self.waits.push(Progress::step("RollingOut", message));
                }
            }
        } else if let Some(silent) = tier.first() {
            let message = format!("{} follows when it is seen again: {}", silent.name, why_not_ready(silent));
            self.waits.push(Progress::step("RollingOut", message));
        }
        if let Some(slot) = held.first() {
            let generation = self.view.cluster.metadata.generation.unwrap_or_default();
            let fields = slot.disruption().unwrap_or_default().join(", ");
            let message = format!(
                "{} would have to be replaced ({fields}), and its data disks with it: undo the change, or allow it by the \
                 annotation {DISCARD_MASTER_DATA}={generation} on the cluster",
                slot.name
            );
            self.waits.push(Progress::fault("DataWouldBeLost", message));
        }
    }

    /// A master's data disk is the cluster's memory: what a member of etcd knew does not come back with its name.
    fn is_held(&self, slot: &Slot<'_>) -> bool {
        let State::Filled(guest, Change::Replace(fields)) = &slot.state else { return false };
        let metadata = &self.view.cluster.metadata;
        let allowed = metadata.annotations.as_ref().and_then(|annotations| annotations.get(DISCARD_MASTER_DATA));
        let allowed =
            allowed.zip(metadata.generation).is_some_and(|(text, generation)| *text == generation.to_string());
        self.is_master(slot) && keeps_data(guest) && *fields != [HOST] && !allowed
    }

    fn disrupt(&mut self, slot: &Slot<'_>) {
        match &slot.state {
            State::Filled(_, Change::Restart(guest, _)) => self.actions.push(Action::UpdateGuest(guest.clone())),
            State::Filled(guest, Change::Replace(_)) => {
                let address = guest.spec.network.as_ref().map(|interface| interface.ipv4_address);
                self.reserved.extend(slot.name.parse().ok().zip(address));
                self.actions.push(Action::DeleteGuest(Arc::clone(guest)));
            }
            _ => {}
        }
    }

    /// Guests for the places that are empty. Workers come once the masters serve; where there are workers already, a
    /// majority of masters will do, for with it the cluster works.
    fn create(&mut self, network: &NetworkAllocation, slots: &[Slot<'_>]) {
        let empty: Vec<_> = slots.iter().filter(|slot| matches!(slot.state, State::Empty)).collect();
        if empty.is_empty() {
            return;
        }
        let (masters, workers): (Vec<_>, Vec<_>) = slots.iter().partition(|slot| self.is_master(slot));
        let serving = masters.iter().filter(|slot| slot.is_serving()).count();
        let has_workers = workers.iter().any(|slot| slot.guest().is_some());
        let enough = if has_workers { masters.len() / 2 + 1 } else { masters.len() };
        let may_have_workers = serving >= enough;
        if !may_have_workers && empty.iter().any(|slot| !self.is_master(slot)) {
            let reason = masters.iter().find(|slot| !slot.is_serving()).map(|slot| why_not_ready(slot));
            let message = format!("workers wait for the masters: {}", reason.unwrap_or_default());
            self.waits.push(Progress::wait("WaitsForMasters", message));
        }
        let due = empty.into_iter().filter(|slot| may_have_workers || self.is_master(slot)).collect::<Vec<_>>();
        let mut plan = match AddressPlan::new(self.view.cluster, network, self.view.guests) {
            Ok(plan) => plan,
            Err(problem) => return self.waits.push(Progress::fault("NoAddress", problem)),
        };
        let members = match plan.members() {
            Ok(members) => members,
            Err(problem) => return self.waits.push(Progress::fault("NoAddress", problem)),
        };
        for slot in due {
            match self.guest(network, slot, &mut plan, &members) {
                Ok(guest) => self.actions.push(Action::CreateGuest(Box::new(guest))),
                Err(problem) => self.waits.push(problem),
            }
        }
    }

    /// Complete, but for its host.
    fn guest(
        &self,
        network: &NetworkAllocation,
        slot: &Slot<'_>,
        plan: &mut AddressPlan,
        members: &[crate::render::Member],
    ) -> Result<Guest, Progress> {
        let cluster = self.view.cluster;
        let group = &self.groups[slot.group];
        let address = plan.give(&slot.name).map_err(|problem| Progress::fault("NoAddress", problem))?;
        let blueprint = Blueprint { cluster, network, group };
        let invalid = |problem| Progress::fault("Invalid", format!("{}: {problem}", slot.name));
        let mut spec = blueprint.spec(slot.index, address).map_err(invalid)?;
        let inputs = Inputs {
            cluster: name_of(cluster),
            spec: &cluster.spec,
            gateway_address: network.gateway_address,
            masters: members,
            node: Node {
                name: spec.hostname.as_str(),
                address,
                role: group.role,
                pool: group.pool,
                index: slot.index,
                labels: group.labels,
            },
        };
        let seed = self.view.templates.seed(group.seed, &inputs);
        spec.seed = Some(seed.map_err(|error| Progress::fault("TemplateFailed", format!("{}: {error}", slot.name)))?);
        let mut metadata = owned_metadata(cluster, slot.name.clone());
        metadata.labels = Some(blueprint.labels());
        metadata.annotations =
            Some(BTreeMap::from([(CONFIGURATION.to_owned(), configuration(&cluster.spec, group.seed))]));
        metadata.finalizers = Some(vec![finalizer::GUEST.to_owned()]);
        Ok(Guest::from_parts(metadata, spec, None))
    }
}

/// Of those that serve: one whose agent did not take the last change up, since this one may be its remedy; then the
/// first group's highest index.
fn next_to_disrupt<'s, 'a>(tier: &[&'s Slot<'a>]) -> Option<&'s Slot<'a>> {
    let serving = tier.iter().copied().filter(|slot| slot.is_serving());
    serving.max_by_key(|slot| (!slot.is_at_rest(), std::cmp::Reverse(slot.group), slot.index))
}

/// Why a place has no guest that serves as it should.
pub(super) fn why_not_ready(slot: &Slot<'_>) -> String {
    match &slot.state {
        State::Empty => format!("{} is not there", slot.name),
        State::Filled(guest, _) if slot.is_serving() && !is_refused(guest) => {
            format!("{} has not taken the last change up", slot.name)
        }
        State::Blocked(guest) | State::Filled(guest, _) => waits_for(guest),
    }
}

/// Of an object that goes with the cluster.
pub(super) fn owned_metadata(cluster: &Cluster, name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), owner_references: Some(vec![owner(cluster)]), ..ObjectMeta::default() }
}

/// The object as the owner of another.
pub(super) fn owner<T: Object>(object: &T) -> OwnerReference {
    OwnerReference {
        api_version: crate::objects::API_VERSION.to_owned(),
        kind: T::KIND.as_str().to_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether an object was made for this cluster, and not for one that had its name before.
pub(super) fn is_owned(cluster: &Cluster, metadata: &ObjectMeta) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
}
