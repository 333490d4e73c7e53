//! The operator as the fleet grows: all of its controllers on its real store, with hosts that are simulated.
//!
//! Each fleet is beside one of a tenth of its size. Where nothing but what changes costs something, the ratios are 1.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use goliath_operator::{
    agents::{
        Connections, Limits,
        simulated::{Paces, SimulatedAgent, World},
    },
    context::Context,
    controllers::{self, Outside, guest::condition, host, network},
    network::VniRange,
    objects::{Cluster, Guest, Host, Object},
    pki::{Authorities, IssuerConfig},
    render::Templates,
    runtime::Tasks,
    store::{EmbeddedStore, Options, Store as _},
};
use goliath_proto::agent::v1::Capacity;
use serde_json::json;

use crate::{
    figure::{Figure, Plan, median, milliseconds},
    idle::resident_mib,
    report,
};

/// Of one cluster: so many workers beside three masters.
const WORKERS: usize = 97;
const GUESTS_OF_A_CLUSTER: usize = WORKERS + 3;
/// Objects that are written at one time: they share the disk's flushes.
const WRITES: usize = 256;
/// A change is measured so often.
const CHANGES: usize = 9;
const LIMIT: Duration = Duration::from_mins(30);

const PLACED: Plan = Plan {
    name: "time to place a guest among 10,000 hosts",
    unit: "ms",
    baseline_name: "1,000 hosts",
    goal: Some(1.25),
    cost: "Every guest is a few durable writes; the more objects there are, the deeper is the store's tree.",
};
const READY: Plan = Plan {
    name: "time until a guest is told ready",
    unit: "ms",
    baseline_name: "1,000 hosts",
    goal: Some(1.25),
    cost: "Statuses are written as agents tell them, each one durable.",
};
const CHANGE: Plan = Plan {
    name: "one more guest in a fleet of 10,000 hosts",
    unit: "ms",
    baseline_name: "1,000 hosts",
    goal: Some(1.25),
    cost: "The heartbeats of the fleet run beside it.",
};
const MEMORY: Plan = Plan {
    name: "operator and simulated hosts, by guest",
    unit: "KiB",
    baseline_name: "1,000 hosts",
    goal: Some(1.25),
    cost: "",
};
const RECONNECT: Plan = Plan {
    name: "all 10,000 hosts reached after a restart",
    unit: "ms",
    baseline_name: "1,000 hosts",
    goal: Some(12.5),
    cost: "Each agent lists its guests; so many hosts are dialled at one time.",
};

/// What one size of a fleet took.
struct Taken {
    placed: Duration,
    ready: Duration,
    changes: Vec<Duration>,
    memory_kib: f64,
    reconnect: Duration,
}

pub(crate) async fn measure() -> Result<Vec<Figure>> {
    let small = of_size(1_000).await?;
    let large = of_size(10_000).await?;
    Ok(vec![
        PLACED.measured(milliseconds(large.placed) / 100_000.0, milliseconds(small.placed) / 10_000.0),
        READY.measured(milliseconds(large.ready) / 100_000.0, milliseconds(small.ready) / 10_000.0),
        CHANGE.measured(milliseconds(median(&large.changes)), milliseconds(median(&small.changes))),
        MEMORY.measured(large.memory_kib / 100_000.0, small.memory_kib / 10_000.0),
        RECONNECT.measured(milliseconds(large.reconnect), milliseconds(small.reconnect)),
    ])
}

/// Ten guests for each host, all at once.
async fn of_size(hosts: usize) -> Result<Taken> {
    let guests = hosts * 10;
    report::progress(&format!("{hosts} simulated hosts, {guests} guests"));
    let before = resident_mib(std::process::id())?;
    let directory = tempfile::Builder::new().prefix("goliath-fleet-").tempdir()?;
    let store = Arc::new(EmbeddedStore::open(&directory.path().join("store"), &Options::default())?);
    let paces = Paces { prepare: Duration::ZERO, start: Duration::ZERO, boot: Duration::ZERO, ..Paces::default() };
    let world = World::new(paces, Limits::default());
    for number in 0..hosts {
        let capacity = Capacity { vcpus: 128, memory_bytes: 256 << 30, disk_bytes: 4 << 40 };
        world.add_host(&host_name(number), capacity);
    }
    let declared = (0..hosts).map(declared_host).collect::<Result<Vec<_>>>()?;
    create(&store, declared).await?;

    let operator = Fleet::start(&store, &world).await?;
    operator.until(|fleet| fleet.reached() == hosts && fleet.ready_hosts() == hosts).await?;
    let begun = Instant::now();
    let clusters = guests / GUESTS_OF_A_CLUSTER;
    create(&store, (0..clusters).map(|number| cluster(number, WORKERS)).collect::<Result<_>>()?).await?;
    operator.until(|fleet| fleet.guests(|guest| guest.spec.binding.is_some()) == guests).await?;
    let placed = begun.elapsed();
    operator.until(|fleet| fleet.guests(is_ready) == guests).await?;
    let ready = begun.elapsed();

    let mut changes = Vec::new();
    for number in 0..CHANGES.min(clusters) {
        let begun = Instant::now();
        let name = cluster_name(number);
        let mut larger = store.get::<Cluster>(&name).await?;
        larger.spec = cluster(number, WORKERS + 1)?.spec;
        store.replace(&larger).await?;
        let guest = format!("{name}.pool-{WORKERS}");
        operator.until(|fleet| fleet.context.caches.guests.get(&guest).is_some_and(|guest| is_ready(&guest))).await?;
        changes.push(begun.elapsed());
    }
    let memory_kib = 1024.0 * (resident_mib(std::process::id())? - before);

    operator.stop().await?;
    let begun = Instant::now();
    let operator = Fleet::start(&store, &world).await?;
    operator.until(|fleet| fleet.reached() == hosts).await?;
    let reconnect = begun.elapsed();
    operator.stop().await?;
    ensure!(world.doubled().is_empty(), "a guest ran twice: {:?}", world.doubled());
    Ok(Taken { placed, ready, changes, memory_kib, reconnect })
}

