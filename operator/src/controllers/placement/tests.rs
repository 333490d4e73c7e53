use std::{sync::Arc, time::Duration};

use serde_json::json;
use tempfile::TempDir;

use super::{Placement, convert, start};
use crate::{
    context::Context,
    objects::{
        Capacity, Cluster, ConditionStatus, Guest, Host, HostStatus, NetworkAllocation, Object, ResourceExt as _,
    },
    placement::{Held, Resource},
    runtime::{Tasks, write},
    store::{EmbeddedStore, Options, Preconditions, Selector, Store as _},
};

const LIMIT: Duration = Duration::from_mins(1);

fn cluster() -> Cluster {
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": "acme" },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": { "replicas": 3, "machine": { "vcpus": 1, "memory": "1GiB" }, "image": "registry.example/a:1" },
        },
    }))
    .unwrap()
}

fn guest(name: &str, memory: &str) -> Guest {
    let (prefix, index) = name.rsplit_once('-').unwrap();
    let (role, pool) = if prefix == "master" { ("master", None) } else { ("worker", Some(prefix)) };
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Guest", "metadata": { "name": format!("acme.{name}") },
        "spec": {
            "cluster": "acme", "role": role, "pool": pool, "index": index.parse::<u64>().unwrap(), "hostname": name,
            "machine": { "vcpus": 1, "memory": memory }, "image": "registry.example/a:1",
            "network": { "ipv4Address": format!("10.7.0.{}", 10 + index.parse::<u64>().unwrap()) },
        },
    }))
    .unwrap()
}

fn host(name: &str) -> Host {
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Host", "metadata": { "name": name },
        "spec": { "address": format!("{name}:7411") },
    }))
    .unwrap()
}

/// Of an agent with 16 vCPUs and some memory, which is all free, and 100 MiB for each QEMU.
fn told(memory_gib: u64) -> HostStatus {
    let capacity = |memory: u64| Capacity {
        vcpus: 16,
        memory: memory.try_into().unwrap(),
        disk: (1_u64 << 40).try_into().unwrap(),
    };
    let mut status = HostStatus {
        capacity: Some(capacity(memory_gib << 30)),
        available: Some(capacity((memory_gib << 30) - (100 << 20))),
        guest_overhead: Some((100_u64 << 20).try_into().unwrap()),
        tcg_allowed: true,
        foreign_vnis: vec![7.try_into().unwrap()],
        ..HostStatus::default()
    };
    for type_ in ["Reachable", "Ready", "DoctorPassed"] {
        status.conditions.set(type_, ConditionStatus::True, "Test", "", None, jiff::Timestamp::UNIX_EPOCH);
    }
    status
}

struct Operator {
    store: Arc<EmbeddedStore>,
    tasks: Tasks,
    placement: Placement,
    _directory: TempDir,
}

