//! The operator's controllers of hosts, guests and networks, over real agents and real guests.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Context as _, Result, bail};
use goliath_lab::{Host, Lab, namespace, program, run};
use goliath_operator::{
    agents::{Connections, Limits, Tls, TlsFiles},
    context::Context,
    controllers::{finalizer, guest, host, network},
    network::VniRange,
    objects::{self, Cluster, Guest, Object},
    runtime::Tasks,
    store::{EmbeddedStore, Options, Preconditions, Store as _, StoreError},
};
use serde_json::json;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

const LIMIT: Duration = Duration::from_mins(2);

/// The controllers, in a namespace of the underlay; they end where they are when it is dropped.
struct Operator {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Operator {
    fn start(lab: &Lab, host: &Host, store: &Arc<EmbeddedStore>) -> Self {
        let pki = host.directory().join("pki");
        let files = TlsFiles {
            certificate: pki.join("operator.crt"),
            key: pki.join("operator.key"),
            agent_ca: pki.join("ca.crt"),
        };
        let (namespace, store) = (lab.underlay().namespace().to_owned(), Arc::clone(store));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            namespace::inside(&namespace, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(operate(store, Tls::new(files, Limits::default()), stopped))
            })
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn operate(store: Arc<EmbeddedStore>, tls: Tls, stopped: oneshot::Receiver<()>) -> Result<()> {
    let tasks = Tasks::new();
    let context = Context::start(store, Connections::default(), &tasks);
    context.caches.synced().await;
    let vnis = VniRange::new(5000.try_into()?, 5999.try_into()?)?;
    guest::start(&context, &tasks);
    network::start(&context, network::Settings { vnis, gather: Duration::from_millis(100) }, &tasks);
    host::start(&context, Arc::new(tls), host::Settings::default(), &tasks);
    // The sender is dropped.
    let _ = stopped.await;
    Ok(())
}

fn store(directory: &Path) -> Result<Arc<EmbeddedStore>> {
    Ok(Arc::new(EmbeddedStore::open(&directory.join("operator-store"), &Options::default())?))
}

fn declared(host: &Host) -> Result<objects::Host> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Host",
        "metadata": { "name": host.name() },
        "spec": { "address": host.api_address().to_string() }
    }))?)
}

fn cluster() -> Result<Cluster> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": "acme" },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": {
                "replicas": 1, "machine": { "vcpus": 1, "memory": "192MiB" }, "image": "registry.example/debian:12"
            }
        }
    }))?)
}

/// As placement leaves it.
fn worker(index: u8, host: &Host) -> Result<Guest> {
    let layout = program::image_layout("tiny")?;
    Ok(serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Guest",
        "metadata": { "name": format!("acme.default-{index}"), "finalizers": [finalizer::GUEST] },
        "spec": {
            "cluster": "acme", "role": "worker", "pool": "default", "index": index,
            "hostname": format!("default-{index}"),
            "machine": { "vcpus": 1, "memory": "192MiB", "accelerator": "tcg" },
            "boot": { "kernel": {} },
            "image": format!("oci-layout:{}", layout.display()),
            "network": { "ipv4Address": format!("10.7.0.{}", 10 + index) },
            "seed": { "cloudInit": {} },
            "binding": { "host": host.name(), "reason": "a test says so", "time": "2026-01-01T00:00:00Z" },
        }
    }))?)
}

/// Waits until an object is as it shall be; none: it is gone.
async fn until<T: Object>(store: &EmbeddedStore, name: &str, holds: impl Fn(Option<&T>) -> bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let object = match store.get::<T>(name).await {
            Ok(object) => Some(object),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if holds(object.as_ref()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{name} does not become as it shall be: {object:#?}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until_ready(store: &EmbeddedStore, name: &str) -> Result<()> {
    let ready = |guest: Option<&Guest>| {
        let status = guest.and_then(|guest| guest.status.as_ref());
        status.is_some_and(|status| status.conditions.is_true(guest::condition::READY))
    };
    until(store, name, ready).await
}

#[test]
fn guests_of_two_hosts_run_reach_each_other_and_leave_nothing() {
    run(async |lab: &Lab| {
        let (a, b) = (lab.host("a").start().await?, lab.host("b").start().await?);
        let store = store(lab.directory())?;
        for host in [&a, &b] {
            store.create(&declared(host)?).await?;
        }
        store.create(&cluster()?).await?;
        store.create(&worker(0, &a)?).await?;
        store.create(&worker(1, &b)?).await?;
        let operator = Operator::start(lab, &a, &store);
        until_ready(&store, "acme.default-0").await?;
        until_ready(&store, "acme.default-1").await?;

        let seen = lab.cluster("acme").on(&[&a, &b]);
        let (first, second) = (seen.guest_on(&a, "default-0").await?, seen.guest_on(&b, "default-1").await?);
        assert!(first.pings(second.address()).await?, "they do not reach each other over the overlay");

        // Neither an agent nor the operator that dies changes anything about what runs.
        let before = (a.qemus_of(first.uid()).await?, b.qemus_of(second.uid()).await?);
        drop(operator);
        a.kill_agent().await?;
        let operator = Operator::start(lab, &a, &store);
        a.start_agent().await?;
        store.create(&worker(2, &a)?).await?;
        until_ready(&store, "acme.default-2").await?;
        let third = seen.guest_on(&a, "default-2").await?;
        assert!(second.pings(third.address()).await?, "host b was not told of the new guest");
        let after = (a.qemus_of(first.uid()).await?, b.qemus_of(second.uid()).await?);
        let pids = |processes: &(Vec<goliath_lab::process::Process>, Vec<goliath_lab::process::Process>)| {
            let all = processes.0.iter().chain(&processes.1);
            all.map(|process| process.pid).collect::<Vec<_>>()
        };
        assert_eq!((pids(&before), pids(&before).len()), (pids(&after), 2));

        for name in ["acme.default-0", "acme.default-1", "acme.default-2"] {
            store.delete::<Guest>(name, Preconditions::default()).await?;
        }
        store.delete::<Cluster>("acme", Preconditions::default()).await?;
        until::<Cluster>(&store, "acme", |cluster| cluster.is_none()).await?;
        for host in [&a, &b] {
            host.until_no_networks().await.with_context(|| format!("{} keeps a network", host.name()))?;
            assert!(host.guest_processes().await?.is_empty(), "{} still runs something", host.name());
        }
        drop(operator);
        Ok(())
    });
}
