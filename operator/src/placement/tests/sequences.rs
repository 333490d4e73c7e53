//! What holds whatever happened before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use goliath_proto::values::{ByteSize, ClusterName, HostName};
use proptest::prelude::*;

use super::{super::*, world::*};

const HOSTS: u8 = 8;

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    let images = prop::collection::btree_set((0_u8..3).prop_map(image), 0..3);
    (1_u64..12, 256_u64..4096, 0_u64..128, any::<bool>(), images, (rarely(), rarely(), rarely())).prop_map(
        |(vcpus, memory, overhead, kvm, images, (overlaps, taken, fails))| Inventory {
            overhead: ByteSize::mib(overhead),
            accelerators: Accelerators { kvm, tcg: true },
            networks: if overlaps { vec!["10.1.2.0/24".parse().unwrap()] } else { Vec::new() },
            vnis: if taken { [(1.try_into().unwrap(), Held::ByStranger)].into() } else { BTreeMap::new() },
            unobtainable: if fails { [image(0)].into() } else { BTreeSet::new() },
            images,
            ..inventory(vcpus, memory)
        },
    )
}

fn any_host() -> impl Strategy<Value = Host> {
    let zone = prop::sample::select(vec!["", "a", "b"]);
    let inventory = prop::option::weighted(0.9, any_inventory());
    (0..HOSTS, zone, rarely(), rarely(), rarely(), any::<bool>(), inventory).prop_map(
        |(number, zone, cordoned, silent, storage, nvme, inventory)| Host {
            cordoned,
            not_ready: silent.then(|| Condition { reason: "Silent".to_owned(), message: String::new() }),
            roles: if storage { ["storage".parse().unwrap()].into() } else { BTreeSet::new() },
            labels: if nvme { [("disk".to_owned(), "nvme".to_owned())].into() } else { BTreeMap::new() },
            inventory,
            ..host(number, zone)
        },
    )
}

fn any_needs() -> impl Strategy<Value = Needs> {
    let accelerator = prop::sample::select(vec![Accelerator::Auto, Accelerator::Auto, Accelerator::Kvm]);
    let zones = prop::sample::select(vec![vec![], vec![], vec!["a"], vec!["a", "b"]]);
    let image = prop::option::of((0_u8..3).prop_map(image));
    (1_u64..4, 1_u64..5, accelerator, zones, (rarely(), rarely()), image).prop_map(
        |(vcpus, memory, accelerator, zones, (nvme, storage), image)| Needs {
            demand: Resources { vcpus, memory: ByteSize::mib(256 * memory), disk: ByteSize::mib(1024 * memory) },
            accelerator,
            zones: zones.into_iter().map(|zone| zone.parse().unwrap()).collect(),
            roles: if storage { ["storage".parse().unwrap()].into() } else { BTreeSet::new() },
            labels: if nvme { [("disk".to_owned(), "nvme".to_owned())].into() } else { BTreeMap::new() },
            image,
        },
    )
}

fn any_guest() -> impl Strategy<Value = Guest> {
    let group = prop::sample::select(vec!["", "one", "two"]);
    (0_u32..40, 0_u32..3, group, any_needs()).prop_map(|(number, cluster, pool, needs)| Guest {
        // A uid is of one cluster and group for life.
        uid: uid(number * 100 + cluster * 10 + u32::try_from(pool.len()).unwrap()),
        cluster: format!("cluster-{cluster}").parse().unwrap(),
        group: if pool.is_empty() { Group::Masters } else { Group::Pool(pool.parse().unwrap()) },
        needs: Arc::new(needs),
        overlay: Some(OverlayNeed {
            vni: (cluster + 1).try_into().unwrap(),
            cidr: format!("10.{cluster}.0.0/16").parse().unwrap(),
        }),
    })
}

#[derive(Debug, Clone)]
enum Step {
    Host(Box<Host>),
    HostGone(u8),
    Place(Guest),
    Bind(Guest, u8),
    Gone(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_host().prop_map(|host| Step::Host(Box::new(host))),
        1 => (0..HOSTS).prop_map(Step::HostGone),
        8 => any_guest().prop_map(Step::Place),
        1 => (any_guest(), 0..HOSTS).prop_map(|(guest, host)| Step::Bind(guest, host)),
        2 => any::<usize>().prop_map(Step::Gone),
    ]
}

fn hosts() -> impl Strategy<Value = Vec<Host>> {
    prop::collection::vec(any_host(), 1..12).prop_map(|hosts| {
        // A name once.
        let named: BTreeMap<_, _> = hosts.into_iter().map(|host| (host.name.clone(), host)).collect();
        named.into_values().collect()
    })
}

fn guests() -> impl Strategy<Value = Vec<Guest>> {
    prop::collection::vec(any_guest(), 1..40).prop_map(|guests| {
        let known: HashMap<_, _> = guests.into_iter().map(|guest| (guest.uid, guest)).collect();
        known.into_values().collect()
    })
}

fn where_they_are(outcomes: &[Outcome]) -> BTreeMap<goliath_proto::values::GuestUid, Option<HostName>> {
    outcomes.iter().map(|outcome| (outcome.uid, outcome.decision.host().cloned())).collect()
}

