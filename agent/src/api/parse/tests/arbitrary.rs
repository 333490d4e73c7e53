//! Specs as good as can be, and messages as bad as can be.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use goliath_proto::agent::v1 as pb;
use ipnetwork::Ipv4Network;
use proptest::{collection, option, prelude::*, sample::select};
use uuid::Uuid;

use crate::{
    ledger::NetworkRecord,
    spec::{
        Accelerator, Boot, ByteSize, CertificateRequest, CertificateVolume, DataDisk, DesiredState, GuestEndpoint,
        GuestSpec, HostEndpoint, Lifecycle, MacAddress, Machine, NetworkInterface, NetworkSpec, Peer, PeerList,
        RestartPolicy, RootDisk, Seed, SeedKind,
    },
};

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn mac() -> impl Strategy<Value = MacAddress> {
    any::<[u8; 5]>().prop_map(|[a, b, c, d, e]| MacAddress::try_from([0x06, a, b, c, d, e]).unwrap())
}

fn machine() -> impl Strategy<Value = Machine> {
    (
        1..=255_u8,
        1..=1_u64 << 20,
        select(vec![Accelerator::Auto, Accelerator::Kvm, Accelerator::Tcg]),
        option::of("[A-Za-z0-9_.,+=-]{1,40}"),
    )
        .prop_map(|(vcpus, mib, accelerator, cpu_model)| Machine {
            vcpus,
            memory: ByteSize::mib(mib),
            accelerator,
            cpu_model,
        })
}

fn boot() -> impl Strategy<Value = Boot> {
    prop_oneof![
        "[ -~]{0,100}".prop_map(|command_line| Boot::Kernel { command_line }),
        Just(Boot::Firmware { path: None }),
        Just(Boot::Firmware { path: Some("/usr/share/OVMF/OVMF_CODE.fd".into()) }),
    ]
}

fn seed() -> impl Strategy<Value = Seed> {
    let kind = prop_oneof![
        "[a-z0-9.]{1,9}".prop_map(|version| {
            SeedKind::Ignition(format!(r#"{{"ignition": {{"version": "{version}"}}, "storage": {{}}}}"#))
        }),
        ("(?s).{0,200}", "(?s).{0,200}")
            .prop_map(|(user_data, vendor_data)| SeedKind::CloudInit { user_data, vendor_data }),
    ];
    (kind, collection::vec(label(), 0..4)).prop_map(|(kind, ntp_servers)| Seed { kind, ntp_servers })
}

fn certificate() -> impl Strategy<Value = CertificateRequest> {
    (
        label(),
        "[A-Za-z0-9_-]{1,20}",
        "[ -~]{1,64}",
        collection::btree_set("(\\*\\.)?[a-z]{1,9}(\\.[a-z]{1,9}){0,2}", 0..4),
        collection::btree_set(any::<std::net::IpAddr>(), 0..4),
        collection::btree_set("[ -~]{1,64}", 0..4),
        10..=86_400_u64,
    )
        .prop_map(|(name, role, common_name, dns_names, ip_addresses, organizations, ttl)| CertificateRequest {
            name: name.parse().unwrap(),
            issuer: "vault".parse().unwrap(),
            role,
            common_name,
            dns_names,
            ip_addresses,
            organizations,
            ttl: Duration::from_secs(ttl),
        })
}

fn lifecycle() -> impl Strategy<Value = Lifecycle> {
    (
        select(vec![DesiredState::Running, DesiredState::Paused, DesiredState::Stopped]),
        select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]),
        0..=3600_u64,
        any::<bool>(),
    )
        .prop_map(|(desired_state, restart_policy, grace, restart_on_change)| Lifecycle {
            desired_state,
            restart_policy,
            shutdown_grace: Duration::from_secs(grace),
            restart_on_change,
        })
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (1..=126_u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d))
}

fn image() -> impl Strategy<Value = String> {
    prop_oneof![
        "registry\\.example(:[1-9][0-9]{3})?/[a-z]{1,9}:[a-z0-9]{1,9}",
        "registry\\.example/[a-z]{1,9}@sha256:[0-9a-f]{64}",
        "oci-layout:/[a-z]{1,9}:[a-z]{1,9}",
    ]
}

