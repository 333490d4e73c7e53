//! The embedded store against the rules of all stores, and what is its own.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::{
    objects::{Host, HostSpec, HostStatus, ResourceExt as _},
    store::{WatchError, conformance},
};

fn open(directory: &TempDir, options: &Options) -> EmbeddedStore {
    EmbeddedStore::open(&directory.path().join("store"), options).unwrap()
}

fn fresh() -> (EmbeddedStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (open(&directory, &Options::default()), directory)
}

fn host(name: &str) -> Host {
    let address = "192.0.2.1:7411".parse().unwrap();
    Host::new(name, HostSpec { address, server_name: None, zone: None, roles: Vec::new(), cordoned: false })
}

async fn counted(store: &EmbeddedStore, mut host: Host) -> Host {
    let guests = host.status.map_or(0, |status| status.guests) + 1;
    host.status = Some(HostStatus { guests, ..HostStatus::default() });
    store.replace_status(&host).await.unwrap()
}

async fn next(watch: &mut Watch<Host>) -> Result<WatchEvent<Host>, WatchError> {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("the watch is silent").expect("it ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_rules_of_all_stores() {
    let mut broken = Vec::new();
    for rule in conformance::rules::<EmbeddedStore>() {
        let (store, _directory) = fresh();
        if let Err(error) = rule.check(&store).await {
            broken.push(format!("{}: {error}", rule.name));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_wait_share_a_commit() {
    let (store, _directory) = fresh();
    let hosts: Vec<_> = (0..500).map(|index| host(&format!("host-{index}"))).collect();
    futures::future::join_all(hosts.iter().map(|host| store.create(host))).await.into_iter().for_each(|created| {
        created.unwrap();
    });
    let Statistics { changes, commits } = store.statistics();
    assert_eq!(changes, 500);
    assert!(commits < 50, "{commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_it_is_opened_again() {
    let (store, directory) = fresh();
    let written = counted(&store, store.create(&host("a")).await.unwrap()).await;
    let version = store.list::<Host>(&Selector::everything()).await.unwrap().resource_version;
    drop(store);
    let store = open(&directory, &Options::default());
    assert_eq!(store.get::<Host>("a").await.unwrap(), written);
    // Nothing was missed from here.
    let mut watch = store.watch::<Host>(WatchOptions::after(version)).await.unwrap();
    let written = counted(&store, written).await;
    assert_eq!(next(&mut watch).await.unwrap(), WatchEvent::Modified(written));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_before_it_was_opened_is_expired() {
    let (store, directory) = fresh();
    let version = store.list::<Host>(&Selector::everything()).await.unwrap().resource_version;
    store.create(&host("a")).await.unwrap();
    drop(store);
    let store = open(&directory, &Options::default());
    let refused = store.watch::<Host>(WatchOptions::after(version)).await.map(drop).unwrap_err();
    assert!(refused.is_expired(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_too_slow_is_cut_off_and_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, &Options { history_changes: 100, ..Options::default() });
    let mut object = store.create(&host("a")).await.unwrap();
    let start = store.list::<Host>(&Selector::everything()).await.unwrap().resource_version;
    let mut slow = store.watch::<Host>(WatchOptions::after(start)).await.unwrap();
    let mut quiet = store.watch::<crate::objects::Guest>(WatchOptions::after(start)).await.unwrap();
    let (mut told, mut error) = (0_u32, None);
    for _ in 0..150 {
        object = counted(&store, object).await;
    }
    while error.is_none() {
        match next(&mut slow).await {
            Ok(_) => told += 1,
            Err(ended) => error = Some(ended),
        }
    }
    assert!(matches!(error, Some(WatchError::Expired(_))), "{error:?}");
    assert!(told <= 64, "it was told {told} changes, more than it may hold");
    assert!(slow.next().await.is_none(), "a watch ends after its error");
    let refused = store.watch::<Host>(WatchOptions::after(start)).await.map(drop).unwrap_err();
    assert!(refused.is_expired(), "{refused}");
    // Another kind's past is not spent by this one's.
    assert!(store.watch::<crate::objects::Guest>(WatchOptions::after(start)).await.is_ok());
    let told = tokio::time::timeout(Duration::from_millis(1), quiet.next()).await;
    assert!(told.is_err(), "a quiet watch told {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_bounded_in_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory, &Options { history_bytes: 64 << 10, ..Options::default() });
    let start = store.list::<Host>(&Selector::everything()).await.unwrap().resource_version;
    let mut object = host("a");
    object.metadata.annotations = Some([("note".to_owned(), "x".repeat(20_000))].into());
    let mut object = store.create(&object).await.unwrap();
    for _ in 0..10 {
        object = counted(&store, object).await;
    }
    let refused = store.watch::<Host>(WatchOptions::after(start)).await.map(drop).unwrap_err();
    assert!(refused.is_expired(), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_the_store_is_closed() {
    let (store, _directory) = fresh();
    let mut watch = store.watch::<Host>(WatchOptions::state()).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Bookmark(_))));
    drop(store);
    assert!(matches!(next(&mut watch).await, Err(WatchError::Closed)));
}

#[tokio::test]
async fn one_file_has_one_store() {
    let (_store, directory) = fresh();
    let refused = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let (store, directory) = fresh();
    drop(store);
    let path = directory.path().join("store");
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(tables::NUMBERS).unwrap().insert(tables::FORMAT_KEY, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = EmbeddedStore::open(&path, &Options::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "the store {} has format 2, and this version reads up to 1: start the version that wrote it, or a newer one",
            path.display()
        )
    );
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    std::fs::write(&path, "not a store").unwrap();
    assert!(EmbeddedStore::open(&path, &Options::default()).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a store");
    let other = directory.path().join("other");
    drop(Database::create(&other).unwrap());
    let refused = EmbeddedStore::open(&other, &Options::default()).unwrap_err();
    assert!(matches!(refused, OpenError::NotAStore { .. }), "{refused}");
}

#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_store, directory) = fresh();
    let mode = std::fs::metadata(directory.path().join("store")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "something was left behind");
}

/// Removing one owner among many objects touches what it owned, and each of them once.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_owner_had_goes_in_one_commit() {
    use kube::Resource as _;
    let (store, _directory) = fresh();
    let owner = store.create(&host("owner")).await.unwrap();
    let children: Vec<_> = (0..100)
        .map(|index| {
            let mut child = host(&format!("child-{index}"));
            child.metadata.owner_references = Some(vec![owner.owner_ref(&()).unwrap()]);
            child
        })
        .collect();
    for created in futures::future::join_all(children.iter().map(|child| store.create(child))).await {
        assert!(created.is_ok());
    }
    let before = store.statistics();
    store.delete::<Host>("owner", Preconditions::default()).await.unwrap();
    assert!(store.list::<Host>(&Selector::everything()).await.unwrap().items.is_empty());
    let after = store.statistics();
    assert_eq!((after.commits - before.commits, after.changes - before.changes), (1, 101));
    assert_eq!(owner.name_any(), "owner");
}
