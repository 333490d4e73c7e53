use proptest::prelude::*;

use super::*;
use crate::spec::{GuestEndpoint, HostEndpoint, Peer};

const UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub(in crate::network) fn spec() -> NetworkSpec {
    NetworkSpec {
        cluster: "acme".parse().unwrap(),
        generation: 1.try_into().unwrap(),
        vni: 7.try_into().unwrap(),
        cidr: "10.7.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 7, 0, 1),
        host_address: Ipv4Addr::new(10, 7, 0, 250),
        mtu: None,
        egress: false,
        dns_servers: Vec::new(),
    }
}

fn uid(number: u8) -> GuestUid {
    format!("00000000-0000-4000-8000-0000000000{number:02x}").parse().unwrap()
}

fn port(number: u8) -> Port {
    Port { uid: uid(number), address: Ipv4Addr::new(10, 7, 0, number), mac: MacAddress::of_guest(uid(number)) }
}

fn endpoint(number: u8) -> GuestEndpoint {
    GuestEndpoint { address: port(number).address, mac_address: port(number).mac }
}

fn peer(host: u8, guests: &[u8]) -> Peer {
    let address = Ipv4Addr::new(10, 7, 0, 250 + host);
    Peer {
        host: format!("host{host}"),
        underlay_address: Ipv4Addr::new(192, 0, 2, host + 1),
        host_endpoint: HostEndpoint { address, mac_address: MacAddress::of_host(address) },
        guests: guests.iter().copied().map(endpoint).collect(),
    }
}

fn with(peers: &[Peer], ports: &[u8]) -> State {
    let spec = spec();
    let list = PeerList { generation: 1.try_into().unwrap(), peers: peers.to_vec() };
    let ports = ports.iter().map(|number| (uid(*number), port(*number))).collect();
    desired(&Wanted {
        spec: &spec,
        peers: Some(&list),
        ports: &ports,
        underlay_address: UNDERLAY,
        vxlan_port: 4789,
        mtu: 1450.try_into().unwrap(),
        egress: None,
    })
}

/// States as they come about: some guests here, some on other hosts, with or without a way out.
pub(in crate::network) fn states() -> impl Strategy<Value = State> {
    let hosts = prop::collection::vec(prop::collection::vec(2_u8..40, 0..6), 0..4);
    let ports = prop::collection::vec(2_u8..40, 0..6);
    (hosts, ports, any::<bool>(), 1_u32..4, prop::sample::select(vec![1450_u32, 1400, 8950])).prop_map(
        |(hosts, ports, egress, vni, mtu)| {
            let spec = NetworkSpec { vni: vni.try_into().unwrap(), ..spec() };
            let peers = (1..).zip(&hosts).map(|(host, guests)| peer(host, guests)).collect();
            let list = PeerList { generation: 1.try_into().unwrap(), peers };
            let ports = ports.iter().map(|number| (uid(*number), port(*number))).collect();
            desired(&Wanted {
                spec: &spec,
                peers: Some(&list),
                ports: &ports,
                underlay_address: UNDERLAY,
                vxlan_port: 4789,
                mtu: mtu.try_into().unwrap(),
                egress: egress.then(|| EgressSlot::choose(&spec.cluster, |_| false).unwrap()),
            })
        },
    )
}

#[test]
fn a_guest_of_a_peer_is_known_by_address_port_and_vtep() {
    let state = with(&[peer(1, &[12])], &[]);
    let Port { address, mac, .. } = port(12);
    let vtep = Ipv4Addr::new(192, 0, 2, 2);
    assert_eq!(state.neighbours.get(&address), Some(&mac));
    assert_eq!(state.bridge_entries.get(&mac), Some(&Role::Vxlan));
    assert_eq!(state.tunnel_entries.get(&mac), Some(&vtep));
    assert!(state.flood.contains(&vtep));
    assert!(state.senders.is_empty());
}

#[test]
fn the_host_of_a_peer_is_known_like_a_guest() {
    let state = with(&[peer(1, &[])], &[]);
    let address = Ipv4Addr::new(10, 7, 0, 251);
    assert_eq!(state.neighbours.get(&address), Some(&MacAddress::of_host(address)));
}