/// An operator without its API.
struct Fleet {
    context: Context<EmbeddedStore, Connections<SimulatedAgent>>,
    tasks: Tasks,
}

impl Fleet {
    async fn start(store: &Arc<EmbeddedStore>, world: &World) -> Result<Self> {
        let tasks = Tasks::new();
        let context = Context::start(Arc::clone(store), Connections::default(), &tasks);
        context.caches.synced().await;
        let local: IssuerConfig = serde_json::from_value(json!({ "kind": "local" }))?;
        let issuers = BTreeMap::from([("local".parse()?, local)]);
        let vnis = VniRange::new(5_000.try_into()?, 50_000.try_into()?)?;
        let outside = Outside {
            connector: Arc::new(world.clone()),
            hosts: host::Settings::default(),
            network: network::Settings { vnis, gather: Duration::from_millis(200) },
            templates: Arc::new(Templates::load(None)?),
            authorities: Arc::new(Authorities::start(&issuers, Path::new("/nonexistent"))?),
        };
        controllers::start(&context, outside, &tasks);
        Ok(Self { context, tasks })
    }

    fn reached(&self) -> usize {
        self.context.connections.all().len()
    }

    fn ready_hosts(&self) -> usize {
        let hosts = self.context.caches.hosts.list();
        hosts
            .iter()
            .filter(|host| host.status.as_ref().is_some_and(|status| status.conditions.is_true("Ready")))
            .count()
    }

    fn guests(&self, which: impl Fn(&Guest) -> bool) -> usize {
        self.context.caches.guests.list().iter().filter(|guest| which(guest)).count()
    }

    /// Looks as often as what it looks at changes, and not without a pause: looking costs too.
    async fn until(&self, reached: impl Fn(&Self) -> bool) -> Result<()> {
        let looked = async {
            let mut pause = Duration::from_millis(1);
            loop {
                let begun = Instant::now();
                if reached(self) {
                    return;
                }
                // A look at a large fleet takes a while: no more than a tenth of the time is spent on looking.
                pause = pause.max(begun.elapsed() * 10);
                tokio::time::sleep(pause).await;
            }
        };
        tokio::time::timeout(LIMIT, looked).await.context("the fleet did not come to rest")
    }

    async fn stop(self) -> Result<()> {
        Ok(self.tasks.shut_down(Duration::from_mins(1)).await?)
    }
}

fn is_ready(guest: &Guest) -> bool {
    guest.status.as_ref().is_some_and(|status| status.conditions.is_true(condition::READY))
}

async fn create<T: Object>(store: &Arc<EmbeddedStore>, objects: Vec<T>) -> Result<()> {
    let written = stream::iter(objects).map(|object| async move { store.create(&object).await });
    written.buffer_unordered(WRITES).try_for_each(|_| async { Ok(()) }).await.context("an object was refused")
}

fn host_name(number: usize) -> String {
    format!("host-{number}")
}

fn cluster_name(number: usize) -> String {
    format!("cluster-{number}")
}

fn declared_host(number: usize) -> Result<Host> {
    let name = host_name(number);
    Ok(serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Host", "metadata": { "name": name },
        "spec": { "address": format!("{name}:7443"), "zone": format!("zone-{}", number % 10) },
    }))?)
}

fn cluster(number: usize, workers: usize) -> Result<Cluster> {
    let seed = json!({ "cloudInit": { "template": { "inline": "#cloud-config" } } });
    let guests = json!({
        "replicas": 3, "machine": { "vcpus": 2, "memory": "4GiB" }, "boot": { "kernel": {} },
        "image": "registry.example/node:1", "seed": seed,
    });
    let mut pool = guests.clone();
    if let Some(pool) = pool.as_object_mut() {
        pool.insert("name".to_owned(), json!("pool"));
        pool.insert("replicas".to_owned(), json!(workers));
    }
    Ok(serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": cluster_name(number) },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/22" },
            "masters": guests, "workers": [pool], "pki": { "issuer": "local" },
        },
    }))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_fleet_comes_up_follows_a_change_and_is_reached_again() {
        let taken = of_size(20).await.unwrap();
        assert!(taken.placed <= taken.ready);
        assert_eq!(taken.changes.len(), 2);
        assert!(taken.changes.iter().all(|change| !change.is_zero()));
    }
}
