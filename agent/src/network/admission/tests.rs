use super::*;
use crate::network::{HostDevice, desired::tests::spec};

const UNDERLAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn facts(mtu: u32) -> HostFacts {
    let device = |name: &str, loopback, networks: &[&str]| HostDevice {
        name: name.to_owned(),
        mtu,
        loopback,
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
    };
    HostFacts {
        devices: vec![device("lo", true, &["127.0.0.1/8"]), device("eth0", false, &["192.0.2.1/24", "10.99.0.1/16"])],
        default_devices: ["eth0".to_owned()].into(),
        vnis: [].into(),
    }
}

/// The fields that are refused.
fn refused(spec: &NetworkSpec) -> Vec<&'static str> {
    refusals(spec, [].iter(), &facts(1500), UNDERLAY).into_iter().map(|refusal| refusal.field).collect()
}

fn with_cidr(cidr: &str) -> NetworkSpec {
    let cidr: Ipv4Network = cidr.parse().unwrap();
    let nth = |number| Ipv4Addr::from(u32::from(cidr.network()) + number);
    NetworkSpec { cidr, gateway: nth(1), host_address: nth(2), ..spec() }
}

#[test]
fn a_network_with_all_it_needs_is_admitted() {
    assert_eq!(refused(&spec()), Vec::<&str>::new());
    assert_eq!(refused(&with_cidr("10.7.0.0/29")), Vec::<&str>::new());
}

#[test]
fn a_cidr_without_room_or_on_the_hosts_or_reserved_ground_is_refused() {
    for cidr in [
        "10.7.0.0/30",
        "10.7.0.0/31",
        "10.7.0.0/32",
        "0.0.0.0/0",
        "192.0.2.0/25",
        "192.0.0.0/16",
        "10.99.7.0/24",
        "127.1.0.0/16",
        "169.254.0.0/16",
        "169.254.64.0/24",
        "224.1.0.0/16",
        "240.0.0.0/8",
        "0.1.0.0/16",
    ] {
        assert!(refused(&with_cidr(cidr)).contains(&"cidr"), "{cidr}");
    }
}

#[test]
fn a_refusal_says_with_what_the_cidr_collides() {
    let told = refusals(&with_cidr("10.99.7.0/24"), [].iter(), &facts(1500), UNDERLAY);
    assert_eq!(told[0].reason, "10.99.7.0/24 overlaps 10.99.0.1/16, the host's own network on eth0");
}

#[test]
fn the_gateway_and_the_host_need_addresses_of_their_own_in_the_network() {
    let gateway = |address: [u8; 4]| refused(&NetworkSpec { gateway: address.into(), ..spec() });
    assert_eq!(gateway([10, 8, 0, 1]), ["gateway_address"]);
    assert_eq!(gateway([10, 7, 0, 0]), ["gateway_address"]);
    assert_eq!(gateway([10, 7, 0, 255]), ["gateway_address"]);
    assert_eq!(gateway([10, 7, 0, 250]), ["host_address"]);
    assert_eq!(refused(&NetworkSpec { host_address: [10, 8, 0, 9].into(), ..spec() }), ["host_address"]);
}

#[test]
fn two_clusters_may_have_one_cidr_but_not_one_vni() {
    let other = |vni: u32| NetworkSpec { cluster: "other".parse().unwrap(), vni: vni.try_into().unwrap(), ..spec() };
    let told = |other: &NetworkSpec| refusals(&spec(), [other].into_iter(), &facts(1500), UNDERLAY);
    assert_eq!(told(&other(8)), Vec::new());
    assert_eq!(told(&other(7))[0].reason, "7 is the VNI of cluster other on this host: clusters need different ones");
    // Its own earlier generation is no other.
    assert_eq!(told(&spec()), Vec::new());
}

#[test]
fn an_mtu_must_fit_the_underlays() {
    let asked = |mtu: u32| NetworkSpec { mtu: Some(mtu.try_into().unwrap()), ..spec() };
    assert_eq!(refused(&asked(1450)), Vec::<&str>::new());
    assert_eq!(refused(&asked(1451)), ["mtu"]);
    let small = refusals(&spec(), [].iter(), &facts(600), UNDERLAY);
    assert_eq!(small[0].reason, "the underlay eth0 has an MTU of 600: with 50 bytes for VXLAN too little is left");
}

#[test]
fn without_an_underlay_there_are_no_networks() {
    let told = |address: [u8; 4]| refusals(&spec(), [].iter(), &facts(1500), address.into());
    assert!(told([192, 0, 2, 77])[0].reason.starts_with("no device of this host has the underlay address 192.0.2.77"));
    assert!(told([0, 0, 0, 0])[0].reason.starts_with("this host has no networks"));
}

#[test]
fn an_underlay_address_on_a_loopback_counts_the_uplinks_mtu() {
    let mut routed = facts(9000);
    routed.devices[0].mtu = 65_536;
    let underlay = routed.underlay(Ipv4Addr::LOCALHOST).unwrap();
    assert_eq!((underlay.device.as_str(), underlay.mtu), ("eth0", 9000));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let spec = NetworkSpec {
        cidr: "10.99.0.0/30".parse().unwrap(),
        gateway: [10, 1, 0, 1].into(),
        host_address: [10, 1, 0, 1].into(),
        mtu: Some(9000.try_into().unwrap()),
        ..spec()
    };
    let fields = refused(&spec);
    for field in ["cidr", "gateway_address", "host_address", "mtu"] {
        assert!(fields.contains(&field), "{field} in {fields:?}");
    }
}
