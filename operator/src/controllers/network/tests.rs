//! Networks on simulated hosts that fail, under an operator that is killed.

use std::collections::{BTreeMap, BTreeSet};

use goliath_proto::{
    agent::v1 as pb,
    values::{GuestUid, MacAddress},
};
use proptest::prelude::*;

use super::NETWORK_READY;
use crate::{
    agents::simulated::Faults,
    controllers::tests::{Lab, cluster, guest},
    objects::{Cluster, Guest, NetworkInterface, ResourceExt},
};

const HOSTS: [&str; 3] = ["host-a", "host-b", "host-c"];
const CLUSTERS: [&str; 2] = ["acme", "blue"];

fn name(cluster: usize, slot: usize) -> String {
    format!("{}.default-{slot}", CLUSTERS[cluster])
}

/// As the cluster controller makes it: the slot tells the address.
fn member(cluster: usize, slot: usize, host: &str) -> Guest {
    let mut guest = guest(&name(cluster, slot), Some(host));
    let last = u8::try_from(slot).unwrap() + 10;
    guest.spec.network = Some(NetworkInterface { ipv4_address: [10, 7, 0, last].into(), mac_address: None });
    guest
}

/// What a host shall know of the others in a cluster: host, its address, its guests' addresses and MACs.
type Peers = BTreeMap<String, (String, BTreeSet<(String, String)>)>;

fn told(network: &pb::Network) -> Peers {
    let peers = network.peers.iter().flat_map(|list| &list.peers);
    peers
        .map(|peer| {
            let endpoint = |end: &pb::PeerEndpoint| (end.ipv4_address.clone(), end.mac_address.clone());
            let own = peer.host_endpoint.as_ref().map(|end| end.ipv4_address.clone()).unwrap_or_default();
            (peer.host.clone(), (own, peer.guests.iter().map(endpoint).collect()))
        })
        .collect()
}

/// What is not yet as the objects say.
fn unfinished(lab: &Lab) -> Option<String> {
    if let Some(what) = lab.unfinished(&HOSTS) {
        return Some(what);
    }
    let clusters = lab.list::<Cluster>();
    let guests = lab.list::<Guest>();
    let mut vnis = BTreeSet::new();
    for cluster in &clusters {
        let name = cluster.name_any();
        if cluster.metadata.deletion_timestamp.is_some() {
            return Some(format!("{name} goes"));
        }
        let Some(status) = &cluster.status else { return Some(format!("{name} has no status")) };
        let Some(network) = &status.network else { return Some(format!("{name} has no network")) };
        if !status.conditions.is_true(NETWORK_READY) {
            return Some(format!("{name}: {:?}", status.conditions));
        }
        assert!(vnis.insert(network.vni), "two clusters have VNI {}", network.vni);
        let of_cluster: Vec<_> = guests.iter().filter(|guest| guest.spec.cluster.as_str() == name).collect();
        let hosts: BTreeSet<&str> = of_cluster.iter().filter_map(|guest| Some(guest.spec.host()?.as_ref())).collect();
        let addressed: BTreeSet<&str> = network.host_addresses.keys().map(AsRef::as_ref).collect();
        if hosts != addressed {
            return Some(format!("{name} is on {hosts:?}, and {addressed:?} have addresses"));
        }
        let addresses: BTreeSet<_> = network.host_addresses.values().collect();
        assert_eq!(addresses.len(), network.host_addresses.len(), "two hosts have one address");
        for host in HOSTS {
            let there = lab.world.networks(host).remove(&name);
            let Some(own) = hosts.get(host).and_then(|_| network.host_addresses.get(&host.parse().unwrap())) else {
                if there.is_some() {
                    return Some(format!("{host} still has {name}"));
                }
                continue;
            };
            let Some(there) = there else { return Some(format!("{host} does not have {name}")) };
            let spec = there.spec.clone().unwrap_or_default();
            if (spec.vni, spec.host_address.clone(), spec.mtu) != (network.vni.get(), own.to_string(), mtu(cluster)) {
                return Some(format!("{host} has {spec:?}"));
            }
            let expected: Peers = network
                .host_addresses
                .iter()
                .filter(|(other, _)| other.as_str() != host)
                .map(|(other, address)| {
                    let there = of_cluster.iter().filter(|guest| guest.spec.host() == Some(other));
                    let ends = there.map(|guest| {
                        let uid: GuestUid = guest.metadata.uid.as_ref().unwrap().parse().unwrap();
                        let address = guest.spec.network.as_ref().unwrap().ipv4_address.to_string();
                        (address, MacAddress::of_guest(uid).to_string())
                    });
                    (other.to_string(), (address.to_string(), ends.collect()))
                })
                .collect();
            if told(&there) != expected {
                return Some(format!("{host} knows {:?} of {name}, and shall know {expected:?}", told(&there)));
            }
        }
    }
    let known: BTreeSet<String> = clusters.iter().map(ResourceExt::name_any).collect();
    HOSTS.iter().find_map(|host| {
        let left: BTreeSet<_> = lab.world.networks(host).into_keys().filter(|name| !known.contains(name)).collect();
        (!left.is_empty()).then(|| format!("{host} has networks of no cluster: {left:?}"))
    })
}

