//! Networks: VNI, gateway and hosts' addresses are allocated and written down; each host that guests of a cluster are
//! bound to has the cluster's network, and knows the other hosts.
//!
//! ```text
//! Cluster, Guests ──► allocator ──► Cluster.status.network ──► members (one for each cluster and host) ──► agents
//! Guests, Hosts ────► State: peer lists, and what agents have ────┘
//! ```
//!
//! An address stands in `status.network.hostAddresses` before the host's agent hears of the network, and goes from there
//! after the agent said that it has the network no more. So what is written tells everywhere a network can be, and a
//! cluster goes only when nothing is left there.

mod allocate;
mod allocator;
mod member;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use goliath_proto::values::{ClusterName, GuestUid, HostName, MacAddress};

use allocator::Allocator;
pub use allocator::NETWORK_READY;
use member::{Key, Members};
use state::{Member, State};

use crate::{
    agents::{Agent, Connections, Heard},
    context::Context,
    network::{GuestPlace, HostPlace, PeerEndpoint, VniRange, Vnis},
    objects::{Cluster, Guest, Host, NetworkAllocation},
    runtime::{Cache, Change, GuestBy, Queue, Tasks, run},
    store::Store,
};

/// How many agents are told of networks at one time.
const WORKERS: usize = 64;

/// How networks are allocated and told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For clusters whose manifests give none.
    pub vnis: VniRange,
    /// How long changes of peers are gathered before hosts that have the network already are told.
    pub gather: Duration,
}

/// What the allocator and the members have in common.
struct Shared {
    state: Mutex<State>,
    vnis: Mutex<Vnis>,
    allocate: Queue<String>,
    members: Queue<Key>,
    gather: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vnis(&self) -> MutexGuard<'_, Vnis> {
        self.vnis.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These have a list that is not what it should be: soon they are told, with what changes until then.
    fn push_outdated(&self, outdated: Vec<Member>) {
        for member in outdated {
            self.members.push_after(Key::Member(member), self.gather);
        }
    }
}

/// Begins to look after all networks, until the tasks are stopped. The caches are to be synced.
pub fn start<S: Store, A: Agent>(context: &Context<S, Connections<A>>, settings: Settings, tasks: &Tasks) {
    let Settings { vnis, gather } = settings;
    let caches = &context.caches;
    let mut vnis = Vnis::new(vnis);
    // All that is written is held before anything is given.
    for cluster in caches.clusters.list() {
        hold_vni(&mut vnis, &cluster);
    }
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        vnis: Mutex::new(vnis),
        allocate: Queue::default(),
        members: Queue::default(),
        gather,
    });

    let (followed, hosts) = (Arc::clone(&shared), caches.hosts.clone());
    follow(tasks, &caches.clusters, move |change| cluster_changed(&followed, &hosts, change));
    let (followed, clusters) = (Arc::clone(&shared), caches.clusters.clone());
    follow(tasks, &caches.guests, move |change| guest_changed(&followed, &clusters, change));
    let (followed, guests, clusters) = (Arc::clone(&shared), caches.guests.clone(), caches.clusters.clone());
    follow(tasks, &caches.hosts, move |change| host_changed(&followed, &guests, &clusters, change));
    let heard = Arc::clone(&shared);
    context.connections.listen(move |event| match event {
        Heard::Connected(host) => heard.members.push(Key::Host(host.clone())),
        Heard::Lost(host) => heard.state().lost(host),
        Heard::Guest(..) => {}
    });

    let allocator = Allocator::new(context.clone(), Arc::clone(&shared));
    tasks.spawn("networks", run(Arc::new(allocator), shared.allocate.clone(), 1, tasks.stop()));
    let members = Members { context: context.clone(), shared: Arc::clone(&shared) };
    tasks.spawn("network members", run(Arc::new(members), shared.members.clone(), WORKERS, tasks.stop()));
}

