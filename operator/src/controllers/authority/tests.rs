//! The controller over a real store, with the issuer that needs nothing made.

use std::{collections::BTreeMap, path::Path, time::Duration};

use goliath_vault::VaultError;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    objects::{ConditionStatus, Kind, OwnerReference},
    pki::{Grant, IssuerConfig},
    store::{EmbeddedStore, Options, Preconditions},
};

const LIMIT: Duration = Duration::from_secs(30);

struct Operator {
    context: Context<EmbeddedStore, ()>,
    tasks: Tasks,
    _directory: TempDir,
}

impl Operator {
    /// Knows the issuer `local`.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap();
        let tasks = Tasks::new();
        let context = Context::start(Arc::new(store), (), &tasks);
        let local: IssuerConfig = serde_json::from_value(json!({ "kind": "local" })).unwrap();
        let issuers = BTreeMap::from([("local".parse().unwrap(), local)]);
        let authorities = Arc::new(Authorities::start(&issuers, Path::new("/nowhere")).unwrap());
        super::start(&context, &authorities, &tasks);
        Self { context, tasks, _directory: directory }
    }

    /// Waits until an authority is as it should be, or gone.
    async fn until(&self, name: &str, wanted: impl Fn(Option<&CertificateAuthority>) -> bool) {
        let cache = &self.context.caches.authorities;
        let mut changes = cache.changes();
        let seen = async {
            while !wanted(cache.get(name).as_deref()) {
                changes.next().await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, seen).await.is_ok(), "it stayed {:?}", cache.get(name));
    }

    async fn has_condition(&self, name: &str, type_: &str, reason: &str) {
        self.until(name, |authority| {
            let status = authority.and_then(|authority| authority.status.as_ref());
            let condition = status.and_then(|status| status.conditions.get(type_));
            condition.is_some_and(|condition| condition.reason == reason)
        })
        .await;
    }
}

fn object<T: Object>(spec: &Value, name: &str) -> T {
    let manifest = json!({
        "apiVersion": crate::objects::API_VERSION, "kind": T::KIND.as_str(), "metadata": { "name": name }, "spec": spec,
    });
    serde_json::from_value(manifest).unwrap()
}

fn authority(issuer: &str) -> CertificateAuthority {
    object(&json!({ "cluster": "acme", "issuer": issuer, "ttl": "87600h" }), "acme")
}

fn guest(name: &str, host: Option<&str>) -> Guest {
    let mut spec = json!({
        "cluster": "acme", "role": "worker", "pool": "default", "index": 0, "hostname": "default-0", "image": "a:b",
        "machine": { "vcpus": 1, "memory": "1GiB" },
    });
    if let Some(host) = host {
        spec["binding"] = json!({ "host": host, "reason": "free", "time": "2026-01-01T00:00:00Z" });
    }
    object(&spec, name)
}

fn cluster() -> Cluster {
    let masters = json!({ "replicas": 1, "machine": { "vcpus": 1, "memory": "1GiB" }, "image": "a:b" });
    let kubernetes = json!({ "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" });
    object(&json!({ "kubernetes": kubernetes, "network": { "cidr": "10.7.0.0/24" }, "masters": masters }), "acme")
}