fn mtu(cluster: &Cluster) -> u32 {
    cluster.spec.network.mtu.map_or(0, |mtu| mtu.get().into())
}

#[test]
fn hosts_with_guests_have_the_network_and_know_each_other_and_nobody_else_does() {
    let lab = Lab::new(&HOSTS);
    for (number, name) in CLUSTERS.iter().enumerate() {
        lab.create(&cluster(name));
        lab.create(&member(number, 0, "host-a"));
        lab.create(&member(number, 1, "host-b"));
    }
    lab.until(unfinished);
    lab.change::<Cluster>("acme", |cluster| cluster.spec.network.mtu = Some(1400.try_into().unwrap()));
    lab.create(&member(0, 2, "host-c"));
    lab.delete::<Guest>(&name(0, 1));
    lab.until(unfinished);
}

#[test]
fn a_change_is_told_to_those_whom_it_concerns() {
    let lab = Lab::new(&HOSTS);
    for (number, name) in CLUSTERS.iter().enumerate() {
        lab.create(&cluster(name));
        lab.create(&member(number, 0, "host-a"));
        lab.create(&member(number, 1, "host-b"));
    }
    lab.until(unfinished);
    let told = || HOSTS.map(|host| lab.world.network_changes(host));
    let before = told();
    // One more guest on a host that is in the network: the other host's list changes, and nothing else anywhere.
    lab.create(&member(0, 2, "host-a"));
    lab.until(unfinished);
    let after = told();
    assert_eq!((after[0] - before[0], after[1] - before[1], after[2] - before[2]), (0, 1, 0));
}

#[test]
fn a_host_yields_its_address_to_a_guest_that_was_given_the_same() {
    let lab = Lab::new(&HOSTS);
    lab.create(&cluster("acme"));
    lab.create(&member(0, 0, "host-a"));
    lab.until(unfinished);
    let address = |lab: &Lab| {
        let status = lab.get::<Cluster>("acme").unwrap().status.unwrap();
        status.network.unwrap().host_addresses[&"host-a".parse().unwrap()]
    };
    let taken = address(&lab);
    let mut rival = member(0, 1, "host-b");
    rival.spec.network.as_mut().unwrap().ipv4_address = taken;
    lab.create(&rival);
    lab.until(|lab| (address(lab) == taken).then(|| "the host keeps the address".to_owned()));
    lab.until(unfinished);
}

#[test]
fn a_vni_that_another_cluster_has_is_refused_and_such_a_cluster_can_go() {
    let lab = Lab::new(&HOSTS);
    let mut first = cluster("acme");
    first.spec.network.vni = Some(7.try_into().unwrap());
    let mut second = cluster("blue");
    second.spec.network.vni = Some(7.try_into().unwrap());
    lab.create(&first);
    lab.until(unfinished);
    lab.create(&second);
    lab.until(|lab| {
        let status = lab.get::<Cluster>("blue").unwrap().status.unwrap_or_default();
        let refusal = status.conditions.get(NETWORK_READY).cloned();
        refusal.as_ref().is_none_or(|refusal| refusal.reason != "VniTaken").then(|| format!("{refusal:?}"))
    });
    assert!(lab.get::<Cluster>("blue").unwrap().status.unwrap().network.is_none());
    lab.delete::<Cluster>("blue");
    until_gone(&lab, "blue");
}

/// A host that was cut off after the last guest of a cluster went from it, and before it was told to leave the network.
fn cut_off_with_the_network() -> Lab {
    let mut lab = Lab::new(&HOSTS);
    lab.create(&cluster("acme"));
    lab.create(&member(0, 0, "host-a"));
    lab.until(unfinished);
    lab.kill_operator();
    let uid = *lab.world.guests("host-a").first().unwrap();
    lab.world.delete_by_hand("host-a", uid);
    lab.until(|lab| (!lab.world.guests("host-a").is_empty()).then(|| "the guest stays".to_owned()));
    lab.change::<Guest>("acme.default-0", |guest| guest.metadata.finalizers = None);
    lab.delete::<Guest>("acme.default-0");
    lab.fail("host-a", Faults { unreachable: true, ..Faults::default() });
    lab.start_operator();
    lab.delete::<Cluster>("acme");
    lab
}

fn until_gone(lab: &Lab, cluster: &str) {
    lab.until(|lab| lab.get::<Cluster>(cluster).map(|cluster| format!("{:?}", cluster.status)));
}