/// Has every change seen: what is there already before this returns, so that nobody takes for unwanted what was not seen
/// yet.
fn follow<T: crate::runtime::Indexed>(tasks: &Tasks, cache: &Cache<T>, see: impl Fn(&Change<T>) + Send + 'static) {
    let (mut changes, stop) = (cache.changes(), tasks.stop());
    while let Some(change) = changes.try_next() {
        see(&change);
    }
    tasks.spawn("networks follow", async move {
        while let Some(change) = stop.run_until_cancelled(changes.next()).await {
            see(&change);
        }
    });
}

fn hold_vni(vnis: &mut Vnis, cluster: &Cluster) {
    let written = cluster.status.as_ref().and_then(|status| status.network.as_ref());
    let vni = written.and_then(|network| network.vni.get().try_into().ok());
    if let (Some(name), Some(vni)) = (name_of(cluster), vni) {
        // Where two have one, as nothing but a hand can write it, the second is told when it is looked at.
        let _ = vnis.hold(&name, vni);
    }
}

fn network_of(cluster: Option<&Cluster>) -> Option<&NetworkAllocation> {
    cluster?.status.as_ref()?.network.as_ref()
}

fn name_of(cluster: &Cluster) -> Option<ClusterName> {
    cluster.metadata.name.as_ref()?.parse().ok()
}

fn cluster_changed(shared: &Shared, hosts: &Cache<Host>, change: &Change<Cluster>) {
    let Some(name) = change.both().next().and_then(|cluster| name_of(cluster)) else { return };
    let metadata = |cluster: Option<&Arc<Cluster>>| cluster.map(|cluster| cluster.metadata.clone()).unwrap_or_default();
    let (was, is) = (metadata(change.old.as_ref()), metadata(change.new.as_ref()));
    let (old, new) = (network_of(change.old.as_deref()), network_of(change.new.as_deref()));
    let is_changed = was.generation != is.generation || was.uid != is.uid;
    if !is_changed && old == new && was.deletion_timestamp == is.deletion_timestamp && was.finalizers == is.finalizers {
        // Guests were counted, or something was said.
        return;
    }
    shared.allocate.push(name.to_string());
    let none = BTreeMap::new();
    let (old, new) = (old.map_or(&none, |old| &old.host_addresses), new.map_or(&none, |new| &new.host_addresses));
    for host in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let Ok(host_name) = host.as_str().parse::<HostName>() else { continue };
        let member = Member::new(&name, &host_name);
        if old.get(host) != new.get(host) {
            let vtep = hosts.get(host.as_str()).and_then(|host| host.status.as_ref()?.underlay_address);
            let place = new.get(host).zip(vtep).map(|(address, vtep)| HostPlace { vtep, address: *address });
            let outdated = shared.state().set_address(&member, new.contains_key(host), place);
            shared.push_outdated(outdated);
            shared.members.push(Key::Member(member));
        } else if is_changed {
            shared.members.push(Key::Member(member));
        }
    }
}

/// Where a guest is in its cluster's network; none: nowhere yet.
fn place_of(guest: &Guest, uid: GuestUid) -> Option<GuestPlace> {
    let network = guest.spec.network.as_ref()?;
    let host = guest.spec.host()?.as_str().parse().ok()?;
    let mac_address = match network.mac_address {
        Some(mac) => MacAddress::try_from(mac.octets()).ok()?,
        None => MacAddress::of_guest(uid),
    };
    Some(GuestPlace { host, endpoint: PeerEndpoint { address: network.ipv4_address, mac_address } })
}

