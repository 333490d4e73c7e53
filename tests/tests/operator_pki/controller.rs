//! The authority controller over a real store and a real Vault.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use goliath_operator::{
    context::Context,
    controllers::authority,
    objects::{API_VERSION, CertificateAuthority, Conditions, Guest, Host, IssuerName, Object, ResourceExt as _},
    pki::{Authorities, ObservedCluster, kubernetes},
    runtime::{Cache, Indexed, Tasks},
    store::{EmbeddedStore, Options, Preconditions, Store as _},
};
use serde_json::json;
use tempfile::TempDir;

use crate::lab::{Agent, Lab, WRAP, kubelet, spec};

const LIMIT: Duration = Duration::from_mins(1);

/// An operator of which only authorities and the hosts' logins are kept.
struct Operator {
    context: Context<EmbeddedStore, ()>,
    authorities: Arc<Authorities>,
    tasks: Tasks,
}

impl Operator {
    /// With its store in a directory, and a Vault under each of these names that may take so many seconds to answer.
    fn start(directory: &TempDir, vaults: &[(&str, &Lab, u64)]) -> Result<Self> {
        let store = EmbeddedStore::open(&directory.path().join("store"), &Options::default())?;
        let tasks = Tasks::new();
        let context = Context::start(Arc::new(store), (), &tasks);
        let issuers: BTreeMap<IssuerName, _> =
            vaults.iter().map(|(name, lab, limit)| (name.parse().unwrap(), lab.issuer(*limit))).collect();
        let authorities = Arc::new(Authorities::start(&issuers, Path::new("/dev/shm"))?);
        authority::start(&context, &authorities, &tasks);
        Ok(Self { context, authorities, tasks })
    }

    async fn create<T: Object>(&self, object: &T) -> Result<T> {
        Ok(self.context.store.create(object).await?)
    }

    async fn delete<T: Object>(&self, name: &str) -> Result<()> {
        self.context.store.delete::<T>(name, Preconditions::default()).await?;
        Ok(())
    }

    /// An authority at the issuer `vault`.
    async fn create_authority(&self, cluster: &str, issuer: &str) -> Result<()> {
        let mut spec = kubernetes::authority(&cluster.parse()?, &spec(cluster))?;
        spec.issuer = issuer.parse()?;
        self.create(&CertificateAuthority::new(cluster, spec)).await?;
        Ok(())
    }

    /// `worker-0` of a cluster, bound to a host.
    async fn create_guest(&self, cluster: &str, host: &str) -> Result<()> {
        let guest: Guest = serde_json::from_value(json!({
            "apiVersion": API_VERSION,
            "kind": "Guest",
            "metadata": { "name": format!("{cluster}.worker-0") },
            "spec": {
                "cluster": cluster, "role": "worker", "pool": "worker", "index": 0, "hostname": "worker-0",
                "image": "a:b", "machine": { "vcpus": 1, "memory": "1GiB" },
                "binding": { "host": host, "reason": "free", "time": "2026-01-01T00:00:00Z" },
            },
        }))?;
        self.create(&guest).await?;
        Ok(())
    }

    /// A host, and its agent with its first credentials.
    async fn add_host(&self, lab: &Lab, name: &str) -> Result<Agent> {
        let host: Host = serde_json::from_value(json!({
            "apiVersion": API_VERSION, "kind": "Host", "metadata": { "name": name },
            "spec": { "address": "192.0.2.11:7411" },
        }))?;
        let uid = self.create(&host).await?.uid().unwrap().parse()?;
        let mut credentials = self.authorities.issue_host_credentials(&name.parse()?, uid, WRAP).await;
        lab.agent(&credentials.remove(&"vault".parse()?).unwrap()?)
    }