#[test]
fn a_cluster_waits_for_a_host_that_may_have_its_network() {
    let lab = cut_off_with_the_network();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(lab.get::<Cluster>("acme").is_some(), "host-a did not say that it has left the network");
    lab.fail("host-a", Faults::default());
    until_gone(&lab, "acme");
    assert!(lab.world.networks("host-a").is_empty());
}

#[test]
fn a_cluster_does_not_wait_for_a_host_that_was_forgotten() {
    let lab = cut_off_with_the_network();
    lab.delete::<crate::objects::Host>("host-a");
    until_gone(&lab, "acme");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Declare(usize),
    Create(usize, usize, usize),
    Delete(usize, usize),
    Retire(usize),
    Mtu(usize, u64),
    Noise(usize, u8),
    Cut(usize),
    Heal(usize),
    RestartAgent(usize),
    Kill,
    Start,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (cluster, slot, host) = (0..CLUSTERS.len(), 0..4_usize, 0..HOSTS.len());
    prop_oneof![
        3 => cluster.clone().prop_map(Step::Declare),
        8 => (cluster.clone(), slot.clone(), host.clone())
            .prop_map(|(cluster, slot, host)| Step::Create(cluster, slot, host)),
        4 => (cluster.clone(), slot).prop_map(|(cluster, slot)| Step::Delete(cluster, slot)),
        1 => cluster.clone().prop_map(Step::Retire),
        1 => (cluster, 1300..1400_u64).prop_map(|(cluster, mtu)| Step::Mtu(cluster, mtu)),
        2 => (host.clone(), 0..40_u8).prop_map(|(host, lost)| Step::Noise(host, lost)),
        1 => host.clone().prop_map(Step::Cut),
        2 => host.clone().prop_map(Step::Heal),
        1 => host.prop_map(Step::RestartAgent),
        2 => Just(Step::Kill),
        4 => Just(Step::Start),
        6 => (0..40_u64).prop_map(Step::Wait),
    ]
}

fn take(lab: &mut Lab, step: Step) {
    match step {
        Step::Declare(number) => {
            if lab.get::<Cluster>(CLUSTERS[number]).is_none() {
                lab.create(&cluster(CLUSTERS[number]));
            }
        }
        Step::Create(number, slot, host) => {
            let declared = lab.get::<Cluster>(CLUSTERS[number]);
            let is_wanted = declared.is_some_and(|cluster| cluster.metadata.deletion_timestamp.is_none());
            if is_wanted && lab.get::<Guest>(&name(number, slot)).is_none() {
                lab.create(&member(number, slot, HOSTS[host]));
            }
        }
        Step::Delete(number, slot) => lab.delete::<Guest>(&name(number, slot)),
        Step::Retire(number) => retire(lab, CLUSTERS[number]),
        Step::Mtu(number, mtu) => lab.change::<Cluster>(CLUSTERS[number], |cluster| {
            cluster.spec.network.mtu = Some(mtu.try_into().unwrap());
        }),
        Step::Noise(host, lost) => {
            lab.fail(HOSTS[host], Faults { lost_requests: lost, lost_replies: lost, ..Faults::default() });
        }
        Step::Cut(host) => lab.fail(HOSTS[host], Faults { unreachable: true, ..Faults::default() }),
        Step::Heal(host) => lab.fail(HOSTS[host], Faults::default()),
        Step::RestartAgent(host) => lab.world.restart_agent(HOSTS[host]),
        Step::Kill => lab.kill_operator(),
        Step::Start => lab.start_operator(),
        Step::Wait(milliseconds) => std::thread::sleep(std::time::Duration::from_millis(milliseconds)),
    }
}

/// As the cluster controller does: its guests go with it.
fn retire(lab: &Lab, cluster: &str) {
    lab.delete::<Cluster>(cluster);
    for guest in lab.list::<Guest>().iter().filter(|guest| guest.spec.cluster.as_str() == cluster) {
        lab.delete::<Guest>(&guest.name_any());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    /// Whatever fails and whenever, in the end hosts have the networks of their guests, know the right peers, and
    /// nothing is left of clusters that are gone.
    #[test]
    fn networks_are_as_declared_in_the_end(steps in prop::collection::vec(step(), 1..40)) {
        let mut lab = Lab::new(&HOSTS);
        for step in steps {
            take(&mut lab, step);
        }
        for host in HOSTS {
            lab.fail(host, Faults::default());
        }
        lab.start_operator();
        lab.until(unfinished);
        prop_assert_eq!(lab.world.doubled(), []);
        for cluster in CLUSTERS {
            retire(&lab, cluster);
        }
        lab.until(|lab| lab.list::<Cluster>().first().map(|cluster| format!("{:?}", cluster.status)));
        prop_assert!(HOSTS.iter().all(|host| lab.world.networks(host).is_empty()));
    }
}