#[tokio::test]
async fn an_authority_outlives_the_guests_and_its_cluster() {
    let operator = Operator::start();
    let store = &operator.context.store;
    let mut cluster = cluster();
    cluster.metadata.finalizers = Some(vec!["example.dev/test".to_owned()]);
    let cluster = store.create(&cluster).await.unwrap();
    let mut wanted = authority("local");
    wanted.metadata.owner_references = Some(vec![OwnerReference {
        api_version: crate::objects::API_VERSION.to_owned(),
        kind: "Cluster".to_owned(),
        name: "acme".to_owned(),
        uid: cluster.metadata.uid.clone().unwrap(),
        ..OwnerReference::default()
    }]);
    store.create(&wanted).await.unwrap();
    operator.has_condition("acme", "Ready", "Local").await;
    store.create(&guest("acme.default-0", None)).await.unwrap();

    store.delete::<CertificateAuthority>("acme", Preconditions::default()).await.unwrap();
    operator.has_condition("acme", "Deleting", "GuestsRemain").await;
    operator.has_condition("acme", "Ready", "Deleting").await;
    store.delete::<Guest>("acme.default-0", Preconditions::default()).await.unwrap();
    operator.has_condition("acme", "Deleting", "ClusterRemains").await;
    store.delete::<Cluster>("acme", Preconditions::default()).await.unwrap();
    operator.until("acme", |authority| authority.is_none()).await;
    // What was begun is ended: the last event is recorded when the object is gone.
    operator.tasks.shut_down(LIMIT).await.unwrap();
    let told = operator.context.events.list(|event| event.subject.kind == Kind::CertificateAuthority).events;
    let reasons: Vec<_> = told.iter().map(|event| (event.reason.as_str(), event.count)).collect();
    assert_eq!(reasons, [("Local", 1), ("Deleting", 1), ("GuestsRemain", 1), ("ClusterRemains", 1), ("Destroyed", 1)]);
}

#[tokio::test]
async fn an_issuer_that_nobody_configured_is_told_of_and_keeps_nothing() {
    let operator = Operator::start();
    let store = &operator.context.store;
    let made = store.create(&authority("vualt")).await.unwrap();
    operator.has_condition("acme", "Ready", "UnknownIssuer").await;
    let mut mended = store.get::<CertificateAuthority>("acme").await.unwrap();
    assert_eq!(mended.metadata.finalizers, made.metadata.finalizers);
    mended.spec.issuer = "local".parse().unwrap();
    store.replace(&mended).await.unwrap();
    operator.has_condition("acme", "Ready", "Local").await;
    operator.tasks.shut_down(LIMIT).await.unwrap();
}