    /// Lives in a runtime of its own for some milliseconds after it was given something to do, and is killed wherever it
    /// is.
    async fn killed(directory: &TempDir, lab: &Lab, work: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let started = {
            let _entered = runtime.enter();
            Self::start(directory, &[("vault", lab, 10)])
        };
        let worked = match &started {
            Ok(operator) => work(operator).await,
            Err(_) => Ok(()),
        };
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..60))).await;
        tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(LIMIT);
            started.map(drop)
        })
        .await??;
        worked
    }

    /// Waits until an authority has a condition for this reason.
    async fn tells(&self, authority: &str, type_: &str, reason: &str) {
        let conditions = |found: &CertificateAuthority| found.status.as_ref().map(|status| status.conditions.clone());
        until_told(&self.context.caches.authorities, authority, conditions, type_, reason).await;
    }

    /// Waits until a host has a condition for this reason.
    async fn host_tells(&self, host: &str, type_: &str, reason: &str) {
        let conditions = |found: &Host| found.status.as_ref().map(|status| status.conditions.clone());
        until_told(&self.context.caches.hosts, host, conditions, type_, reason).await;
    }

    /// Waits until an authority is gone.
    async fn authority_is_gone(&self, name: &str) {
        let status = |found: &CertificateAuthority| found.status.as_ref().map(|status| status.conditions.clone());
        until_gone(&self.context.caches.authorities, name, status).await;
    }

    /// Waits until a host is gone.
    async fn host_is_gone(&self, name: &str) {
        let status = |found: &Host| found.status.as_ref().map(|status| status.conditions.clone());
        until_gone(&self.context.caches.hosts, name, status).await;
    }

    async fn stop(self) -> Result<()> {
        assert!(!self.tasks.has_panicked());
        Ok(self.tasks.shut_down(LIMIT).await?)
    }
}

fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("goliath-operator-").tempdir()?)
}

async fn until_gone<T: Indexed>(cache: &Cache<T>, name: &str, conditions: impl Fn(&T) -> Option<Conditions>) {
    let mut changes = cache.changes();
    let gone = async {
        while cache.get(name).is_some() {
            changes.next().await;
        }
    };
    let in_time = tokio::time::timeout(LIMIT, gone).await.is_ok();
    assert!(in_time, "{name} is still there: {:?}", cache.get(name).map(|object| conditions(&object)));
}

async fn until_told<T: Indexed>(
    cache: &Cache<T>,
    name: &str,
    conditions: impl Fn(&T) -> Option<Conditions>,
    type_: &str,
    reason: &str,
) {
    let mut changes = cache.changes();
    let seen = || cache.get(name).and_then(|object| conditions(&object)).unwrap_or_default();
    let told = async {
        while seen().get(type_).is_none_or(|condition| condition.reason != reason) {
            changes.next().await;
        }
    };
    let in_time = tokio::time::timeout(LIMIT, told).await.is_ok();
    assert!(in_time, "{type_} of {name} is not {reason}: {:?}", seen());
}

#[tokio::test]
async fn a_vault_that_is_sealed_midway_holds_what_is_declared_once_it_is_unsealed() -> Result<()> {
    let lab = Lab::start().await?;
    let directory = directory()?;
    let operator = Operator::start(&directory, &[("vault", &lab, 10)])?;
    for cluster in ["x", "y"] {
        operator.create_authority(cluster, "vault").await?;
        operator.tells(cluster, "Ready", "Made").await;
    }
    let agent = operator.add_host(&lab, "a").await?;
    operator.add_host(&lab, "b").await?;
    operator.create_guest("x", "a").await?;
    operator.tells("x", "HostsGranted", "Granted").await;
    agent.has_signed("x", &kubelet()).await?;
    agent.is_refused("y", &kubelet()).await;

    lab.vault.seal().await?;
    operator.create_authority("z", "vault").await?;
    operator.create_guest("y", "a").await?;
    operator.delete::<Guest>("x.worker-0").await?;
    operator.delete::<CertificateAuthority>("x").await?;
    operator.delete::<Host>("b").await?;
    operator.tells("z", "Ready", "VaultSealed").await;
    operator.tells("y", "HostsGranted", "VaultSealed").await;
    operator.tells("x", "Deleting", "VaultSealed").await;
    operator.host_tells("b", "LoginEnded", "VaultSealed").await;

    lab.vault.unseal().await?;
    operator.tells("z", "Ready", "Made").await;
    operator.tells("y", "HostsGranted", "Granted").await;
    operator.authority_is_gone("x").await;
    operator.host_is_gone("b").await;
    assert_eq!(lab.pki.observe_cluster(&"x".parse()?).await?, ObservedCluster::default());
    agent.has_signed("y", &kubelet()).await?;
    agent.is_refused("x", &kubelet()).await;
    operator.stop().await
}

