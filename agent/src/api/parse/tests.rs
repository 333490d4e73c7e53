//! Tables of bad input, and properties of all input.

mod arbitrary;

use std::{path::Path, sync::LazyLock};

use goliath_proto::agent::v1 as pb;
use goliath_server::violations::Violation;
use proptest::prelude::*;

use crate::{
    api::{parse, render},
    config::Config,
    spec::test::guest,
};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let text = r#"
        [qemu]
        firmware = ["/usr/share/OVMF/OVMF_CODE.fd"]
        allow_tcg = true
        [network]
        underlay_address = "192.0.2.1"
        [issuers.vault]
        kind = "local"
        certificate = "/etc/goliath/ca.crt"
        key = "/etc/goliath/ca.key"
    "#;
    Config::parse(Path::new("agent.toml"), text).unwrap()
});

fn strict() -> Config {
    let text = "[images]\nrequire_digest = true\n[network]\nunderlay_address = \"192.0.2.1\"\n";
    Config::parse(Path::new("agent.toml"), text).unwrap()
}

/// A spec that is good as it is.
fn good() -> pb::GuestSpec {
    let mut spec = render::guest(&guest("worker-0"));
    spec.disks = vec![root(1 << 30), data("etcd", 1 << 30)];
    spec.network = Some(pb::NetworkInterface {
        ipv4_address: "10.7.0.10".to_owned(),
        mac_address: "06:00:00:00:00:01".to_owned(),
    });
    spec.certificates = vec![certificate("kubelet"), certificate("etcd")];
    spec
}

fn root(size_bytes: u64) -> pb::Disk {
    pb::Disk { kind: Some(pb::disk::Kind::Root(pb::RootDisk { size_bytes })) }
}

fn data(serial: &str, size_bytes: u64) -> pb::Disk {
    pb::Disk { kind: Some(pb::disk::Kind::Data(pb::DataDisk { serial: serial.to_owned(), size_bytes })) }
}

