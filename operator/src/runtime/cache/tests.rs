use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    objects::{Guest, Host, HostSpec, HostStatus, ResourceExt},
    runtime::GuestBy,
    store::{EmbeddedStore, Options, Preconditions},
};

const LIMIT: Duration = Duration::from_secs(30);

fn guest(name: u8, version: u64, cluster: u8, host: Option<u8>) -> Guest {
    let binding =
        host.map(|host| json!({ "host": format!("host-{host}"), "reason": "", "time": "2026-01-01T00:00:00Z" }));
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Guest",
        "metadata": { "name": format!("guest-{name}"), "resourceVersion": version.to_string(), "uid": format!("uid-{name}") },
        "spec": {
            "cluster": format!("cluster-{cluster}"), "role": "worker", "pool": "default", "index": 0,
            "hostname": format!("default-{name}"), "image": "registry.example/debian:12",
            "machine": { "vcpus": 1, "memory": "1GiB" }, "binding": binding,
        },
    }))
    .unwrap()
}

/// The cache as someone sees it who reads changes alone.
#[derive(Default)]
struct Follower(BTreeMap<String, Arc<Guest>>);

impl Follower {
    fn take(&mut self, change: Change<Guest>) {
        let name = change.both().next().unwrap().name_any();
        assert_eq!(self.0.get(&name), change.old.as_ref(), "a reader is told from where it stands");
        match change.new {
            Some(new) => self.0.insert(name, new),
            None => self.0.remove(&name),
        };
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        name: u8,
        cluster: u8,
        host: Option<u8>,
    },
    Delete {
        name: u8,
    },
    /// The watch fell behind: some of the steps before were not told, and a list comes.
    MissAndList {
        missed: Vec<Step>,
    },
    /// A reader reads so many changes.
    Read(usize),
}

fn write() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..6, 0_u8..3, proptest::option::of(0_u8..3))
            .prop_map(|(name, cluster, host)| Step::Write { name, cluster, host }),
        1 => (0_u8..6).prop_map(|name| Step::Delete { name }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => write(),
        1 => prop::collection::vec(write(), 0..6).prop_map(|missed| Step::MissAndList { missed }),
        3 => (0_usize..4).prop_map(Step::Read),
    ]
}

/// A store of guests that tells what a watch would.
#[derive(Default)]
struct Model {
    objects: BTreeMap<String, Guest>,
    version: u64,
}

impl Model {
    fn write(&mut self, step: &Step) -> Option<WatchEvent<Guest>> {
        self.version += 1;
        match step {
            Step::Write { name, cluster, host } => {
                let object = guest(*name, self.version, *cluster, *host);
                let known = self.objects.insert(object.name_any(), object.clone()).is_some();
                Some(if known { WatchEvent::Modified(object) } else { WatchEvent::Added(object) })
            }
            Step::Delete { name } => {
                let mut object = self.objects.remove(&format!("guest-{name}"))?;
                object.metadata.resource_version = Some(self.version.to_string());
                Some(WatchEvent::Deleted(object))
            }
            Step::MissAndList { .. } | Step::Read(_) => None,
        }
    }

    fn list(&self) -> List<Guest> {
        List {
            items: self.objects.values().cloned().collect(),
            resource_version: self.version.to_string().parse().unwrap(),
        }
    }
}

fn names(guests: &[Arc<Guest>]) -> Vec<String> {
    guests.iter().map(|guest| guest.name_any()).collect()
}

proptest! {
    #[test]
    fn whatever_happens_it_equals_the_store_and_so_does_who_reads_its_changes(steps in prop::collection::vec(step(), 0..60)) {
        let cache = Cache::empty();
        let mut model = Model::default();
        let mut changes = cache.changes();
        let mut follower = Follower::default();
        for step in &steps {
            match step {
                Step::Read(count) => {
                    for change in (0..*count).map_while(|_| changes.try_next()) {
                        follower.take(change);
                    }
                },
                Step::MissAndList { missed } => {
                    for step in missed {
                        model.write(step);
                    }
                    cache.replace(model.list());
                }
                step => {
                    if let Some(event) = model.write(step) {
                        cache.apply(event);
                    }
                }
            }
            let state = cache.read();
            let waiting = &state.readers[&changes.reader];
            prop_assert!(waiting.order.len() == waiting.pending.len() && waiting.order.len() <= 6);
        }
        let held: Vec<_> = cache.list().iter().map(|object| (**object).clone()).collect();
        prop_assert_eq!(&held, &model.objects.values().cloned().collect::<Vec<_>>());
        for number in 0..3 {
            for (index, key) in [(GuestBy::Cluster, format!("cluster-{number}")), (GuestBy::Host, format!("host-{number}"))] {
                let expected = held.iter().filter(|guest| guest.keys(index).contains(&key)).map(ResourceExt::name_any);
                prop_assert_eq!(names(&cache.by(index, &key)), expected.collect::<Vec<_>>());
            }
        }
        prop_assert!(cache.read().indexes.values().flatten().all(|(_, names)| !names.is_empty()), "an empty key is kept");
        while let Some(change) = changes.try_next() {
            follower.take(change);
        }
        prop_assert_eq!(follower.0.values().cloned().collect::<Vec<_>>(), cache.list());
    }
}

#[test]
fn a_reader_begins_with_what_is_there_and_costs_nothing_when_it_is_gone() {
    let cache = Cache::empty();
    cache.apply(WatchEvent::Added(guest(1, 1, 1, None)));
    let mut changes = cache.changes();
    let change = changes.try_next().unwrap();
    assert!(change.old.is_none() && change.new.is_some());
    assert!(changes.try_next().is_none());
    drop(changes);
    assert!(cache.read().readers.is_empty());
}

fn host(number: usize) -> Host {
    let address = "192.0.2.1:7411".parse().unwrap();
    let spec = HostSpec { address, server_name: None, zone: None, roles: Vec::new(), cordoned: false };
    Host::new(&format!("host-{number}"), spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_a_store_whose_history_is_too_short_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { history_changes: 3, ..Options::default() };
    let store = Arc::new(EmbeddedStore::open(&directory.path().join("store"), &options).unwrap());
    store.create(&host(0)).await.unwrap();
    let tasks = Tasks::new();
    let cache = Cache::<Host>::start(Arc::clone(&store), &tasks);
    cache.synced().await;
    assert_eq!(cache.list().len(), 1);
    for round in 1..=10 {
        let hosts: Vec<_> = (0..20).map(|number| host(round * 100 + number)).collect();
        let created = futures::future::join_all(hosts.iter().map(|host| store.create(host))).await;
        for object in created.into_iter().take(10) {
            let name = object.unwrap().name_any();
            store.delete::<Host>(&name, Preconditions::default()).await.unwrap();
        }
    }
    let mut last = store.get::<Host>("host-0").await.unwrap();
    last.status = Some(HostStatus { guests: 7, ..HostStatus::default() });
    let last = store.replace_status(&last).await.unwrap();
    tokio::time::timeout(LIMIT, cache.reached(version_of(&last).unwrap())).await.expect("it did not come that far");
    let stored = store.list::<Host>(&Selector::everything()).await.unwrap().items;
    assert_eq!(cache.list().iter().map(|host| (**host).clone()).collect::<Vec<_>>(), stored);
    tasks.shut_down(LIMIT).await.unwrap();
    let never = u64::MAX.to_string().parse().unwrap();
    tokio::time::timeout(LIMIT, cache.reached(never)).await.expect("who waits for a cache that was stopped waits on");
}
