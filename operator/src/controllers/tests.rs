//! Objects for tests, and an operator on a real store whose hosts are simulated.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use goliath_proto::agent::v1 as pb;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::{Outside, finalizer, guest, host, network};
use crate::{
    agents::{
        Connections, Limits,
        simulated::{Faults, Paces, SimulatedAgent, World},
    },
    context::Context,
    network::VniRange,
    objects::{Cluster, Guest, Host, Object, ResourceExt as _},
    pki::{Authorities, IssuerConfig},
    render::Templates,
    runtime::{Backoff, Tasks},
    store::{EmbeddedStore, Options, Preconditions, Store as _, StoreError},
};

/// A Guest as placement leaves it: bound to a host, or not yet.
pub(crate) fn guest(name: &str, host: Option<&str>) -> Guest {
    let (cluster, hostname) = name.split_once('.').unwrap();
    let index: u64 = hostname.rsplit_once('-').unwrap().1.parse().unwrap();
    let mut guest: Guest = serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Guest",
        "metadata": {
            "name": name, "uid": uuid::Uuid::new_v4().to_string(), "generation": 2, "finalizers": [finalizer::GUEST]
        },
        "spec": {
            "cluster": cluster, "role": "worker", "pool": "default", "index": index, "hostname": hostname,
            "machine": { "vcpus": 1, "memory": "1GiB" },
            "image": "registry.example/debian:12",
            "lifecycle": { "restartOnChange": true },
        }
    }))
    .unwrap();
    guest.spec.binding = host.map(|host| crate::objects::Binding {
        host: host.parse().unwrap(),
        reason: "a test says so".to_owned(),
        time: crate::objects::whole_seconds(jiff::Timestamp::UNIX_EPOCH),
    });
    guest
}

/// A Host at which a simulated agent answers.
pub(crate) fn host(name: &str) -> Host {
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Host",
        "metadata": { "name": name, "generation": 1 },
        "spec": { "address": format!("{name}:7443") }
    }))
    .unwrap()
}

/// A small Cluster.
pub(crate) fn cluster(name: &str) -> Cluster {
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name, "generation": 1 },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": {
                "replicas": 1, "machine": { "vcpus": 2, "memory": "2GiB" }, "image": "registry.example/debian:12"
            }
        }
    }))
    .unwrap()
}

/// Everything is quick, and given up soon.
const LIMITS: Limits = Limits {
    connect: Duration::from_millis(100),
    call: Duration::from_millis(100),
    doctor: Duration::from_millis(100),
    keep_alive: Duration::from_millis(100),
};

fn host_settings() -> host::Settings {
    host::Settings {
        dial_again: Backoff { first: Duration::from_millis(5), longest: Duration::from_millis(50) },
        dials: 4,
        heartbeat: Duration::from_millis(50),
        heartbeat_written: Duration::from_secs(1),
        images: Duration::from_secs(1),
        doctor: Duration::from_secs(1),
        lost_after: Duration::from_millis(300),
    }
}

fn network_settings() -> network::Settings {
    let vnis = VniRange::new(5000.try_into().unwrap(), 5999.try_into().unwrap()).unwrap();
    network::Settings { vnis, gather: Duration::from_millis(5) }
}

fn local_issuer() -> Arc<Authorities> {
    let local: IssuerConfig = serde_json::from_value(json!({ "kind": "local" })).unwrap();
    let issuers = BTreeMap::from([("local".parse().unwrap(), local)]);
    Arc::new(Authorities::start(&issuers, Path::new("/nowhere")).unwrap())
}

/// A store, simulated hosts, and an operator that can be killed at any instant.
pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) store: Arc<EmbeddedStore>,
    runtime: Runtime,
    operator: Option<Operator>,
    /// Whether the operator has all controllers, or those alone that speak to agents.
    is_whole: bool,
    settings: host::Settings,
    _directory: TempDir,
}

/// What dies with its runtime: every task ends where it is.
struct Operator {
    runtime: Runtime,
    connections: Connections<SimulatedAgent>,
}

impl Lab {
    /// With these hosts, declared and there, and an operator whose controllers are those that speak to agents.
    pub(crate) fn new(hosts: &[&str]) -> Self {
        Self::with(hosts, false, host_settings())
    }

    /// With these hosts, and an operator with all controllers; its issuer is `local`.
    pub(crate) fn whole(hosts: &[&str]) -> Self {
        Self::with(hosts, true, host_settings())
    }

    /// With these hosts, and an operator as [`Lab::new`] has it, which asks agents nothing without a reason.
    pub(crate) fn quiet(hosts: &[&str]) -> Self {
        let never = Duration::from_hours(1);
        let settings = host::Settings { heartbeat: never, images: never, doctor: never, ..host_settings() };
        Self::with(hosts, false, settings)
    }