fn certificate(name: &str) -> pb::CertificateRequest {
    pb::CertificateRequest {
        name: name.to_owned(),
        issuer: "vault".to_owned(),
        common_name: "worker-0".to_owned(),
        dns_names: vec!["worker-0.acme.example".to_owned(), "*.acme.example".to_owned()],
        ip_addresses: vec!["10.7.0.10".to_owned()],
        ttl: Some(seconds(3600)),
        ..pb::CertificateRequest::default()
    }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn ignition(document: &str) -> pb::Seed {
    pb::Seed { kind: Some(pb::seed::Kind::Ignition(document.to_owned())), ntp_servers: Vec::new() }
}

fn cloud_init(user_data: String) -> pb::Seed {
    let cloud_init = pb::CloudInit { user_data, vendor_data: String::new() };
    pb::Seed { kind: Some(pb::seed::Kind::CloudInit(cloud_init)), ntp_servers: Vec::new() }
}

fn machine(spec: &mut pb::GuestSpec) -> &mut pb::Machine {
    spec.machine.as_mut().unwrap()
}

fn boot(spec: &mut pb::GuestSpec, method: pb::boot::Method) {
    spec.boot = Some(pb::Boot { method: Some(method) });
}

fn command_line(text: &str) -> pb::boot::Method {
    pb::boot::Method::Kernel(pb::KernelBoot { command_line: text.to_owned() })
}

fn firmware(path: &str) -> pb::boot::Method {
    pb::boot::Method::Firmware(pb::FirmwareBoot { firmware: path.to_owned() })
}

fn fields<T: std::fmt::Debug>(parsed: Result<T, Vec<Violation>>) -> Vec<String> {
    parsed.map_or_else(|violations| violations.into_iter().map(|violation| violation.field).collect(), |_| Vec::new())
}

#[test]
fn a_good_spec_is_taken() {
    assert_eq!(parse::guest(Some(good()), &CONFIG).map(|_| ()), Ok(()));
}

#[test]
fn every_bad_field_of_a_guest_is_told_by_its_path() {
    type Change = fn(&mut pb::GuestSpec);
    let table: &[(Change, &[&str])] = &[
        (|spec| spec.uid = "worker-0".to_owned(), &["spec.uid"]),
        (|spec| spec.generation = 0, &["spec.generation"]),
        (|spec| spec.name = "n".repeat(200), &["spec.name"]),
        (|spec| spec.cluster = "../acme".to_owned(), &["spec.cluster"]),
        (|spec| spec.machine = None, &["spec.machine"]),
        (|spec| machine(spec).vcpus = 0, &["spec.machine.vcpus"]),
        (|spec| machine(spec).vcpus = 256, &["spec.machine.vcpus"]),
        (|spec| machine(spec).memory_bytes = 0, &["spec.machine.memory_bytes"]),
        (|spec| machine(spec).memory_bytes = (1 << 28) + 1, &["spec.machine.memory_bytes"]),
        (|spec| machine(spec).accelerator = 17, &["spec.machine.accelerator"]),
        (|spec| machine(spec).cpu_model = "host -m 1".to_owned(), &["spec.machine.cpu_model"]),
        (|spec| spec.boot = None, &["spec.boot"]),
        (|spec| spec.boot = Some(pb::Boot::default()), &["spec.boot"]),
        (|spec| boot(spec, command_line("quiet\0")), &["spec.boot.kernel.command_line"]),
        (|spec| boot(spec, command_line("quiet\ninit=/bin/sh")), &["spec.boot.kernel.command_line"]),
        (|spec| boot(spec, command_line(&"x".repeat(5000))), &["spec.boot.kernel.command_line"]),
        (|spec| boot(spec, firmware("/etc/shadow")), &["spec.boot.firmware.firmware"]),
        (
            |spec| {
                boot(spec, firmware(""));
                spec.disks.remove(0);
            },
            &["spec.disks"],
        ),
        (|spec| spec.image.clear(), &["spec.image"]),
        (|spec| spec.image = "tiny".to_owned(), &["spec.image"]),
        (|spec| spec.disks.push(pb::Disk::default()), &["spec.disks[2]"]),
        (|spec| spec.disks.push(root(0)), &["spec.disks[2].root"]),
        (|spec| spec.disks.push(data("etcd", 1 << 30)), &["spec.disks[2].data.serial"]),
        (|spec| spec.disks.push(data("goliath-certs", 1 << 30)), &["spec.disks[2].data.serial"]),
        (|spec| spec.disks.push(data("a/b", 1 << 30)), &["spec.disks[2].data.serial"]),
        (|spec| spec.disks.push(data("logs", 0)), &["spec.disks[2].data.size_bytes"]),
        (|spec| spec.disks.push(data("logs", 513)), &["spec.disks[2].data.size_bytes"]),
        (|spec| spec.disks.push(data("logs", u64::MAX - 511)), &["spec.disks[2].data.size_bytes"]),
        (|spec| spec.network.as_mut().unwrap().ipv4_address.clear(), &["spec.network.ipv4_address"]),
        (|spec| spec.network.as_mut().unwrap().ipv4_address = "10.7.0.256".to_owned(), &["spec.network.ipv4_address"]),
        (|spec| spec.network.as_mut().unwrap().ipv4_address = "224.0.0.1".to_owned(), &["spec.network.ipv4_address"]),
        (
            |spec| spec.network.as_mut().unwrap().mac_address = "01:00:5e:00:00:01".to_owned(),
            &["spec.network.mac_address"],
        ),
        (
            |spec| spec.network.as_mut().unwrap().mac_address = "02:00:00:00:00:01".to_owned(),
            &["spec.network.mac_address"],
        ),
        (|spec| spec.seed = Some(pb::Seed::default()), &["spec.seed"]),
        (|spec| spec.seed = Some(ignition("no JSON")), &["spec.seed.ignition"]),
        (|spec| spec.seed = Some(ignition("{}")), &["spec.seed.ignition"]),
        (|spec| spec.seed = Some(ignition(r#"[{"version": "3.4.0"}]"#)), &["spec.seed.ignition"]),
        (|spec| spec.seed = Some(ignition(&"[".repeat(100_000))), &["spec.seed.ignition"]),
        (|spec| spec.seed = Some(cloud_init("x".repeat((512 << 10) + 1))), &["spec.seed.cloud_init"]),
        (
            |spec| {
                spec.seed = Some(pb::Seed { ntp_servers: vec!["a b".to_owned()], ..cloud_init(String::new()) });
            },
            &["spec.seed.ntp_servers[0]"],
        ),
        (|spec| spec.certificates[1].name = "../etc".to_owned(), &["spec.certificates[1].name"]),
        (|spec| spec.certificates[1].name = "kubelet".to_owned(), &["spec.certificates[1].name"]),
        (|spec| spec.certificates[0].issuer = "nobody".to_owned(), &["spec.certificates[0].issuer"]),
        (|spec| spec.certificates[0].role = "../sign".to_owned(), &["spec.certificates[0].role"]),
        (|spec| spec.certificates[0].role = "..".to_owned(), &["spec.certificates[0].role"]),
        (|spec| spec.certificates[0].common_name.clear(), &["spec.certificates[0].common_name"]),
        (|spec| spec.certificates[1].dns_names[0] = "a..b".to_owned(), &["spec.certificates[1].dns_names[0]"]),
        (|spec| spec.certificates[1].ip_addresses[0] = "10.7".to_owned(), &["spec.certificates[1].ip_addresses[0]"]),
        (
            |spec| spec.certificates[0].organizations = vec!["a\nb".to_owned()],
            &["spec.certificates[0].organizations[0]"],
        ),
        (|spec| spec.certificates[0].ttl = None, &["spec.certificates[0].ttl"]),
        (|spec| spec.certificates[0].ttl = Some(seconds(0)), &["spec.certificates[0].ttl"]),
        (|spec| spec.certificates[0].ttl = Some(seconds(-5)), &["spec.certificates[0].ttl"]),
        (|spec| spec.certificates[0].ttl = Some(seconds(i64::MAX)), &["spec.certificates[0].ttl"]),
        (|spec| spec.lifecycle.as_mut().unwrap().desired_state = 9, &["spec.lifecycle.desired_state"]),
        (|spec| spec.lifecycle.as_mut().unwrap().restart_policy = -1, &["spec.lifecycle.restart_policy"]),
        (
            |spec| spec.lifecycle.as_mut().unwrap().shutdown_grace = Some(seconds(90_000)),
            &["spec.lifecycle.shutdown_grace"],
        ),
        (|spec| spec.labels.extend([("a\n".to_owned(), String::new())]), &[r#"spec.labels["a\n"]"#]),
        (
            |spec| {
                spec.name.clear();
                machine(spec).vcpus = 0;
                spec.image.clear();
                spec.certificates[1].ttl = None;
            },
            &["spec.name", "spec.machine.vcpus", "spec.image", "spec.certificates[1].ttl"],
        ),
    ];
    for (number, (change, expected)) in table.iter().enumerate() {
        let mut spec = good();
        change(&mut spec);
        assert_eq!(fields(parse::guest(Some(spec), &CONFIG)), *expected, "row {number}");
    }
}

#[test]
fn an_empty_request_is_told_what_it_lacks() {
    assert_eq!(fields(parse::guest(None, &CONFIG)), ["spec"]);
    let lacks = fields(parse::guest(Some(pb::GuestSpec::default()), &CONFIG));
    assert_eq!(
        lacks,
        ["spec.uid", "spec.generation", "spec.name", "spec.cluster", "spec.machine", "spec.boot", "spec.image"]
    );
}

#[test]
fn a_stricter_host_refuses_more() {
    let mut spec = good();
    machine(&mut spec).accelerator = pb::Accelerator::Tcg.into();
    let refused = fields(parse::guest(Some(spec), &strict()));
    assert_eq!(
        refused,
        ["spec.machine.accelerator", "spec.image", "spec.certificates[0].issuer", "spec.certificates[1].issuer"]
    );
}

#[test]
fn a_refused_seed_is_not_quoted() {
    let mut spec = good();
    spec.seed = Some(ignition(r#"{"ignition": {"version": "hunter2""#));
    let told = parse::guest(Some(spec), &CONFIG).unwrap_err();
    assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
    let mut spec = good();
    spec.seed = Some(ignition(r#"{"ignition": "hunter2"}"#));
    let told = parse::guest(Some(spec), &CONFIG).unwrap_err();
    assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
}

fn network() -> pb::NetworkSpec {
    pb::NetworkSpec {
        cluster: "acme".to_owned(),
        generation: 1,
        vni: 7,
        cidr: "10.7.0.0/24".to_owned(),
        gateway_address: "10.7.0.1".to_owned(),
        host_address: "10.7.0.2".to_owned(),
        mtu: 0,
        egress: true,
        dns_servers: vec!["192.0.2.53".to_owned()],
    }
}

#[test]
fn every_bad_field_of_a_network_is_told_by_its_path() {
    type Change = fn(&mut pb::NetworkSpec);
    let table: &[(Change, &[&str])] = &[
        (|_| {}, &[]),
        (|spec| spec.vni = 0, &["spec.vni"]),
        (|spec| spec.vni = 1 << 24, &["spec.vni"]),
        (|spec| spec.cidr = "10.7.0.0".to_owned(), &["spec.cidr"]),
        (|spec| spec.cidr = "10.7.0.1/24".to_owned(), &["spec.cidr"]),
        (|spec| spec.cidr = "10.7.0.0/30".to_owned(), &["spec.cidr"]),
        (|spec| spec.cidr = "10.7.0.0/33".to_owned(), &["spec.cidr"]),
        (|spec| spec.cidr = "0.0.0.0/8".to_owned(), &["spec.cidr"]),
        (|spec| spec.cidr = "127.0.0.0/24".to_owned(), &["spec.cidr"]),
        (|spec| spec.cidr = "169.254.0.0/24".to_owned(), &["spec.cidr"]),
        (|spec| spec.gateway_address = "10.8.0.1".to_owned(), &["spec.gateway_address"]),
        (|spec| spec.gateway_address = "10.7.0.0".to_owned(), &["spec.gateway_address"]),
        (|spec| spec.host_address = "10.7.0.255".to_owned(), &["spec.host_address"]),
        (|spec| spec.host_address = "10.7.0.1".to_owned(), &["spec.host_address"]),
        (|spec| spec.mtu = 100, &["spec.mtu"]),
        (|spec| spec.dns_servers.push("dns".to_owned()), &["spec.dns_servers[1]"]),
        (
            |spec| *spec = pb::NetworkSpec::default(),
            &["spec.cluster", "spec.generation", "spec.vni", "spec.cidr", "spec.gateway_address", "spec.host_address"],
        ),
    ];
    for (number, (change, expected)) in table.iter().enumerate() {
        let mut spec = network();
        change(&mut spec);
        assert_eq!(fields(parse::network(&spec)), *expected, "row {number}");
    }
}

fn peer(host: &str, number: u8) -> pb::Peer {
    let endpoint = |address: String, mac: &str| pb::PeerEndpoint { ipv4_address: address, mac_address: mac.to_owned() };
    pb::Peer {
        host: host.to_owned(),
        underlay_address: format!("192.0.2.{number}"),
        host_endpoint: Some(endpoint(format!("10.7.0.{number}"), "")),
        guests: vec![endpoint(format!("10.7.1.{number}"), &format!("06:00:00:00:00:{number:02x}"))],
    }
}

#[test]
fn every_bad_field_of_a_peer_list_is_told_by_its_path() {
    type Change = fn(&mut pb::PeerList);
    let table: &[(Change, &[&str])] = &[
        (|_| {}, &[]),
        (|list| list.generation = 0, &["peers.generation"]),
        (|list| list.peers[1].host = "b".to_owned(), &["peers.peers[1].host"]),
        (|list| list.peers[1].underlay_address = "192.0.2.1".to_owned(), &["peers.peers[1].underlay_address"]),
        (|list| list.peers[1].underlay_address = "192.0.2.5".to_owned(), &["peers.peers[1].underlay_address"]),
        (|list| list.peers[0].host_endpoint = None, &["peers.peers[0].host_endpoint"]),
        (|list| list.peers[0].guests[0].mac_address.clear(), &["peers.peers[0].guests[0].mac_address"]),
        (
            |list| list.peers[1].guests[0] = list.peers[0].guests[0].clone(),
            &["peers.peers[1].guests[0].ipv4_address", "peers.peers[1].guests[0].mac_address"],
        ),
    ];
    for (number, (change, expected)) in table.iter().enumerate() {
        let mut list = pb::PeerList { generation: 1, peers: vec![peer("b", 5), peer("c", 6)] };
        change(&mut list);
        assert_eq!(fields(parse::peers(&list, &CONFIG)), *expected, "row {number}");
    }
}

proptest! {
    #[test]
    fn a_guest_reads_back_as_it_was_rendered(spec in arbitrary::guest()) {
        prop_assert_eq!(parse::guest(Some(render::guest(&spec)), &CONFIG), Ok(spec));
    }

    #[test]
    fn a_network_reads_back_as_it_was_rendered(record in arbitrary::network()) {
        let rendered = render::network(&record, None);
        prop_assert_eq!(parse::network(&rendered.spec.unwrap()), Ok(record.spec));
        prop_assert_eq!(parse::peers(&rendered.peers.unwrap(), &CONFIG).ok(), record.peers);
    }

    #[test]
    fn no_input_makes_it_panic_and_what_it_takes_reads_back(spec in arbitrary::any_guest()) {
        if let Ok(parsed) = parse::guest(Some(spec), &CONFIG) {
            prop_assert_eq!(parse::guest(Some(render::guest(&parsed)), &CONFIG), Ok(parsed));
        }
    }

    #[test]
    fn no_network_makes_it_panic(spec in arbitrary::any_network(), peers in arbitrary::any_peers()) {
        let _ = parse::network(&spec);
        let _ = parse::peers(&peers, &CONFIG);
    }
}
