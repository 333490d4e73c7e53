use std::collections::BTreeSet;

use goliath_proto::agent::v1 as pb;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn cluster() -> ClusterName {
    "acme".parse().unwrap()
}

fn host(number: u8) -> HostName {
    format!("host-{number}").parse().unwrap()
}

fn host_place(number: u8) -> HostPlace {
    HostPlace { vtep: Ipv4Addr::new(192, 0, 2, number), address: Ipv4Addr::new(10, 7, 0, 250 - number) }
}

fn uid(number: u8) -> GuestUid {
    Uuid::from_u128(u128::from(number) + 1).to_string().parse().unwrap()
}

fn guest_place(guest: u8, on: u8) -> GuestPlace {
    let endpoint = PeerEndpoint::of_guest(uid(guest), Ipv4Addr::new(10, 7, 0, 2 + guest));
    GuestPlace { host: host(on), endpoint }
}

/// Three hosts with a guest each.
fn three() -> Peers {
    let mut peers = Peers::new();
    for number in 1..=3 {
        peers.set_host(&cluster(), &host(number), Some(host_place(number)));
        peers.set_guest(&cluster(), uid(number), Some(guest_place(number, number)));
        peers.agent_has(&cluster(), &host(number), AgentHas::Nothing);
    }
    peers
}

/// Sends what there is to send; the generations that hosts got.
fn send(peers: &mut Peers) -> Vec<(HostName, u64)> {
    let outdated: Vec<_> = peers.outdated(&cluster()).cloned().collect();
    let mut sent = Vec::new();
    for host in outdated {
        match peers.next(&cluster(), &host) {
            Next::Send(list) => {
                // As the agent keeps it and tells it.
                let message = pb::PeerList::from(&list);
                let list = PeerList::try_from(&message).unwrap();
                sent.push((host.clone(), list.generation.get()));
                peers.agent_has(&cluster(), &host, AgentHas::of(Some(&list)));
            }
            next => panic!("{host}: {next:?}"),
        }
    }
    sent
}

#[test]
fn each_host_is_told_of_the_others() {
    let peers = three();
    let Next::Send(list) = peers.next(&cluster(), &host(2)) else { panic!("nothing to send") };
    let names: Vec<_> = list.peers.iter().map(|peer| peer.host.as_str()).collect();
    assert_eq!(names, ["host-1", "host-3"]);
    assert_eq!(list.peers[0].vtep, Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(list.peers[0].endpoint, PeerEndpoint::of_host(Ipv4Addr::new(10, 7, 0, 249)));
    assert_eq!(list.peers[0].guests, [guest_place(1, 1).endpoint]);
}

#[test]
fn what_did_not_change_is_not_sent() {
    let mut peers = three();
    assert_eq!(send(&mut peers).len(), 3);
    assert_eq!(send(&mut peers), []);
    assert!(!peers.set_guest(&cluster(), uid(1), Some(guest_place(1, 1))));
    assert!(!peers.set_host(&cluster(), &host(1), Some(host_place(1))));
    assert_eq!(send(&mut peers), []);
}

#[test]
fn a_change_goes_to_the_others_alone_and_a_change_back_in_time_to_nobody() {
    let mut peers = three();
    send(&mut peers);
    assert!(peers.set_guest(&cluster(), uid(9), Some(guest_place(9, 1))));
    assert_eq!(peers.outdated(&cluster()).collect::<Vec<_>>(), [&host(2), &host(3)]);
    assert!(peers.set_guest(&cluster(), uid(9), None));
    assert_eq!(peers.outdated(&cluster()).count(), 0);
    peers.set_guest(&cluster(), uid(9), Some(guest_place(9, 1)));
    assert_eq!(send(&mut peers), [(host(2), 2), (host(3), 2)]);
}

#[test]
fn a_host_without_guests_or_without_a_place_is_no_peer() {
    let mut peers = three();
    send(&mut peers);
    assert!(!peers.set_host(&cluster(), &host(4), Some(host_place(4))), "no guests");
    assert!(!peers.set_guest(&cluster(), uid(5), Some(guest_place(5, 5))), "no place");
    assert!(peers.set_host(&cluster(), &host(5), Some(host_place(5))));
    assert!(peers.set_guest(&cluster(), uid(3), None));
    peers.agent_has(&cluster(), &host(5), AgentHas::Nothing);
    assert_eq!(send(&mut peers), [(host(1), 2), (host(2), 2), (host(5), 1)]);
    assert_eq!(peers.hosts(&cluster()).collect::<Vec<_>>(), [&host(1), &host(2), &host(5)]);
}

#[test]
fn a_new_life_goes_on_from_what_agents_have() {
    let mut first = three();
    send(&mut first);
    first.set_guest(&cluster(), uid(9), Some(guest_place(9, 1)));
    let Next::Send(newest) = first.next(&cluster(), &host(2)) else { panic!("nothing to send") };

    let mut second = three();
    second.agent_has(&cluster(), &host(2), AgentHas::Unknown);
    assert_eq!(second.next(&cluster(), &host(2)), Next::Ask);
    second.agent_has(&cluster(), &host(2), AgentHas::of(Some(&newest)));
    let Next::Send(list) = second.next(&cluster(), &host(2)) else { panic!("nothing to send") };
    assert_eq!(list.generation.get(), 3, "it has one guest less than was known before");

    second.set_guest(&cluster(), uid(9), Some(guest_place(9, 1)));
    assert_eq!(second.next(&cluster(), &host(2)), Next::Nothing);
}

#[derive(Debug, Clone)]
enum Step {
    Host(u8, bool),
    Guest(u8, Option<u8>),
    Send,
    Lost(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0_u8..5, any::<bool>()).prop_map(|(host, there)| Step::Host(host, there)),
        4 => (0_u8..10, prop::option::of(0_u8..5)).prop_map(|(guest, host)| Step::Guest(guest, host)),
        1 => Just(Step::Send),
        1 => (0_u8..5).prop_map(Step::Lost),
    ]
}