impl Operator {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap());
        let tasks = Tasks::new();
        let placement = start(&Context::start(Arc::clone(&store), (), &tasks), &tasks);
        Self { store, tasks, placement, _directory: directory }
    }

    async fn restart(&mut self) {
        self.tasks.shut_down(LIMIT).await.unwrap();
        self.tasks = Tasks::new();
        self.placement = start(&Context::start(Arc::clone(&self.store), (), &self.tasks), &self.tasks);
    }

    async fn change<T: Object>(&self, name: &str, change: impl Fn(&mut T) + Send)
    where
        T::Status: Default,
    {
        loop {
            let mut object = self.store.get::<T>(name).await.unwrap();
            let before = object.clone();
            change(&mut object);
            let outcome = if object.status() == before.status() {
                self.store.replace(&object).await
            } else {
                self.store.replace_status(&object).await
            };
            match outcome {
                Ok(_) => return,
                Err(error) => assert!(error.is_conflict(), "{error}"),
            }
        }
    }

    async fn cluster(&self) {
        let cluster = self.store.create(&cluster()).await.unwrap();
        let allocated = write::status(&*self.store, &cluster, |status| {
            status.network = Some(NetworkAllocation {
                vni: 5000.try_into().unwrap(),
                gateway_address: [10, 7, 0, 1].into(),
                peers_generation: 1,
                host_addresses: std::collections::BTreeMap::new(),
            });
        });
        allocated.await.unwrap();
    }

    async fn host(&self, name: &str, memory_gib: u64) {
        self.store.create(&host(name)).await.unwrap();
        self.change::<Host>(name, |host| host.status = Some(told(memory_gib))).await;
    }

    async fn guest(&self, name: &str, memory: &str) {
        self.store.create(&guest(name, memory)).await.unwrap();
    }

    async fn all<T: Object>(&self) -> Vec<T> {
        self.store.list::<T>(&Selector::everything()).await.unwrap().items
    }

    /// Waits until it is told of a guest whether it has a host, and what it was told.
    async fn told(&self, name: &str, scheduled: ConditionStatus) -> Guest {
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                let guest = self.store.get::<Guest>(&format!("acme.{name}")).await.unwrap();
                let condition = guest.status.as_ref().and_then(|status| status.conditions.get("Scheduled"));
                if condition.is_some_and(|condition| condition.status == scheduled) {
                    return guest;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let guest = waited.await.ok();
        let all = self.all::<Guest>().await;
        guest.unwrap_or_else(|| panic!("{name} is not told: {all:?}"))
    }

    async fn host_of(&self, name: &str) -> String {
        self.told(name, ConditionStatus::True).await.spec.host().unwrap().to_string()
    }

    async fn sentence(&self, name: &str) -> String {
        let guest = self.told(name, ConditionStatus::False).await;
        assert_eq!(guest.spec.binding, None);
        guest.status.unwrap().conditions.get("Scheduled").unwrap().message.clone()
    }
}

#[tokio::test]
async fn guests_get_hosts_and_keep_them_when_the_operator_dies() {
    let mut operator = Operator::start();
    operator.cluster().await;
    for host in ["host-a", "host-b", "host-c"] {
        operator.host(host, 8).await;
    }
    for index in 0..3 {
        operator.guest(&format!("master-{index}"), "1GiB").await;
    }
    let mut hosts = Vec::new();
    for index in 0..3 {
        hosts.push(operator.host_of(&format!("master-{index}")).await);
    }
    let distinct: std::collections::BTreeSet<_> = hosts.iter().collect();
    assert_eq!(distinct.len(), 3, "masters are on different hosts: {hosts:?}");
    let reason = operator.told("master-0", ConditionStatus::True).await.spec.binding.unwrap().reason;
    assert!(reason.contains("% of memory left"), "{reason}");

    operator.restart().await;
    operator.host("host-d", 64).await;
    operator.guest("default-0", "1GiB").await;
    assert_eq!(operator.host_of("default-0").await, "host-d");
    for (index, host) in hosts.iter().enumerate() {
        assert_eq!(operator.host_of(&format!("master-{index}")).await, *host, "a guest that is bound stays");
    }
    operator.tasks.shut_down(LIMIT).await.unwrap();
    assert!(!operator.tasks.has_panicked());
}

#[tokio::test]
async fn a_guest_without_room_is_told_why_and_placed_as_soon_as_there_is_some() {
    let operator = Operator::start();
    operator.cluster().await;
    operator.guest("default-0", "3GiB").await;
    assert_eq!(operator.sentence("default-0").await, "no hosts: add one with `goliath host add`");

    operator.host("host-a", 4).await;
    assert_eq!(operator.host_of("default-0").await, "host-a");
    operator.guest("default-1", "3GiB").await;
    operator.guest("default-2", "512MiB").await;
    assert_eq!(operator.host_of("default-2").await, "host-a", "what fits is not kept waiting by what does not");
    let sentence = operator.sentence("default-1").await;
    assert!(sentence.starts_with("1 host: 1 lacks memory (largest gap 2.2 GiB)"), "{sentence}");

    operator.store.delete::<Guest>("acme.default-0", Preconditions::default()).await.unwrap();
    assert_eq!(operator.host_of("default-1").await, "host-a");
    assert_eq!(operator.placement.explain("acme.default-1").unwrap().bound.as_deref(), Some("host-a"));
    operator.tasks.shut_down(LIMIT).await.unwrap();
}