#[test]
fn an_authority_is_destroyed_last() {
    let (mut authority, mut cluster) = (authority("vault"), cluster());
    cluster.metadata.uid = Some("1".to_owned());
    authority.metadata.owner_references =
        Some(vec![OwnerReference { uid: "1".to_owned(), ..OwnerReference::default() }]);
    authority.metadata.finalizers = Some(vec![finalizer::AUTHORITY.to_owned()]);
    let guests = [Arc::new(guest("acme.default-0", None))];
    let reason = |step| match step {
        Step::Tell(told) => {
            told.iter().map(|told| format!("{}: {}", told.type_, told.reason)).collect::<Vec<_>>().join(", ")
        }
        step => format!("{step:?}"),
    };
    let decided = |authority: &_, cluster, guests: &[_]| reason(decide(authority, cluster, guests));
    assert_eq!(decided(&authority, None, &[]), "Make");
    assert_eq!(decided(&authority, Some(&cluster), &guests), "Make");

    authority.metadata.deletion_timestamp = Some(crate::objects::whole_seconds(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(decided(&authority, Some(&cluster), &guests), "Ready: Deleting, Deleting: GuestsRemain");
    assert_eq!(decided(&authority, None, &guests), "Ready: Deleting, Deleting: GuestsRemain");
    assert_eq!(decided(&authority, Some(&cluster), &[]), "Ready: Deleting, Deleting: ClusterRemains");
    assert_eq!(decided(&authority, None, &[]), "Destroy");
    let mut going = cluster.clone();
    going.metadata.deletion_timestamp.clone_from(&authority.metadata.deletion_timestamp);
    assert_eq!(decided(&authority, Some(&going), &[]), "Destroy");
    let mut later = cluster.clone();
    later.metadata.uid = Some("2".to_owned());
    assert_eq!(decided(&authority, Some(&later), &[]), "Destroy");

    authority.metadata.finalizers = None;
    assert_eq!(decided(&authority, None, &[]), "");
    let misnamed: CertificateAuthority = object(&json!({ "cluster": "acme", "issuer": "vault", "ttl": "1h" }), "acme2");
    assert_eq!(decided(&misnamed, None, &[]), "Ready: NameIsNotTheClusters");
}

#[test]
fn a_host_may_have_what_its_guests_of_this_issuer_need() {
    let mut host: Host = object(&json!({ "address": "192.0.2.11:7411" }), "host-a");
    host.metadata.uid = Some("00000000-0000-0000-0000-000000000001".to_owned());
    let elsewhere = |_: &str| Some(Arc::new(authority("local")));
    let here = |_: &str| Some(Arc::new(authority("vault")));
    let guests = [Arc::new(guest("acme.default-0", Some("host-a"))), Arc::new(guest("acme.default-1", Some("host-a")))];
    let issuer = "vault".parse().unwrap();
    assert!(login(&host, &guests, &issuer, elsewhere).unwrap().grants.is_empty());
    assert!(login(&host, &guests, &issuer, |_: &str| None).unwrap().grants.is_empty());
    let granted: Vec<_> = login(&host, &guests, &issuer, here).unwrap().grants.iter().map(Grant::to_string).collect();
    assert_eq!(granted, ["acme/worker"]);
}

#[test]
fn only_a_guest_that_moves_concerns_hosts() {
    let at = |host: Option<&str>| Some(Arc::new(guest("acme.default-0", host)));
    let hosts = |old, new| moved(&Change { old, new }).iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut told = guest("acme.default-0", Some("host-a"));
    told.status = Some(crate::objects::GuestStatus::default());
    assert!(hosts(at(Some("host-a")), Some(Arc::new(told))).is_empty());
    assert!(hosts(None, at(None)).is_empty());
    assert_eq!(hosts(at(None), at(Some("host-a"))), ["host-a"]);
    assert_eq!(hosts(at(Some("host-b")), at(Some("host-a"))), ["host-a", "host-b"]);
    assert_eq!(hosts(at(Some("host-b")), None), ["host-b"]);
}

#[test]
fn a_vault_that_is_away_says_nothing_of_what_was_made() {
    let sealed = PkiError::from(VaultError::Sealed { address: "https://vault.example:8200".to_owned() });
    let mut authority = authority("vault");
    authority.metadata.generation = Some(1);
    let told = status::ready(&authority, &Err(sealed.clone()));
    assert_eq!((told.status, told.reason.as_str()), (ConditionStatus::False, "VaultSealed"));
    let mut status = crate::objects::CertificateAuthorityStatus::default();
    status.conditions.set("Ready", ConditionStatus::True, "Made", "", Some(1), jiff::Timestamp::UNIX_EPOCH);
    authority.status = Some(status);
    assert_eq!(status::ready(&authority, &Err(sealed.clone())).status, ConditionStatus::Unknown);
    authority.metadata.generation = Some(2);
    assert_eq!(status::ready(&authority, &Err(sealed)).status, ConditionStatus::False);
}

#[test]
fn hosts_that_fail_are_named() {
    let failures = Failures::default();
    let error = PkiError::NoAppRole { mount: "approle".to_owned() };
    assert!(failures.note("host-a", &Err(error.clone())));
    assert!(!failures.note("host-a", &Err(error.clone())));
    let told = status::hosts_granted(&failures.of(|_| true));
    assert_eq!(
        (told.status, told.reason.as_str(), told.message.as_str()),
        (
            ConditionStatus::False,
            "VaultAppRoleMissing",
            "not as it should be on host-a: Vault has no AppRole at auth/approle: enable it with `vault auth enable \
             -path=approle approle`"
        )
    );
    assert_eq!(status::hosts_granted(&failures.of(|_| false)).status, ConditionStatus::True);
    assert!(failures.note("host-a", &Ok(())) && !failures.note("host-a", &Ok(())));
    assert_eq!(status::some_of(["a", "b", "c", "d", "e"].map(str::to_owned).into_iter()), "a, b, c and 2 more");
}