fn guest_changed(shared: &Shared, clusters: &Cache<Cluster>, change: &Change<Guest>) {
    let parsed = |guest: &Arc<Guest>| {
        let uid = guest.metadata.uid.as_ref()?.parse().ok()?;
        let cluster: ClusterName = guest.spec.cluster.as_str().parse().ok()?;
        Some((cluster, uid, place_of(guest, uid)))
    };
    let old = change.old.as_ref().and_then(parsed);
    let new = change.new.as_ref().and_then(parsed);
    if old == new {
        return;
    }
    // Deleted and made again between two looks: another uid.
    if let Some((cluster, uid, place)) = &old
        && new.as_ref().is_none_or(|(_, new, _)| new != uid)
    {
        let outdated = shared.state().set_guest(cluster, *uid, None);
        moved(shared, clusters, cluster, place.as_ref(), outdated);
    }
    if let Some((cluster, uid, place)) = new {
        let outdated = shared.state().set_guest(&cluster, uid, place.clone());
        moved(shared, clusters, &cluster, place.as_ref(), outdated);
        let left = old.filter(|(_, old, _)| *old == uid).and_then(|(_, _, place)| place);
        if left.as_ref().map(|place| &place.host) != place.as_ref().map(|place| &place.host) {
            moved(shared, clusters, &cluster, left.as_ref(), Vec::new());
        }
    }
}

/// A guest came to a host, or left it: it may have a new member, or one less.
fn moved(
    shared: &Shared,
    clusters: &Cache<Cluster>,
    cluster: &ClusterName,
    place: Option<&GuestPlace>,
    outdated: Vec<Member>,
) {
    shared.push_outdated(outdated);
    if is_for_allocator(shared, clusters, cluster, place) {
        shared.allocate.push(cluster.to_string());
    }
    if let Some(place) = place {
        shared.members.push(Key::Member(Member::new(cluster, &place.host)));
    }
}

/// Whether a guest at a place, or gone from there, changes what is allocated: a large cluster is not gone through for each
/// of its guests.
fn is_for_allocator(
    shared: &Shared,
    clusters: &Cache<Cluster>,
    cluster: &ClusterName,
    place: Option<&GuestPlace>,
) -> bool {
    let Some(object) = clusters.get(cluster.as_str()) else { return false };
    if object.metadata.deletion_timestamp.is_some() {
        return true;
    }
    let Some(network) = network_of(Some(&object)) else { return true };
    let Some(GuestPlace { host, endpoint }) = place else { return false };
    let has_address = network.host_addresses.keys().any(|name| name.as_str() == host.as_str());
    let is_taken = network.host_addresses.values().any(|address| *address == endpoint.address);
    is_taken || has_address != shared.state().is_wanted(&Member::new(cluster, host))
}

fn host_changed(shared: &Shared, guests: &Cache<Guest>, clusters: &Cache<Cluster>, change: &Change<Host>) {
    let vtep = |host: &Arc<Host>| host.status.as_ref().and_then(|status| status.underlay_address);
    let (old, new) = (change.old.as_ref().and_then(vtep), change.new.as_ref().and_then(vtep));
    let stays = |host: Option<&Arc<Host>>| host.is_some_and(|host| host.metadata.deletion_timestamp.is_none());
    if old == new && stays(change.old.as_ref()) == stays(change.new.as_ref()) {
        return;
    }
    let name = change.both().next().and_then(|host| host.metadata.name.clone()).unwrap_or_default();
    let Ok(host) = name.parse::<HostName>() else { return };
    let bound = guests.by(GuestBy::Host, &name);
    let bound = bound.iter().filter_map(|guest| guest.spec.cluster.as_str().parse().ok());
    let concerned: BTreeSet<ClusterName> = bound.chain(shared.state().clusters_of(&host)).collect();
    for cluster in concerned {
        let member = Member::new(&cluster, &host);
        let address = clusters.get(cluster.as_str()).and_then(|cluster| {
            let key = name.parse::<crate::objects::HostName>().ok()?;
            network_of(Some(&cluster))?.host_addresses.get(&key).copied()
        });
        let place = address.zip(new).map(|(address, vtep)| HostPlace { vtep, address });
        let outdated = shared.state().set_address(&member, address.is_some(), place);
        shared.push_outdated(outdated);
        shared.members.push(Key::Member(member));
        shared.allocate.push(cluster.to_string());
    }
}