/// Any spec that the API takes.
pub(super) fn guest() -> impl Strategy<Value = GuestSpec> {
    let identity = (any::<u128>().prop_filter("nil", |uuid| *uuid != 0), 1..=u64::MAX, label(), label(), image());
    let disks =
        (option::of(option::of(1..=1_u64 << 30)), collection::btree_map("[A-Za-z0-9_]{1,20}", 1..=1_u64 << 30, 0..5));
    let network = option::of((address(), option::of(mac())));
    let volume = select(vec![CertificateVolume::Virtiofs, CertificateVolume::Disk]);
    let certificates = (collection::vec(certificate(), 0..4), volume);
    let labels = collection::btree_map("[ -~]{1,40}", "[ -~]{0,40}", 0..5);
    (identity, machine(), boot(), disks, network, option::of(seed()), certificates, lifecycle(), labels).prop_map(
        |(identity, machine, boot, (root, data), network, seed, certificates, lifecycle, labels)| {
            let (certificates, certificate_volume) = certificates;
            let (uid, generation, name, cluster, image) = identity;
            let unique: BTreeMap<_, _> =
                certificates.into_iter().map(|certificate| (certificate.name.clone(), certificate)).collect();
            // Firmware starts from a root disk.
            let root = root.or(matches!(boot, Boot::Firmware { .. }).then_some(None));
            let sectors = |count: u64| ByteSize::bytes(count * 512);
            GuestSpec {
                uid: Uuid::from_u128(uid).to_string().parse().unwrap(),
                generation: generation.try_into().unwrap(),
                name: name.parse().unwrap(),
                cluster: cluster.parse().unwrap(),
                machine,
                boot,
                image: image.parse().unwrap(),
                root_disk: root.map(|size| RootDisk { size: size.map(sectors) }),
                data_disks: data
                    .into_iter()
                    .map(|(serial, size)| DataDisk { serial: serial.parse().unwrap(), size: sectors(size) })
                    .collect(),
                network: network.map(|(address, mac_address)| NetworkInterface { address, mac_address }),
                seed,
                certificates: unique.into_values().collect(),
                certificate_volume,
                lifecycle,
                labels,
            }
        },
    )
}

/// Any network with any peer list that the API takes.
pub(super) fn network() -> impl Strategy<Value = NetworkRecord> {
    let numbers = (label(), 1..=u64::MAX, 1..1_u32 << 24, option::of(576..=9216_u32), any::<bool>());
    (numbers, any::<u16>(), collection::vec(address(), 0..4), 1..=u64::MAX, 0..20_u8).prop_map(
        |((cluster, generation, vni, mtu, egress), net, dns_servers, peers_generation, peers)| {
            let [high, low] = net.to_be_bytes();
            let at = |last: u8| Ipv4Addr::new(10, high, low, last);
            let peer = |number: u8| Peer {
                host: format!("host-{number}"),
                underlay_address: Ipv4Addr::new(198, 51, 100, number),
                host_endpoint: HostEndpoint {
                    address: at(100 + number),
                    mac_address: MacAddress::of_host(at(100 + number)),
                },
                guests: vec![GuestEndpoint {
                    address: at(200 + number),
                    mac_address: MacAddress::try_from([0x0a, 0, 0, 0, 0, number]).unwrap(),
                }],
            };
            NetworkRecord {
                spec: NetworkSpec {
                    cluster: cluster.parse().unwrap(),
                    generation: generation.try_into().unwrap(),
                    vni: vni.try_into().unwrap(),
                    cidr: Ipv4Network::new(at(0), 24).unwrap(),
                    gateway: at(1),
                    host_address: at(2),
                    mtu: mtu.map(|mtu| mtu.try_into().unwrap()),
                    egress,
                    dns_servers,
                },
                peers: Some(PeerList {
                    generation: peers_generation.try_into().unwrap(),
                    peers: (1..=peers).map(peer).collect(),
                }),
                deleting: false,
            }
        },
    )
}

/// Now and then something that is near to good, else anything.
fn text(good: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![Just(good.to_owned()), "(?s).{0,80}", "[a-z0-9./:@-]{0,300}"]
}

fn any_duration() -> impl Strategy<Value = Option<prost_types::Duration>> {
    option::of((any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }))
}

fn any_disk() -> impl Strategy<Value = pb::Disk> {
    let kind = prop_oneof![
        any::<u64>().prop_map(|size_bytes| pb::disk::Kind::Root(pb::RootDisk { size_bytes })),
        (text("etcd"), any::<u64>())
            .prop_map(|(serial, size_bytes)| pb::disk::Kind::Data(pb::DataDisk { serial, size_bytes })),
    ];
    option::of(kind).prop_map(|kind| pb::Disk { kind })
}