#[tokio::test]
async fn an_authority_goes_last_and_a_host_that_goes_can_do_nothing_any_more() -> Result<()> {
    let lab = Lab::start().await?;
    let directory = directory()?;
    let operator = Operator::start(&directory, &[("vault", &lab, 10)])?;
    operator.create_authority("x", "vault").await?;
    let agent = operator.add_host(&lab, "a").await?;
    operator.create_guest("x", "a").await?;
    operator.tells("x", "HostsGranted", "Granted").await;

    operator.delete::<CertificateAuthority>("x").await?;
    operator.delete::<Host>("a").await?;
    operator.tells("x", "Deleting", "GuestsRemain").await;
    operator.host_tells("a", "LoginEnded", "GuestsRemain").await;
    agent.has_signed("x", &kubelet()).await?;

    operator.delete::<Guest>("x.worker-0").await?;
    operator.authority_is_gone("x").await;
    operator.host_is_gone("a").await;
    assert_eq!(lab.pki.observe_cluster(&"x".parse()?).await?, ObservedCluster::default());
    let refusal = agent.has_signed("x", &kubelet()).await.unwrap_err();
    assert_eq!(refusal.reason(), "VaultLoginFailed", "{refusal}");
    operator.stop().await
}

#[tokio::test]
async fn a_vault_that_never_answers_delays_the_clusters_of_no_other() -> Result<()> {
    let (lab, stuck) = (Lab::start().await?, Lab::start().await?);
    let directory = directory()?;
    let operator = Operator::start(&directory, &[("vault", &lab, 10), ("stuck", &stuck, 300)])?;
    stuck.vault.pause()?;
    for number in 0..20 {
        operator.create_authority(&format!("s{number}"), "stuck").await?;
    }
    // Every worker that takes one of them waits for five minutes.
    operator.create_authority("x", "vault").await?;
    operator.tells("x", "Ready", "Made").await;
    stuck.vault.resume()?;
    for number in 0..20 {
        operator.tells(&format!("s{number}"), "Ready", "Made").await;
    }
    operator.stop().await
}

#[tokio::test]
async fn an_operator_that_is_killed_again_and_again_makes_everything_once_and_leaves_nothing() -> Result<()> {
    const CLUSTERS: usize = 12;
    let lab = Lab::start().await?;
    let directory = directory()?;
    let host = |number: usize| ["a", "b"][number % 2];
    let operator = Operator::start(&directory, &[("vault", &lab, 10)])?;
    let (a, b) = (operator.add_host(&lab, "a").await?, operator.add_host(&lab, "b").await?);
    operator.stop().await?;

    for number in 0..CLUSTERS {
        let cluster = format!("c{number}");
        Operator::killed(&directory, &lab, async |operator| {
            operator.create_authority(&cluster, "vault").await?;
            operator.create_guest(&cluster, host(number)).await
        })
        .await?;
    }
    let operator = Operator::start(&directory, &[("vault", &lab, 10)])?;
    for number in 0..CLUSTERS {
        let cluster = format!("c{number}");
        operator.tells(&cluster, "Ready", "Made").await;
        operator.tells(&cluster, "HostsGranted", "Granted").await;
        assert_eq!(lab.issuers(&cluster).await?, ["root"], "{cluster} has one root");
        let (here, elsewhere) = if host(number) == "a" { (&a, &b) } else { (&b, &a) };
        here.has_signed(&cluster, &kubelet()).await?;
        elsewhere.is_refused(&cluster, &kubelet()).await;
    }
    operator.stop().await?;

    for number in 0..CLUSTERS {
        let cluster = format!("c{number}");
        Operator::killed(&directory, &lab, async |operator| {
            operator.delete::<CertificateAuthority>(&cluster).await?;
            operator.delete::<Guest>(&format!("{cluster}.worker-0")).await
        })
        .await?;
    }
    for host in ["a", "b"] {
        Operator::killed(&directory, &lab, async |operator| operator.delete::<Host>(host).await).await?;
    }
    let operator = Operator::start(&directory, &[("vault", &lab, 10)])?;
    operator.context.caches.synced().await;
    for number in 0..CLUSTERS {
        operator.authority_is_gone(&format!("c{number}")).await;
    }
    for host in ["a", "b"] {
        operator.host_is_gone(host).await;
    }
    operator.stop().await?;
    assert_eq!(lab.left_in_vault().await?, Vec::<String>::new());
    Ok(())
}