    fn with(hosts: &[&str], is_whole: bool, settings: host::Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let mut lab = Self {
            world: World::new(Paces::fast(), LIMITS),
            store: Arc::new(store),
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
            operator: None,
            is_whole,
            settings,
            _directory: directory,
        };
        for name in hosts {
            lab.world.add_host(name, pb::Capacity { vcpus: 64, memory_bytes: 64 << 30, disk_bytes: 1 << 40 });
            lab.create(&host(name));
        }
        lab.start_operator();
        lab
    }

    /// Starts an operator, if none runs.
    pub(crate) fn start_operator(&mut self) {
        if self.operator.is_some() {
            return;
        }
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let connections = Connections::default();
        let (store, offered, world) = (Arc::clone(&self.store), connections.clone(), self.world.clone());
        runtime.block_on(async {
            let tasks = Tasks::new();
            let context = Context::start(store, offered, &tasks);
            context.caches.synced().await;
            let connector = Arc::new(world);
            if self.is_whole {
                let outside = Outside {
                    connector,
                    hosts: self.settings,
                    network: network_settings(),
                    templates: Arc::new(Templates::load(None).unwrap()),
                    authorities: local_issuer(),
                };
                super::start(&context, outside, &tasks);
            } else {
                guest::start(&context, &tasks);
                network::start(&context, network_settings(), &tasks);
                host::start(&context, connector, self.settings, &tasks);
            }
        });
        self.operator = Some(Operator { runtime, connections });
    }

    /// Kills the operator: nothing that it had begun is brought to an end.
    pub(crate) fn kill_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Whether an agent can be asked now.
    pub(crate) fn is_connected(&self, host: &str) -> bool {
        self.operator.as_ref().is_some_and(|operator| operator.connections.get(host).is_some())
    }

    /// How a host fails from now on.
    pub(crate) fn fail(&self, host: &str, faults: Faults) {
        self.world.set_faults(host, faults);
    }

    /// Writes a new object.
    pub(crate) fn create<T: Object>(&self, object: &T) -> T {
        self.runtime.block_on(self.store.create(object)).unwrap()
    }

    /// Reads an object; none: it is gone.
    pub(crate) fn get<T: Object>(&self, name: &str) -> Option<T> {
        match self.runtime.block_on(self.store.get(name)) {
            Ok(object) => Some(object),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// All objects of a kind.
    pub(crate) fn list<T: Object>(&self) -> Vec<T> {
        self.runtime.block_on(self.store.list(&crate::store::Selector::everything())).unwrap().items
    }

    /// Changes an object, however often others do.
    pub(crate) fn change<T: Object>(&self, name: &str, change: impl Fn(&mut T)) {
        while let Some(mut object) = self.get::<T>(name) {
            change(&mut object);
            match self.runtime.block_on(self.store.replace(&object)) {
                // Somebody else was first; or it has gone, which the next look tells.
                Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => {}
                done => return drop(done.unwrap()),
            }
        }
    }

    /// Deletes an object, if it is there.
    pub(crate) fn delete<T: Object>(&self, name: &str) {
        match self.runtime.block_on(self.store.delete::<T>(name, Preconditions::default())) {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until something holds; it says what it still waits for.
    pub(crate) fn until(&self, mut waits_for: impl FnMut(&Self) -> Option<String>) {
        let begun = Instant::now();
        while let Some(what) = waits_for(self) {
            assert!(begun.elapsed() < Duration::from_mins(1), "after a minute: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is not yet as the Guests say; none: all hosts run them and nothing else, and the Guests say so.
    pub(crate) fn unfinished(&self, hosts: &[&str]) -> Option<String> {
        let guests = self.list::<Guest>();
        for guest in &guests {
            let name = guest.name_any();
            let Some(status) = &guest.status else { return Some(format!("{name} has no status")) };
            let generation = guest.metadata.generation;
            if guest.metadata.deletion_timestamp.is_some() {
                return Some(format!("{name} goes: {:?}", status.conditions.get("Deleting")));
            }
            if !status.conditions.is_true(guest::condition::READY)
                || status.running_generation != generation
                || status.observed_generation != generation
            {
                return Some(format!("{name} is not ready at generation {generation:?}: {status:#?}"));
            }
        }
        hosts.iter().find_map(|host| {
            let bound = guests.iter().filter(|guest| guest.spec.host().map(AsRef::as_ref) == Some(*host));
            let bound = bound.map(|guest| guest.metadata.uid.as_ref().unwrap().parse().unwrap()).collect();
            let there = self.world.guests(host);
            (there != bound).then(|| format!("{host} has {there:?} and shall have {bound:?}"))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.kill_operator();
    }
}
