//! The controller on a real store, with the others played by the test.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tempfile::TempDir;

use super::world::{manifest, now, pool, root_disk, templates};
use crate::{
    context::Context,
    controllers::{cluster, finalizer},
    objects::{
        CertificateAuthority, Cluster, ConditionStatus, Conditions, Guest, NetworkAllocation, Object, ResourceExt as _,
    },
    runtime::{Tasks, write},
    store::{EmbeddedStore, Options, Preconditions, Selector, Store as _, StoreError},
};

const LIMIT: Duration = Duration::from_mins(1);

struct Operator {
    store: Arc<EmbeddedStore>,
    tasks: Tasks,
    _directory: TempDir,
}

impl Operator {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let operator = Self { store: Arc::new(store), tasks: Tasks::new(), _directory: directory };
        operator.controller();
        operator
    }

    fn controller(&self) {
        let context = Context::start(Arc::clone(&self.store), (), &self.tasks);
        cluster::start(&context, Arc::new(templates().clone()), &self.tasks);
    }

    /// It dies, and another one begins.
    async fn restart(&mut self) {
        self.tasks.shut_down(LIMIT).await.unwrap();
        self.tasks = Tasks::new();
        self.controller();
    }

    async fn all<T: Object>(&self) -> Vec<T> {
        self.store.list::<T>(&Selector::everything()).await.unwrap().items
    }

    /// Plays the other controllers until something holds.
    async fn until(&self, holds: impl Fn(&Cluster, &[Guest]) -> bool) {
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                let guests = self.all::<Guest>().await;
                match self.store.get::<Cluster>("acme").await {
                    Ok(cluster) if holds(&cluster, &guests) => return,
                    Ok(cluster) => self.others(cluster, guests).await,
                    Err(_) => return,
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let came = waited.await.is_ok();
        let (cluster, guests) = (self.store.get::<Cluster>("acme").await, self.all::<Guest>().await);
        assert!(came, "it does not come: {cluster:#?} {guests:?}");
    }

    async fn others(&self, cluster: Cluster, guests: Vec<Guest>) {
        let set = |conditions: &mut Conditions, type_: &str| {
            conditions.set(type_, ConditionStatus::True, "Test", "", None, now());
        };
        if cluster.metadata.deletion_timestamp.is_none() {
            expect_race(write::add_finalizer(&*self.store, &cluster, finalizer::NETWORK).await);
            let allocated = write::status(&*self.store, &cluster, |status| {
                status.network.get_or_insert(NetworkAllocation {
                    vni: 5000.try_into().unwrap(),
                    gateway_address: [10, 7, 0, 1].into(),
                    peers_generation: 1,
                    host_addresses: std::collections::BTreeMap::new(),
                });
            });
            expect_race(allocated.await);
        } else if guests.is_empty() {
            expect_race(write::remove_finalizer(&*self.store, &cluster, finalizer::NETWORK).await);
        }
        for authority in self.all::<CertificateAuthority>().await {
            let told = write::status(&*self.store, &authority, |status| {
                status.observed_generation = authority.metadata.generation;
                set(&mut status.conditions, "Ready");
            });
            expect_race(told.await);
        }
        for guest in guests {
            if guest.metadata.deletion_timestamp.is_some() {
                expect_race(write::remove_finalizer(&*self.store, &guest, finalizer::GUEST).await);
                continue;
            }
            let told = write::status(&*self.store, &guest, |status| {
                status.observed_generation = guest.metadata.generation;
                set(&mut status.conditions, "Ready");
                set(&mut status.conditions, "CertificatesReady");
            });
            expect_race(told.await);
        }
    }
}

/// The controller may have been first.
fn expect_race<T>(outcome: Result<T, StoreError>) {
    if let Err(error) = outcome {
        assert!(error.is_conflict() || error.is_not_found(), "{error}");
    }
}

fn is_complete(cluster: &Cluster) -> bool {
    let conditions = cluster.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let is_done = conditions.get("Progressing").is_some_and(|condition| condition.reason == "Complete");
    let is_current =
        cluster.status.as_ref().and_then(|status| status.observed_generation) == cluster.metadata.generation;
    is_done && is_current && conditions.is_true("Ready")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_made_changed_and_taken_away_by_operators_that_die() {
    let mut operator = Operator::start();
    let mut manifest = manifest(3, &[pool("default", 4, &root_disk())]);
    manifest["metadata"] = json!({ "name": "acme" });
    operator.store.create(&serde_json::from_value::<Cluster>(manifest).unwrap()).await.unwrap();
    operator.until(|_, guests| guests.len() >= 3).await;
    operator.restart().await;
    operator.until(|cluster, guests| guests.len() == 7 && is_complete(cluster)).await;
    let certificates = operator.all::<crate::objects::Certificate>().await;
    assert_eq!(certificates.len(), 3 * 7 + 4);
    let before: Vec<_> = operator.all::<Guest>().await.iter().map(|guest| (guest.name_any(), guest.uid())).collect();

    let mut cluster = operator.store.get::<Cluster>("acme").await.unwrap();
    loop {
        cluster.spec.workers[0].image = "registry.example/worker:2".parse().unwrap();
        match operator.store.replace(&cluster).await {
            Ok(_) => break,
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
        cluster = operator.store.get::<Cluster>("acme").await.unwrap();
    }
    operator.until(|_, guests| guests.iter().any(|guest| guest.spec.image.as_str().ends_with(":2"))).await;
    operator.restart().await;
    operator.until(|cluster, _| is_complete(cluster)).await;
    let guests = operator.all::<Guest>().await;
    let addresses: std::collections::BTreeSet<_> =
        guests.iter().map(|guest| guest.spec.network.as_ref().unwrap().ipv4_address).collect();
    assert_eq!(addresses.len(), 7);
    let after: Vec<_> = guests.iter().map(|guest| (guest.name_any(), guest.uid())).collect();
    let kept = after.iter().filter(|guest| before.contains(guest)).map(|(name, _)| name.as_str());
    assert_eq!(kept.collect::<Vec<_>>(), ["acme.master-0", "acme.master-1", "acme.master-2"]);

    operator.store.delete::<Cluster>("acme", Preconditions::default()).await.unwrap();
    operator.restart().await;
    operator.until(|_, _| false).await;
    assert!(operator.all::<Guest>().await.is_empty());
    assert!(operator.all::<CertificateAuthority>().await.is_empty());
    assert!(operator.all::<crate::objects::Certificate>().await.is_empty());
    operator.tasks.shut_down(LIMIT).await.unwrap();
    assert!(!operator.tasks.has_panicked());
}
