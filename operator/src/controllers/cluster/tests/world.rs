//! A cluster with everything around it, as the store and the other controllers behave; what a decision may not do fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{
    Action, Decision, View, decide,
    group::Group,
    health::{Health, health, is_leaving, is_settled},
    owner::is_owned,
};
use crate::{
    controllers::finalizer,
    objects::{
        Certificate, CertificateAuthority, CertificateAuthorityStatus, Cluster, ConditionStatus, Guest, GuestRole,
        NetworkAllocation, ObjectMeta, ResourceExt as _, Time,
    },
    render::Templates,
};

pub(super) fn templates() -> &'static Templates {
    static TEMPLATES: OnceLock<Templates> = OnceLock::new();
    TEMPLATES.get_or_init(|| Templates::load(None).unwrap())
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// Workers of a pool that is called `name`; with a root disk they are replaced for another image.
pub(super) fn pool(name: &str, replicas: u16, disks: &Value) -> Value {
    json!({
        "name": name, "replicas": replicas, "machine": { "vcpus": 1, "memory": "1GiB" },
        "image": "registry.example/worker:1", "boot": { "kernel": {} }, "disks": disks,
    })
}

pub(super) fn root_disk() -> Value {
    json!([{ "root": { "size": "8GiB" } }])
}

pub(super) fn manifest(masters: u16, workers: &[Value]) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Cluster",
        "metadata": { "name": "acme", "uid": "c1", "generation": 1 },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": {
                "replicas": masters, "machine": { "vcpus": 2, "memory": "2GiB" }, "boot": { "kernel": {} },
                "image": "registry.example/master:1", "disks": [{ "data": { "serial": "etcd", "size": "4GiB" } }],
            },
            "workers": workers,
        },
    })
}

/// All that there is.
pub(super) struct World {
    /// None: it is gone.
    pub(super) cluster: Option<Cluster>,
    pub(super) authority: Option<CertificateAuthority>,
    pub(super) guests: BTreeMap<String, Arc<Guest>>,
    pub(super) certificates: BTreeMap<String, Arc<Certificate>>,
    /// Of guests that the controller took away to make them again.
    addresses: BTreeMap<String, Ipv4Addr>,
    uids: u32,
}

impl World {
    pub(super) fn new(manifest: Value) -> Self {
        let mut cluster: Cluster = serde_json::from_value(manifest).unwrap();
        cluster.metadata.finalizers = Some(vec![finalizer::NETWORK.to_owned()]);
        Self {
            cluster: Some(cluster),
            authority: None,
            guests: BTreeMap::new(),
            certificates: BTreeMap::new(),
            addresses: BTreeMap::new(),
            uids: 0,
        }
    }

    /// What exists already, as after a bring-up.
    pub(super) fn settled(manifest: Value) -> Self {
        let mut world = Self::new(manifest);
        world.finish();
        world
    }

    pub(super) fn decide(&self) -> Option<Decision> {
        let guests: Vec<_> = self.guests.values().cloned().collect();
        let certificates: Vec<_> = self.certificates.values().cloned().collect();
        let view = View {
            cluster: self.cluster.as_ref()?,
            authority: self.authority.as_ref(),
            guests: &guests,
            certificates: &certificates,
            templates: templates(),
            now: now(),
        };
        let decision = decide(&view);
        assert_eq!(decide(&view), decision, "the same view gives the same decision");
        Some(decision)
    }

    /// Decides, and carries out so many of the actions before it dies.
    pub(super) fn reconcile(&mut self, survives: usize) -> usize {
        let Some(Decision { status, actions }) = self.decide() else { return 0 };
        self.check(&actions);
        let count = actions.len();
        if let Some(cluster) = &mut self.cluster {
            cluster.status = Some(status);
        }
        for action in actions.into_iter().take(survives) {
            self.apply(action);
        }
        count
    }