#[tokio::test]
async fn what_a_host_says_of_itself_counts() {
    let operator = Operator::start();
    operator.cluster().await;
    for name in ["host-a", "host-b", "host-c"] {
        operator.host(name, 8).await;
    }
    let set = |host: &mut Host, type_: &str, message: &str| {
        let status = host.status.get_or_insert_default();
        status.conditions.set(type_, ConditionStatus::False, "Test", message, None, jiff::Timestamp::UNIX_EPOCH);
    };
    operator.change::<Host>("host-a", |host| host.spec.cordoned = true).await;
    operator.change::<Host>("host-b", |host| set(host, "DoctorPassed", "kvm: there is no /dev/kvm")).await;
    operator.change::<Host>("host-c", |host| set(host, "Reachable", "last heard of long ago")).await;
    operator.guest("default-0", "1GiB").await;
    let sentence = operator.sentence("default-0").await;
    for part in ["1 cordoned", "1 not ready", "1 with a failed doctor's check"] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    let explained = operator.placement.explain("acme.default-0").unwrap();
    assert_eq!(explained.hosts.len(), 3);
    assert!(explained.hosts.iter().all(|host| !host.fits && !host.reasons.is_empty()));
    operator.change::<Host>("host-a", |host| host.spec.cordoned = false).await;
    assert_eq!(operator.host_of("default-0").await, "host-a");
    operator.tasks.shut_down(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_guest_waits_for_its_clusters_network() {
    let operator = Operator::start();
    operator.host("host-a", 8).await;
    operator.guest("default-0", "1GiB").await;
    operator.cluster().await;
    assert_eq!(operator.host_of("default-0").await, "host-a");
    operator.tasks.shut_down(LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_host_that_was_forgotten_frees_its_guests() {
    let operator = Operator::start();
    operator.cluster().await;
    operator.host("host-a", 8).await;
    operator.guest("default-0", "1GiB").await;
    assert_eq!(operator.host_of("default-0").await, "host-a");
    operator.store.delete::<Host>("host-a", Preconditions::default()).await.unwrap();
    operator.host("host-b", 8).await;
    operator.change::<Guest>("acme.default-0", |guest| guest.spec.binding = None).await;
    let rebound = async {
        while operator
            .store
            .get::<Guest>("acme.default-0")
            .await
            .unwrap()
            .spec
            .host()
            .map(ToString::to_string)
            .as_deref()
            != Some("host-b")
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, rebound).await.expect("it is not placed again");
    operator.tasks.shut_down(LIMIT).await.unwrap();
}

#[test]
fn what_an_agent_knows_of_is_not_counted_twice() {
    let mut seen = guest("default-0", "1GiB");
    seen.metadata.uid = Some("6f3c8a52-1d0e-4b6f-9a41-7e25c8d3b017".to_owned());
    seen.metadata.generation = Some(2);
    let status = seen.status.get_or_insert_default();
    (status.host, status.observed_generation) = (Some("host-a".parse().unwrap()), Some(2));
    assert!(convert::is_counted(&seen, "host-a") && !convert::is_counted(&seen, "host-b"));
    let mut changed = seen.clone();
    changed.metadata.generation = Some(3);
    assert!(!convert::is_counted(&changed, "host-a"), "the agent counts what it was told before");

    let mut host = host("host-a");
    host.status = Some(told(8));
    let converted = convert::host(&host, &[Arc::new(seen)]).unwrap();
    let inventory = converted.inventory.unwrap();
    assert_eq!(inventory.left.get(Resource::Memory), 8 << 30, "the next guest's overhead is not taken off");
    assert_eq!((inventory.guests.len(), inventory.overhead.get()), (1, 100 << 20));
    assert!(inventory.accelerators.tcg && !inventory.accelerators.kvm);
    assert_eq!(inventory.vnis.values().collect::<Vec<_>>(), [&Held::ByStranger]);
    assert_eq!(host.name_any(), "host-a");
}