#[test]
fn a_guest_that_is_here_is_not_elsewhere_whatever_the_peers_say() {
    let state = with(&[peer(1, &[11, 12])], &[11]);
    let here = port(11);
    assert_eq!(state.bridge_entries.get(&here.mac), Some(&Role::Tap(here.uid)));
    assert!(!state.tunnel_entries.contains_key(&here.mac));
    assert_eq!(state.neighbours.get(&here.address), Some(&here.mac));
    assert!(state.tunnel_entries.contains_key(&port(12).mac));
}

#[test]
fn a_peer_can_take_neither_the_gateways_nor_this_hosts_place() {
    let mut stranger = peer(1, &[]);
    for address in [spec().gateway, spec().host_address] {
        stranger.guests.push(GuestEndpoint { address, mac_address: port(13).mac });
    }
    stranger.guests.push(GuestEndpoint { address: port(14).address, mac_address: MacAddress::GATEWAY });
    let state = with(&[stranger], &[]);
    assert!(!state.neighbours.contains_key(&spec().gateway));
    assert!(!state.neighbours.contains_key(&spec().host_address));
    assert_eq!(state.bridge_entries.get(&MacAddress::GATEWAY), Some(&Role::Bridge));
    assert!(!state.tunnel_entries.contains_key(&MacAddress::GATEWAY));
}

#[test]
fn this_host_in_its_own_peer_list_is_no_peer() {
    let state = with(&[Peer { underlay_address: UNDERLAY, ..peer(1, &[12]) }], &[]);
    assert!(state.flood.is_empty() && state.tunnel_entries.is_empty() && state.neighbours.is_empty());
}

#[test]
fn the_gateway_has_the_shared_mac_and_the_bridge_one_of_its_own() {
    let state = with(&[], &[]);
    assert_eq!(state.devices[&Role::Gateway].mac_address, Some(MacAddress::GATEWAY));
    assert_eq!(state.devices[&Role::Bridge].mac_address, Some(MacAddress::of_host(spec().host_address)));
    assert!(state.addresses.contains(&(Role::Gateway, "10.7.0.1/32".parse().unwrap())));
    assert!(state.addresses.contains(&(Role::Bridge, "10.7.0.250/24".parse().unwrap())));
}

#[test]
fn nothing_learns_and_only_the_tunnel_answers_for_others() {
    let state = with(&[], &[11]);
    let ports: Vec<(Role, PortFlags)> =
        state.devices.iter().filter_map(|(role, device)| device.port.map(|port| (*role, port))).collect();
    assert_eq!(ports.len(), 2);
    for (role, flags) in ports {
        assert!(!flags.learning && !flags.unicast_flood, "{role}");
        assert_eq!(flags.neigh_suppress, role == Role::Vxlan, "{role}");
    }
}

#[test]
fn every_device_says_whose_it_is() {
    for (role, device) in with(&[], &[11]).devices {
        assert!(device.alias.starts_with("goliath:acme:"), "{role}: {}", device.alias);
    }
}

#[test]
fn a_port_is_found_again_by_its_taps_alias() {
    let cluster = spec().cluster;
    let alias = port(11).alias(&cluster);
    assert_eq!(Port::from_alias(&cluster, &alias), Some(port(11)));
    assert_eq!(Port::from_alias(&"other".parse().unwrap(), &alias), None);
    for stranger in ["", "goliath:acme:bridge", "goliath:acme:", "somebody's"] {
        assert_eq!(Port::from_alias(&cluster, stranger), None, "{stranger}");
    }
}

#[test]
fn the_overlays_mtu_leaves_room_for_vxlan() {
    for (underlay, overlay) in [(1500, Some(1450)), (9000, Some(8950)), (65_536, Some(9216)), (600, None), (40, None)] {
        assert_eq!(overlay_mtu(underlay).map(|mtu| u32::from(mtu.get())), overlay, "{underlay}");
    }
}

#[test]
fn a_way_out_is_routed_and_none_is_not() {
    let spec = NetworkSpec { egress: true, ..spec() };
    let slot = EgressSlot::choose(&spec.cluster, |_| false).unwrap();
    let state = desired(&Wanted {
        spec: &spec,
        peers: None,
        ports: &BTreeMap::new(),
        underlay_address: UNDERLAY,
        vxlan_port: 4789,
        mtu: 1450.try_into().unwrap(),
        egress: Some(slot),
    });
    assert!(state.routes.iter().any(|route| route.destination.prefix() == 0 && route.via == Some(slot.host_end())));
    assert!(with(&[], &[]).routes.iter().all(|route| route.destination.prefix() != 0));
}