    /// The manifest changes.
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut Cluster)) {
        let Some(cluster) = &mut self.cluster else { return };
        let before = cluster.spec.clone();
        edit(cluster);
        if cluster.spec != before {
            cluster.metadata.generation = cluster.metadata.generation.map(|generation| generation + 1);
        }
        let wanted = self.wanted();
        self.addresses.retain(|name, _| wanted.contains(name));
    }

    pub(super) fn delete(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.metadata.deletion_timestamp.get_or_insert(Time(now()));
        if cluster.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
            self.cluster = None;
        }
    }

    /// The names of the guests that the manifest has.
    pub(super) fn wanted(&self) -> BTreeSet<String> {
        let Some(cluster) = &self.cluster else { return BTreeSet::new() };
        let groups = Group::all(&cluster.spec);
        let names =
            groups.iter().flat_map(|group| group.indexes().map(|index| format!("acme.{}", group.hostname(index))));
        names.collect()
    }

    /// Whether it is there, serves, and took up all that it was told.
    fn is_at_rest(&self, name: &str) -> bool {
        self.guests
            .get(name)
            .is_some_and(|guest| !is_leaving(guest) && health(guest) == Health::Serving && is_settled(guest))
    }

    fn is_serving(&self, name: &str) -> bool {
        self.guests.get(name).is_some_and(|guest| !is_leaving(guest) && health(guest) == Health::Serving)
    }

    /// Whether machine or image differ from the manifest's.
    fn is_outdated(&self, guest: &Guest) -> bool {
        let groups = self.cluster.as_ref().map(|cluster| Group::all(&cluster.spec)).unwrap_or_default();
        let group = groups.iter().find(|group| group.role == guest.spec.role && group.pool == guest.spec.pool.as_ref());
        group.is_some_and(|group| *group.machine != guest.spec.machine || *group.image != guest.spec.image)
    }

    /// What all that is done at once must not do.
    fn check(&self, actions: &[Action]) {
        let cluster = self.cluster.as_ref().unwrap();
        assert!(!cluster.spec.paused || actions.is_empty(), "paused: {actions:?}");
        let wanted = self.wanted();
        let masters: Vec<_> = wanted.iter().filter(|name| name.starts_with("acme.master-")).collect();
        let has_workers = self.guests.keys().any(|name| wanted.contains(name) && !masters.contains(&name));
        let serving_masters = masters.iter().filter(|name| self.is_serving(name)).count();
        let mut taken = Vec::new();
        let mut surplus_masters = Vec::new();
        for action in actions {
            match action {
                Action::CreateGuest(guest) => {
                    let authority = self.authority.as_ref().and_then(|authority| authority.status.as_ref());
                    assert!(authority.is_some_and(|status| status.conditions.is_true("Ready")), "before the authority");
                    if guest.spec.role == GuestRole::Worker {
                        let enough = if has_workers { masters.len() / 2 + 1 } else { masters.len() };
                        assert!(serving_masters >= enough, "a worker before the masters");
                    }
                }
                Action::UpdateGuest(guest) => {
                    let there = &self.guests[&guest.name_any()];
                    if there.spec.machine != guest.spec.machine || there.spec.image != guest.spec.image {
                        taken.push(there);
                    }
                }
                Action::DeleteGuest(guest) if cluster.metadata.deletion_timestamp.is_none() => {
                    assert!(is_owned(cluster, &guest.metadata));
                    if wanted.contains(&guest.name_any()) {
                        taken.push(&self.guests[&guest.name_any()]);
                    } else if guest.spec.role == GuestRole::Master {
                        surplus_masters.push(guest.spec.index);
                    }
                }
                Action::DeleteAuthority(_) => {
                    assert!(self.guests.is_empty(), "the authority before the guests");
                    assert!(!cluster.metadata.finalizers.iter().flatten().any(|name| name == finalizer::NETWORK));
                }
                Action::ReleaseCluster => assert!(self.authority.is_none() && self.guests.is_empty()),
                _ => {}
            }
        }
        let serving: Vec<_> = taken.iter().filter(|guest| health(guest) == Health::Serving).collect();
        assert!(serving.len() <= 1, "more than one that serves: {serving:?}");
        assert!(taken.iter().all(|guest| health(guest) != Health::Unknown), "one that cannot be seen");
        if let Some(guest) = serving.first() {
            let name = guest.name_any();
            for other in wanted.iter().filter(|other| **other != name) {
                assert!(self.is_at_rest(other), "{name} is taken while {other} is not at rest");
            }
            let masters = self.guests.values().filter(|other| other.spec.role == GuestRole::Master);
            let mut masters = masters.filter(|other| wanted.contains(&other.name_any()) && self.is_outdated(other));
            assert!(guest.spec.role == GuestRole::Master || masters.next().is_none(), "{name} before the masters");
            let pool = |other: &&Arc<Guest>| other.spec.pool == guest.spec.pool && other.spec.role == guest.spec.role;
            let higher = self.guests.values().filter(pool).filter(|other| other.spec.index > guest.spec.index);
            let higher = higher.filter(|other| wanted.contains(&other.name_any()) && self.is_outdated(other));
            assert!(!is_settled(guest) || higher.count() == 0, "{name} before a higher index");
        }
        assert!(surplus_masters.len() <= 1, "masters go one by one");
        if let Some(index) = surplus_masters.first() {
            let masters =
                self.guests.values().filter(|guest| guest.spec.role == GuestRole::Master && !is_leaving(guest));
            assert_eq!(masters.map(|guest| guest.spec.index).max(), Some(*index), "the highest index first");
        }
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        uuid::Uuid::from_u128(u128::from(self.uids)).to_string()
    }

    /// As the store does it.
    fn apply(&mut self, action: Action) {
        match action {
            Action::KeepCluster => {
                let finalizers = self.cluster.as_mut().unwrap().metadata.finalizers.get_or_insert_default();
                finalizers.push(finalizer::CLUSTER.to_owned());
            }
            Action::ReleaseCluster => self.release(finalizer::CLUSTER),
            Action::CreateAuthority(mut authority) => {
                assert!(self.authority.is_none());
                authority.metadata.uid = Some(self.uid());
                authority.metadata.generation = Some(1);
                authority.metadata.finalizers = Some(vec![finalizer::AUTHORITY.to_owned()]);
                self.authority = Some(*authority);
            }
            Action::UpdateAuthority(mut authority) => {
                authority.metadata.generation = authority.metadata.generation.map(|generation| generation + 1);
                self.authority = Some(*authority);
            }
            Action::DeleteAuthority(mut authority) => {
                authority.metadata.deletion_timestamp = Some(Time(now()));
                self.authority = Some(*authority);
            }
            Action::CreateGuest(guest) => self.create(*guest),
            Action::UpdateGuest(mut guest) => {
                let there = &self.guests[&guest.name_any()];
                if there.spec != guest.spec {
                    guest.metadata.generation = there.metadata.generation.map(|generation| generation + 1);
                }
                self.guests.insert(guest.name_any(), Arc::new(*guest));
            }
            Action::DeleteGuest(guest) => {
                let name = guest.name_any();
                if self.wanted().contains(&name) {
                    self.addresses.insert(name.clone(), guest.spec.network.as_ref().unwrap().ipv4_address);
                }
                let guest = Arc::make_mut(self.guests.get_mut(&name).unwrap());
                guest.metadata.deletion_timestamp.get_or_insert(Time(now()));
                guest.metadata.generation = guest.metadata.generation.map(|generation| generation + 1);
            }
            Action::CreateCertificate(mut certificate) => {
                certificate.metadata.uid = Some(self.uid());
                let before = self.certificates.insert(certificate.name_any(), Arc::new(*certificate));
                assert!(before.is_none(), "a certificate is made twice");
            }
            Action::UpdateCertificate(certificate) | Action::CertificateStatus(certificate) => {
                self.certificates.insert(certificate.name_any(), Arc::new(*certificate));
            }
            Action::DeleteCertificate(certificate) => {
                self.certificates.remove(&certificate.name_any());
            }
        }
    }

    fn create(&mut self, mut guest: Guest) {
        let name = guest.name_any();
        let address = guest.spec.network.as_ref().unwrap().ipv4_address;
        let others = self.guests.values().map(|guest| guest.spec.network.as_ref().unwrap().ipv4_address);
        assert!(
            others.chain([[10, 7, 0, 1].into(), [10, 7, 0, 254].into()]).all(|other| other != address),
            "{address} twice"
        );
        if let Some(had) = self.addresses.remove(&name) {
            assert_eq!(address, had, "{name} comes again with another address");
        }
        assert!(guest.spec.seed.is_some() && guest.spec.binding.is_none() && !guest.spec.certificates.is_empty());
        assert!(guest.metadata.finalizers.iter().flatten().any(|name| name == finalizer::GUEST));
        guest.metadata.uid = Some(self.uid());
        guest.metadata.generation = Some(1);
        assert!(self.guests.insert(name, Arc::new(guest)).is_none(), "two guests of one name");
    }

    fn release(&mut self, finalizer: &str) {
        let Some(cluster) = &mut self.cluster else { return };
        let finalizers = cluster.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|name| name != finalizer);
        if finalizers.is_empty() && cluster.metadata.deletion_timestamp.is_some() {
            self.cluster = None;
            assert!(self.guests.is_empty() && self.authority.is_none(), "something is left behind");
        }
    }

    /// The network controller: it allocates, and when all guests of a deleted cluster are gone, it takes away.
    pub(super) fn network(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.metadata.deletion_timestamp.is_none() {
            cluster.status.get_or_insert_default().network.get_or_insert(NetworkAllocation {
                vni: 5000.try_into().unwrap(),
                gateway_address: [10, 7, 0, 1].into(),
                peers_generation: 1,
                host_addresses: [("host-1".parse().unwrap(), [10, 7, 0, 254].into())].into(),
            });
        } else if self.guests.is_empty() {
            self.release(finalizer::NETWORK);
        }
    }

    /// The authority controller: it does what the object says.
    pub(super) fn issuer(&mut self) {
        let Some(authority) = &mut self.authority else { return };
        if authority.metadata.deletion_timestamp.is_some() {
            self.authority = None;
            return;
        }
        let status = authority.status.get_or_insert_with(CertificateAuthorityStatus::default);
        status.observed_generation = authority.metadata.generation;
        status.conditions.set("Ready", ConditionStatus::True, "Ready", "", authority.metadata.generation, now());
    }

    /// One guest, by some number: the next thing that happens to it on its way.
    pub(super) fn progress(&mut self, number: usize) {
        let Some(name) = self.guests.keys().nth(number % self.guests.len().max(1)).cloned() else { return };
        if is_leaving(&self.guests[&name]) {
            let uid = self.guests.remove(&name).unwrap().uid();
            self.certificates.retain(|_, certificate| owner_of(&certificate.metadata) != uid);
            return;
        }
        let guest = Arc::make_mut(self.guests.get_mut(&name).unwrap());
        if guest.spec.binding.is_none() {
            let binding = json!({ "host": "host-1", "reason": "", "time": "2026-01-01T00:00:00Z" });
            guest.spec.binding = serde_json::from_value(binding).unwrap();
            guest.metadata.generation = guest.metadata.generation.map(|generation| generation + 1);
            return;
        }
        let generation = guest.metadata.generation;
        let status = guest.status.get_or_insert_default();
        let conditions = &mut status.conditions;
        conditions.set("CertificatesReady", ConditionStatus::True, "Valid", "", None, now());
        conditions.remove("HostReachable");
        if status.observed_generation == generation {
            conditions.set("Ready", ConditionStatus::True, "Running", "", None, now());
        } else {
            // It may have to start again.
            status.observed_generation = generation;
            conditions.set("Ready", ConditionStatus::False, "Starting", "", None, now());
        }
    }

    /// One guest fails, or its host falls silent.
    pub(super) fn fault(&mut self, number: usize, silent: bool) {
        let Some(guest) = self.guests.values_mut().nth(number % 8) else { return };
        let type_ = if silent { "HostReachable" } else { "Ready" };
        let conditions = &mut Arc::make_mut(guest).status.get_or_insert_default().conditions;
        conditions.set(type_, ConditionStatus::False, "Fault", "by chance", None, now());
    }

    /// Nothing bad happens any more: everything comes to rest.
    pub(super) fn finish(&mut self) {
        for _ in 0..400 {
            let busy = self.reconcile(usize::MAX) > 0;
            self.network();
            self.issuer();
            let moving = self.guests.values().any(|guest| !self.is_at_rest(&guest.name_any()));
            for number in 0..self.guests.len() {
                self.progress(number);
            }
            let ready = self
                .cluster
                .as_ref()
                .is_none_or(|cluster| cluster.status.as_ref().is_some_and(|status| status.conditions.is_true("Ready")));
            if !busy && !moving && ready {
                return;
            }
        }
        let actions = self.decide().map(|decision| decision.actions);
        panic!("it does not come to rest: {actions:?}, {:#?}", self.cluster.as_ref().map(|cluster| &cluster.status));
    }
}

fn owner_of(metadata: &ObjectMeta) -> Option<String> {
    metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).next()
}