proptest! {
    /// And so does a fleet that was put together anew from what there is.
    #[test]
    fn the_index_chooses_as_the_scan_does(steps in prop::collection::vec(step(), 1..120)) {
        let mut fleet = Fleet::new();
        let mut known: BTreeMap<HostName, Host> = BTreeMap::new();
        let mut bound: Vec<(Guest, HostName)> = Vec::new();
        for step in steps {
            match step {
                Step::Host(host) => {
                    known.insert(host.name.clone(), (*host).clone());
                    fleet.upsert_host(*host);
                }
                Step::HostGone(number) => {
                    known.remove(&host_name(number));
                    fleet.remove_host(&host_name(number));
                }
                Step::Place(guest) => {
                    let decision = fleet.choose(&guest);
                    prop_assert_eq!(&decision, &fleet.choose_by_scan(&guest));
                    if let Decision::Chosen(choice) = decision {
                        let mut anew = Fleet::new();
                        bound.iter().rev().for_each(|(guest, host)| anew.bind(guest, host));
                        known.values().rev().for_each(|host| anew.upsert_host(host.clone()));
                        prop_assert_eq!(anew.choose(&guest), Decision::Chosen(choice.clone()));
                        fleet.bind(&guest, &choice.host);
                        bound.push((guest, choice.host));
                    }
                }
                Step::Bind(guest, number) => {
                    bound.retain(|(other, _)| other.uid != guest.uid);
                    fleet.bind(&guest, &host_name(number));
                    bound.push((guest, host_name(number)));
                }
                Step::Gone(which) if !bound.is_empty() => {
                    let (guest, _) = bound.swap_remove(which % bound.len());
                    fleet.unbind(guest.uid);
                }
                Step::Gone(_) => {}
            }
            for (guest, host) in &bound {
                prop_assert_eq!(fleet.host_of(guest.uid), Some(host));
            }
        }
    }

    #[test]
    fn no_host_gets_more_than_it_has(hosts in hosts(), guests in guests()) {
        let mut fleet = fleet(hosts.clone());
        let placed = where_they_are(&fleet.place_all(&guests));
        for host in &hosts {
            let Some(inventory) = &host.inventory else { continue };
            let there = guests.iter().filter(|guest| placed[&guest.uid].as_ref() == Some(&host.name));
            let (mut vcpus, mut memory, mut disk) = (0, 0, 0);
            for guest in there {
                vcpus += guest.needs.demand.vcpus;
                memory += guest.needs.demand.memory.get() + inventory.overhead.get();
                disk += guest.needs.demand.disk.get();
            }
            prop_assert!(vcpus <= inventory.capacity.vcpus);
            prop_assert!(memory <= inventory.capacity.memory.get());
            prop_assert!(disk <= inventory.capacity.disk.get());
        }
    }

    #[test]
    fn no_two_masters_of_a_cluster_get_one_host(hosts in hosts(), guests in guests()) {
        let placed = where_they_are(&fleet(hosts).place_all(&guests));
        let mut taken: BTreeSet<(ClusterName, HostName)> = BTreeSet::new();
        for guest in guests.iter().filter(|guest| guest.group == Group::Masters) {
            if let Some(host) = &placed[&guest.uid] {
                prop_assert!(taken.insert((guest.cluster.clone(), host.clone())), "{} twice on {host}", guest.cluster);
            }
        }
    }

    #[test]
    fn the_order_of_hosts_and_guests_does_not_matter(
        (hosts, shuffled_hosts) in hosts().prop_flat_map(|hosts| (Just(hosts.clone()), Just(hosts).prop_shuffle())),
        (guests, shuffled_guests) in guests().prop_flat_map(|guests| (Just(guests.clone()), Just(guests).prop_shuffle())),
    ) {
        prop_assert_eq!(fleet(hosts).place_all(&guests), fleet(shuffled_hosts).place_all(&shuffled_guests));
    }

    #[test]
    fn placing_again_changes_nothing(hosts in hosts(), guests in guests()) {
        let mut fleet = fleet(hosts.clone());
        let first = where_they_are(&fleet.place_all(&guests));
        for host in hosts {
            fleet.upsert_host(host);
        }
        let second = fleet.place_all(&guests);
        prop_assert!(!second.iter().any(|outcome| matches!(outcome.decision, Decision::Chosen(_))));
        prop_assert_eq!(where_they_are(&second), first);
    }

    #[test]
    fn an_explanation_agrees_with_the_choice(hosts in hosts(), guests in guests(), next in any_guest()) {
        let mut fleet = fleet(hosts);
        fleet.place_all(&guests);
        fleet.unbind(next.uid);
        let decision = fleet.choose(&next);
        let explanation = fleet.explain(&next);
        match decision {
            Decision::Chosen(choice) => {
                prop_assert_eq!(explanation.hosts[0].host, &choice.host);
                prop_assert_eq!(&explanation.hosts[0].verdict, &Verdict::Fits(choice.score));
                prop_assert_eq!(explanation.no_room(), None);
            }
            _ => {
                let no_room = explanation.no_room();
                let counted = no_room.map(|no_room| no_room.reasons.iter().map(|reason| reason.hosts).sum::<usize>());
                prop_assert_eq!(counted, Some(explanation.hosts.len()));
            }
        }
    }
}