proptest! {
    /// Agents that refuse what the real one refuses, and a model that puts every list together anew.
    #[test]
    fn agents_end_with_the_right_lists_and_generations_grow_only_with_a_change(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut peers = Peers::new();
        let mut places: BTreeMap<u8, HostPlace> = BTreeMap::new();
        let mut guests: BTreeMap<u8, GuestPlace> = BTreeMap::new();
        let mut agents: BTreeMap<HostName, PeerList> = BTreeMap::new();
        for step in steps.into_iter().chain([Step::Send]) {
            match step {
                Step::Host(number, there) => {
                    let place = there.then(|| host_place(number));
                    peers.set_host(&cluster(), &host(number), place);
                    match place {
                        Some(place) => places.insert(number, place),
                        None => places.remove(&number),
                    };
                }
                Step::Guest(number, on) => {
                    let place = on.map(|on| guest_place(number, on));
                    peers.set_guest(&cluster(), uid(number), place.clone());
                    match place {
                        Some(place) => guests.insert(number, place),
                        None => guests.remove(&number),
                    };
                }
                Step::Lost(number) => peers.agent_has(&cluster(), &host(number), AgentHas::Unknown),
                Step::Send => {
                    let hosts: Vec<_> = peers.outdated(&cluster()).cloned().collect();
                    for host in hosts {
                        if peers.next(&cluster(), &host) == Next::Ask {
                            peers.agent_has(&cluster(), &host, AgentHas::of(agents.get(&host)));
                        }
                        if let Next::Send(list) = peers.next(&cluster(), &host) {
                            let before = agents.insert(host.clone(), list.clone());
                            prop_assert!(before.as_ref().is_none_or(|before| before.generation < list.generation));
                            prop_assert!(before.is_none_or(|before| before.peers != list.peers));
                            peers.agent_has(&cluster(), &host, AgentHas::of(Some(&list)));
                        }
                    }
                    prop_assert_eq!(peers.outdated(&cluster()).count(), 0);
                }
            }
        }
        let with_guests: BTreeSet<HostName> = guests.values().map(|place| place.host.clone()).collect();
        prop_assert_eq!(&peers.hosts(&cluster()).cloned().collect::<BTreeSet<_>>(), &with_guests);
        for on in &with_guests {
            let others = places.iter().filter(|(number, _)| host(**number) != *on && with_guests.contains(&host(**number)));
            let expected: Vec<Peer> = others
                .map(|(number, place)| {
                    let on_it = guests.values().filter(|guest| guest.host == host(*number));
                    let mut guests: Vec<_> = on_it.map(|guest| guest.endpoint).collect();
                    guests.sort_unstable();
                    Peer { host: host(*number), vtep: place.vtep, endpoint: PeerEndpoint::of_host(place.address), guests }
                })
                .collect();
            prop_assert_eq!(&agents[on].peers, &expected);
        }
    }

    #[test]
    fn a_list_says_the_same_whatever_its_order(mut numbers in prop::collection::btree_set(0_u8..20, 0..8)
        .prop_map(|set| set.into_iter().collect::<Vec<_>>())) {
        let peer = |number: &u8| Peer {
            host: host(*number),
            vtep: host_place(*number).vtep,
            endpoint: PeerEndpoint::of_host(host_place(*number).address),
            guests: Vec::new(),
        };
        let one = ContentHash::of(&numbers.iter().map(peer).collect::<Vec<_>>());
        numbers.reverse();
        prop_assert_eq!(one, ContentHash::of(&numbers.iter().map(peer).collect::<Vec<_>>()));
        if numbers.pop().is_some() {
            prop_assert_ne!(one, ContentHash::of(&numbers.iter().map(peer).collect::<Vec<_>>()));
        }
    }
}