fn any_certificate() -> impl Strategy<Value = pb::CertificateRequest> {
    let names = || collection::vec(text("a.example"), 0..4);
    (text("kubelet"), text("vault"), text(""), text("worker"), names(), names(), names(), any_duration()).prop_map(
        |(name, issuer, role, common_name, dns_names, ip_addresses, organizations, ttl)| pb::CertificateRequest {
            name,
            issuer,
            role,
            common_name,
            dns_names,
            ip_addresses,
            organizations,
            ttl,
        },
    )
}

/// Any message at all.
pub(super) fn any_guest() -> impl Strategy<Value = pb::GuestSpec> {
    let identity = (
        text("11111111-2222-3333-4444-555555555555"),
        any::<u64>(),
        text("worker-0"),
        text("acme"),
        text("registry.example/tiny:v1"),
    );
    let machine = option::of((any::<u32>(), any::<u64>(), any::<i32>(), text("")).prop_map(
        |(vcpus, memory_bytes, accelerator, cpu_model)| pb::Machine { vcpus, memory_bytes, accelerator, cpu_model },
    ));
    let method = prop_oneof![
        text("").prop_map(|command_line| pb::boot::Method::Kernel(pb::KernelBoot { command_line })),
        text("").prop_map(|firmware| pb::boot::Method::Firmware(pb::FirmwareBoot { firmware })),
    ];
    let boot = option::of(option::of(method).prop_map(|method| pb::Boot { method }));
    let network = option::of(
        (text("10.7.0.10"), text(""))
            .prop_map(|(ipv4_address, mac_address)| pb::NetworkInterface { ipv4_address, mac_address }),
    );
    let kind = prop_oneof![
        text(r#"{"ignition": {"version": "3.4.0"}}"#).prop_map(pb::seed::Kind::Ignition),
        (text(""), text("")).prop_map(|(user_data, vendor_data)| {
            pb::seed::Kind::CloudInit(pb::CloudInit { user_data, vendor_data })
        }),
    ];
    let seed = option::of(
        (option::of(kind), collection::vec(text("ntp.example"), 0..4))
            .prop_map(|(kind, ntp_servers)| pb::Seed { kind, ntp_servers }),
    );
    let lifecycle = option::of((any::<i32>(), any::<i32>(), any_duration(), any::<bool>()).prop_map(
        |(desired_state, restart_policy, shutdown_grace, restart_on_change)| pb::Lifecycle {
            desired_state,
            restart_policy,
            shutdown_grace,
            restart_on_change,
        },
    ));
    let lists = (
        collection::vec(any_disk(), 0..4),
        collection::vec(any_certificate(), 0..4),
        any::<i32>(),
        collection::hash_map(text("key"), text("value"), 0..4),
    );
    (identity, machine, boot, network, seed, lifecycle, lists).prop_map(
        |(identity, machine, boot, network, seed, lifecycle, (disks, certificates, certificate_volume, labels))| {
            let (uid, generation, name, cluster, image) = identity;
            pb::GuestSpec {
                uid,
                generation,
                name,
                cluster,
                machine,
                boot,
                image,
                disks,
                network,
                seed,
                certificates,
                certificate_volume,
                lifecycle,
                labels,
            }
        },
    )
}

/// Any message at all.
pub(super) fn any_network() -> impl Strategy<Value = pb::NetworkSpec> {
    let numbers = (any::<u64>(), any::<u32>(), any::<u32>(), any::<bool>());
    let servers = collection::vec(text("192.0.2.53"), 0..4);
    (text("acme"), numbers, text("10.7.0.0/24"), text("10.7.0.1"), text("10.7.0.2"), servers).prop_map(
        |(cluster, (generation, vni, mtu, egress), cidr, gateway_address, host_address, dns_servers)| pb::NetworkSpec {
            cluster,
            generation,
            vni,
            cidr,
            gateway_address,
            host_address,
            mtu,
            egress,
            dns_servers,
        },
    )
}

/// Any message at all.
pub(super) fn any_peers() -> impl Strategy<Value = pb::PeerList> {
    let endpoint = || {
        (text("10.7.0.5"), text("06:00:00:00:00:01"))
            .prop_map(|(ipv4_address, mac_address)| pb::PeerEndpoint { ipv4_address, mac_address })
    };
    let peer = (text("b"), text("192.0.2.5"), option::of(endpoint()), collection::vec(endpoint(), 0..4)).prop_map(
        |(host, underlay_address, host_endpoint, guests)| pb::Peer { host, underlay_address, host_endpoint, guests },
    );
    (any::<u64>(), collection::vec(peer, 0..4)).prop_map(|(generation, peers)| pb::PeerList { generation, peers })
}
