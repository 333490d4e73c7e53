//! Agents in memory: a world of hosts that behave as real ones do, at the speed of a clock, and fail when they are told
//! to. A guest costs a few hundred bytes beside its spec, a host a few thousand; nothing runs while nobody looks: what is
//! due is done when somebody asks, in the order in which it was due.
//!
//! The world sees all hosts at once, so it knows what no agent can: whether a guest ever ran twice at one time.

mod agent;
mod host;
mod machine;
mod runs;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use goliath_proto::{agent::v1 as pb, values::GuestUid};

pub use agent::SimulatedAgent;
pub use host::Faults;
use host::SimulatedHost;
use machine::Machine;
pub use runs::Doubled;
use runs::Runs;

use super::{AgentConnector, AgentError, Limits, Target};

/// How long things take there.
#[derive(Debug, Clone, Copy)]
pub struct Paces {
    /// From accepted to started: image, network, volumes.
    pub prepare: Duration,
    /// From QEMU's start to `running`.
    pub start: Duration,
    /// From `running` to booted.
    pub boot: Duration,
    /// From the power button to the end of QEMU; also how long the removal of a network takes.
    pub stop: Duration,
    /// How many changes are remembered for watches.
    pub history: usize,
}

impl Default for Paces {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(2),
            start: Duration::from_millis(300),
            boot: Duration::from_secs(10),
            stop: Duration::from_secs(5),
            history: 1024,
        }
    }
}

impl Paces {
    /// Everything in some milliseconds, for tests.
    pub fn fast() -> Self {
        let soon = Duration::from_millis(5);
        Self { prepare: soon, start: soon, boot: soon, stop: soon, history: 64 }
    }
}

/// Hosts in memory. Clones are the same world.
#[derive(Debug, Clone)]
pub struct World(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    paces: Paces,
    limits: Limits,
    hosts: RwLock<BTreeMap<String, Arc<SimulatedHost>>>,
    runs: Arc<Mutex<Runs>>,
}

impl World {
    /// Without hosts; `limits` are those of the connections to them.
    pub fn new(paces: Paces, limits: Limits) -> Self {
        Self(Arc::new(Shared { paces, limits, hosts: RwLock::default(), runs: Arc::default() }))
    }

    /// Adds a host. It answers at any address whose host part is its name.
    pub fn add_host(&self, name: &str, capacity: pb::Capacity) {
        let mut hosts = self.0.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let machine = Machine::new(name, number, capacity, self.0.paces, Arc::clone(&self.0.runs));
        hosts.insert(name.to_owned(), Arc::new(SimulatedHost::new(machine)));
    }

    fn host(&self, name: &str) -> Option<Arc<SimulatedHost>> {
        self.0.hosts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn on<T: Default>(&self, host: &str, act: impl FnOnce(&SimulatedHost) -> T) -> T {
        self.host(host).map(|host| act(&host)).unwrap_or_default()
    }

    /// How a host fails from now on.
    pub fn set_faults(&self, host: &str, faults: Faults) {
        self.on(host, |host| host.set_faults(faults));
    }

    /// The agent ends and begins anew: connections break, revisions of its former life are forgotten, guests run on.
    pub fn restart_agent(&self, host: &str) {
        self.on(host, SimulatedHost::restart_agent);
    }

    /// The machine restarts: guests end, and are started again.
    pub fn reboot(&self, host: &str) {
        self.on(host, SimulatedHost::reboot);
    }

    /// The machine loses its power: its guests end, and nothing reaches it.
    pub fn power_off(&self, host: &str) {
        self.set_faults(host, Faults { unreachable: true, ..Faults::default() });
        self.on(host, |host| host.act(Machine::power_off));
    }

    /// The machine and its agent begin where they ended: guests are started again.
    pub fn power_on(&self, host: &str) {
        self.on(host, |host| host.act(Machine::power_on));
        self.restart_agent(host);
        self.set_faults(host, Faults::default());
    }

    /// Somebody at the machine has a guest removed.
    pub fn delete_by_hand(&self, host: &str, uid: GuestUid) {
        self.on(host, |host| {
            // One that is not there needs no removal.
            let _ = host.act(|machine, now| machine.delete_guest(uid, now));
        });
    }

    /// Puts a guest there that no operator asked for.
    pub fn intrude(&self, host: &str, spec: pb::GuestSpec) -> Result<(), AgentError> {
        let host = self.host(host).ok_or(AgentError::NotFound)?;
        host.act(|machine, now| machine.apply_guest(spec, now)).map(|_| ())
    }

    /// The guests that a host has, whatever their state.
    pub fn guests(&self, host: &str) -> BTreeSet<GuestUid> {
        self.on(host, |host| host.act(|machine, _| machine.uids()))
    }

    /// The networks that a host has, by cluster.
    pub fn networks(&self, host: &str) -> BTreeMap<String, pb::Network> {
        let networks = self.on(host, |host| host.act(|machine, _| machine.networks()));
        let cluster = |network: &pb::Network| network.spec.as_ref().map(|spec| spec.cluster.clone());
        networks.into_iter().filter_map(|network| Some((cluster(&network)?, network))).collect()
    }

    /// How often a network of a host was changed.
    pub fn network_changes(&self, host: &str) -> u64 {
        self.on(host, |host| host.act(|machine, _| machine.network_changes()))
    }

    /// Whether a host takes no new guests.
    pub fn is_cordoned(&self, host: &str) -> bool {
        self.on(host, |host| host.act(|machine, _| machine.host().cordoned))
    }

    /// How many connections to a host were made.
    pub fn connections(&self, host: &str) -> u64 {
        self.on(host, SimulatedHost::connections)
    }

    /// How often agents of all hosts were asked something.
    pub fn calls(&self) -> u64 {
        self.0.hosts.read().unwrap_or_else(PoisonError::into_inner).values().map(|host| host.calls()).sum()
    }

    /// How often guests were started anywhere.
    pub fn starts(&self) -> usize {
        self.settle();
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner).starts()
    }

    /// Guests that ran twice at one time: there must be none, ever.
    pub fn doubled(&self) -> Vec<Doubled> {
        self.settle();
        self.0.runs.lock().unwrap_or_else(PoisonError::into_inner).doubled()
    }

    /// Does on all hosts what is due.
    fn settle(&self) {
        let hosts: Vec<_> = self.0.hosts.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for host in hosts {
            host.act(|_, _| ());
        }
    }
}

impl AgentConnector for World {
    type Agent = SimulatedAgent;

    async fn connect(&self, target: &Target) -> Result<SimulatedAgent, AgentError> {
        let host = self.host(target.address.host());
        let host = host.ok_or_else(|| AgentError::lost(format!("{}: no such host", target.address)))?;
        SimulatedAgent::connect(host, self.0.limits).await
    }
}
