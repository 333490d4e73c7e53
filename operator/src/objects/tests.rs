//! What the kinds take and refuse, as manifests.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn smallest_cluster() -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": "acme" },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": {
                "replicas": 1,
                "machine": { "vcpus": 2, "memory": "2GiB" },
                "image": "registry.example/kubernetes:1.35.4"
            }
        }
    })
}

/// The manifest with a value put at a JSON pointer, as a Cluster or the reason why not.
fn cluster_with(pointer: &str, value: Value) -> Result<Cluster, String> {
    let mut manifest = smallest_cluster();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    manifest.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value);
    serde_json::from_value(manifest).map_err(|error| error.to_string())
}

#[test]
fn a_small_manifest_makes_a_cluster_and_defaults_are_told() {
    let cluster: Cluster = serde_json::from_value(smallest_cluster()).unwrap();
    insta::assert_snapshot!(serde_saphyr::to_string(&cluster).unwrap());
}

#[test]
fn what_cannot_be_is_refused() {
    let worker =
        json!({ "name": "default", "replicas": 3, "machine": { "vcpus": 1, "memory": "1GiB" }, "image": "a:b" });
    assert!(cluster_with("/spec/workers", json!([worker])).is_ok());
    for (pointer, value, why) in [
        ("/spec/masters/replicas", json!(2), "a cluster has 1, 3 or 5 masters"),
        ("/spec/masters/size", json!(1), "unknown field `size`"),
        ("/spec/masters/machine/vcpus", json!(0), "a number of vCPUs is 1 to 255"),
        ("/spec/masters/machine/vcpus", json!("two"), "invalid type"),
        ("/spec/masters/machine/memory", json!("2 apples"), "is not a size"),
        ("/spec/masters/machine/accelerator", json!("xen"), "unknown variant `xen`"),
        ("/spec/masters/boot", json!({ "kernel": {}, "firmware": {} }), ""),
        ("/spec/masters/disks", json!([{ "data": { "serial": "a b", "size": "1GiB" } }]), "is not a disk's serial"),
        ("/spec/network/cidr", json!("10.7.0.1/24"), "did you mean 10.7.0.0/24?"),
        ("/spec/network/vni", json!(0), "a VNI is 1 to 16777215"),
        ("/spec/kubernetes/apiPort", json!(70000), "a port is 1 to 65535"),
        ("/spec/kubernetes/version", json!("latest"), "is not a version"),
        ("/spec/pki", json!({ "certificateTtl": "soon" }), "is not a span of time"),
        ("/spec/ingres", json!({}), "unknown field `ingres`"),
    ] {
        let refusal = cluster_with(pointer, value).unwrap_err();
        assert!(refusal.contains(why), "{pointer}: {refusal}");
    }
}

#[test]
fn a_guest_of_the_documentation_is_a_guest() {
    let spec: GuestSpec = serde_json::from_value(json!({
        "cluster": "acme", "role": "worker", "pool": "default", "index": 0, "hostname": "default-0",
        "image": "registry.example/debian:12",
        "machine": { "vcpus": 2, "memory": "2GiB", "accelerator": "auto" },
        "boot": { "kernel": { "commandLine": "console=ttyS0" } },
        "disks": [{ "root": { "size": "8GiB" } }, { "data": { "serial": "etcd", "size": "4GiB" } }],
        "network": { "ipv4Address": "10.7.0.10" },
        "seed": { "cloudInit": { "userData": "#cloud-config\n" }, "ntpServers": ["192.0.2.123"] },
        "certificates": [{
            "name": "kubelet", "issuer": "vault", "commonName": "system:node:default-0", "dnsNames": ["default-0"],
            "ipAddresses": ["10.7.0.10"], "organizations": ["system:nodes"], "ttl": "720h"
        }],
        "lifecycle": { "desiredState": "Running", "restartPolicy": "Always", "shutdownGrace": "60s" }
    }))
    .unwrap();
    assert_eq!(spec.host(), None);
    assert_eq!(spec.machine.memory.bytes(), 2 << 30);
}

#[test]
fn a_seed_has_one_language() {
    for seed in [json!({}), json!({ "ignition": "{}", "cloudInit": {} }), json!({ "ntpServers": [] })] {
        assert!(serde_json::from_value::<Seed>(seed.clone()).is_err(), "{seed}");
    }
}

#[test]
fn what_may_be_secret_is_not_shown() {
    let seed: Seed = serde_json::from_value(json!({ "cloudInit": { "userData": "password: hunter2" } })).unwrap();
    assert!(!format!("{seed:?}").contains("hunter2"));
}

#[test]
fn a_kind_has_many_names() {
    for name in ["Guest", "guests", "gst", "GUEST"] {
        assert_eq!(name.parse::<Kind>().unwrap(), Kind::Guest, "{name}");
    }
    assert_eq!(
        "pod".parse::<Kind>().unwrap_err().to_string(),
        "\"pod\" is not a kind: there are Cluster, CertificateAuthority, Certificate, Host, Guest"
    );
}

#[test]
fn a_cluster_has_a_shorter_name_without_dots() {
    assert!(Kind::Guest.check_name("acme.master-0").is_ok());
    assert!(Kind::Cluster.check_name("acme.prod").is_err());
    assert!(Kind::Cluster.check_name(&"x".repeat(41)).is_err());
}

proptest! {
    #[test]
    fn a_guest_is_the_same_when_written_and_read(guest in arbitrary::guest()) {
        let text = serde_json::to_string(&guest).unwrap();
        prop_assert_eq!(serde_json::from_str::<Guest>(&text).unwrap(), guest.clone());
        let yaml = serde_saphyr::to_string(&guest).unwrap();
        prop_assert_eq!(serde_saphyr::from_str::<Guest>(&yaml).unwrap(), guest);
    }

    #[test]
    fn a_cluster_is_the_same_when_written_and_read(cluster in arbitrary::cluster()) {
        let text = serde_json::to_string(&cluster).unwrap();
        prop_assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), cluster.clone());
        let yaml = serde_saphyr::to_string(&cluster).unwrap();
        prop_assert_eq!(serde_saphyr::from_str::<Cluster>(&yaml).unwrap(), cluster);
    }

    #[test]
    fn a_host_is_the_same_when_written_and_read(host in arbitrary::host()) {
        let text = serde_json::to_string(&host).unwrap();
        prop_assert_eq!(serde_json::from_str::<Host>(&text).unwrap(), host);
    }
}

/// Any object that its types allow.
pub(crate) mod arbitrary {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use jiff::Timestamp;
    use proptest::{collection::vec, option, prelude::*};

    use super::super::*;

    fn label<T: FromStr<Err = InvalidValue> + fmt::Debug>() -> impl Strategy<Value = T> {
        "[a-z]([-a-z0-9]{0,18}[a-z0-9])?".prop_map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")))
    }

    fn time() -> impl Strategy<Value = Time> {
        (0..4_000_000_000_i64).prop_map(|second| Time(Timestamp::from_second(second).unwrap()))
    }

    fn text() -> impl Strategy<Value = String> {
        "\\PC{0,40}|[ a-z:#\n'\"-]{0,40}"
    }

    fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[a-z./]{1,12}", text(), 0..4)
    }

    fn span() -> impl Strategy<Value = TimeSpan> {
        (0..1_000_000_000_u64).prop_map(TimeSpan::seconds)
    }

    fn number<T: TryFrom<u64, Error = InvalidValue> + fmt::Debug>(
        range: std::ops::Range<u64>,
    ) -> impl Strategy<Value = T> {
        range.prop_map(|number| T::try_from(number).unwrap_or_else(|error| panic!("{error}")))
    }

    fn cidr() -> impl Strategy<Value = Ipv4Cidr> {
        (any::<u32>(), 0..=32_u32).prop_map(|(bits, prefix)| {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            format!("{}/{prefix}", Ipv4Addr::from(bits & mask)).parse().unwrap()
        })
    }

    fn machine() -> impl Strategy<Value = Machine> {
        let accelerator = prop_oneof![Just(Accelerator::Auto), Just(Accelerator::Kvm), Just(Accelerator::Tcg)];
        let memory = (1..1_000_000_u64).prop_map(|mib| MemorySize::try_from(mib << 20).unwrap());
        let model = option::of(Just("host,-arch-capabilities".parse().unwrap()));
        (number(1..256), memory, accelerator, model).prop_map(|(vcpus, memory, accelerator, cpu_model)| Machine {
            vcpus,
            memory,
            accelerator,
            cpu_model,
        })
    }

    fn boot() -> impl Strategy<Value = Boot> {
        prop_oneof![
            option::of(Just("console=ttyS0 quiet".parse().unwrap()))
                .prop_map(|command_line| Boot::Kernel(KernelBoot { command_line })),
            option::of(Just("/usr/share/OVMF/OVMF_CODE_4M.fd".parse().unwrap()))
                .prop_map(|path| Boot::Firmware(FirmwareBoot { path })),
        ]
    }

    fn disks() -> impl Strategy<Value = Vec<Disk>> {
        let size = || (1..1_000_000_000_u64).prop_map(|sectors| DiskSize::try_from(sectors * 512).unwrap());
        let disk = prop_oneof![
            option::of(size()).prop_map(|size| Disk::Root(RootDisk { size })),
            (label(), size()).prop_map(|(serial, size)| Disk::Data(DataDisk { serial, size })),
        ];
        vec(disk, 0..4)
    }

    fn seed() -> impl Strategy<Value = Seed> {
        let kind = prop_oneof![
            text().prop_map(|text| SeedKind::Ignition(text.into())),
            (text(), text()).prop_map(|(user, vendor)| SeedKind::CloudInit(CloudInit {
                user_data: user.into(),
                vendor_data: vendor.into(),
            })),
        ];
        (kind, vec(label(), 0..3)).prop_map(|(kind, ntp_servers)| Seed { kind, ntp_servers })
    }

    fn certificate() -> impl Strategy<Value = CertificateRequest> {
        let addresses = vec(any::<std::net::IpAddr>(), 0..3);
        let subject = || "[ -~]{1,64}".prop_map(|text| text.parse().unwrap());
        (label(), label(), option::of(label()), subject(), vec(label(), 0..3), addresses, vec(subject(), 0..2), span())
            .prop_map(|(name, issuer, role, common_name, dns_names, ip_addresses, organizations, ttl)| {
                CertificateRequest { name, issuer, role, common_name, dns_names, ip_addresses, organizations, ttl }
            })
    }

    fn conditions() -> impl Strategy<Value = Conditions> {
        let status =
            prop_oneof![Just(ConditionStatus::True), Just(ConditionStatus::False), Just(ConditionStatus::Unknown)];
        let condition = ("[A-Z][a-z]{1,8}", status, text(), time(), option::of(1..100_i64)).prop_map(
            |(type_, status, message, last_transition_time, observed_generation)| Condition {
                type_,
                status,
                reason: "Because".to_owned(),
                message,
                last_transition_time,
                observed_generation,
            },
        );
        vec(condition, 0..4).prop_map(|conditions| conditions.into_iter().collect())
    }

    fn guest_spec() -> impl Strategy<Value = GuestSpec> {
        let network = option::of(any::<Ipv4Addr>().prop_map(|ipv4_address| NetworkInterface {
            ipv4_address,
            mac_address: Some("06:aa:bb:cc:dd:ee".parse().unwrap()),
        }));
        let binding =
            option::of((label(), text(), time()).prop_map(|(host, reason, time)| Binding { host, reason, time }));
        let lifecycle = (span(), any::<bool>()).prop_map(|(shutdown_grace, restart_on_change)| Lifecycle {
            shutdown_grace,
            restart_on_change,
            ..Lifecycle::default()
        });
        let who = (label(), option::of(label()), number(0..5000), label());
        let what = (machine(), boot(), disks(), network, option::of(seed()), vec(certificate(), 0..3));
        (who, what, lifecycle, binding).prop_map(
            |(
                (cluster, pool, index, hostname),
                (machine, boot, disks, network, seed, certificates),
                lifecycle,
                binding,
            )| {
                GuestSpec {
                    cluster,
                    role: if pool.is_some() { GuestRole::Worker } else { GuestRole::Master },
                    pool,
                    index,
                    hostname,
                    machine,
                    boot,
                    image: "registry.example/debian:12".parse().unwrap(),
                    disks,
                    network,
                    seed,
                    certificates,
                    lifecycle,
                    hosts: HostRequirements::default(),
                    binding,
                }
            },
        )
    }

    fn guest_status() -> impl Strategy<Value = GuestStatus> {
        let exit = (text(), time()).prop_map(|(message, time)| Exit {
            reason: ExitReason::GuestPanic,
            message,
            time,
            shutdown_step: Some(ShutdownStep::PowerButton),
        });
        (conditions(), option::of(exit), any::<u32>(), option::of(time())).prop_map(
            |(conditions, last_exit, restart_count, next_attempt_time)| GuestStatus {
                phase: Some(GuestPhase::Backoff),
                conditions,
                restart_count,
                last_exit,
                next_attempt_time,
                ..GuestStatus::default()
            },
        )
    }

    pub(crate) fn guest() -> impl Strategy<Value = Guest> {
        (guest_spec(), option::of(guest_status()), map(), time()).prop_map(|(spec, status, labels, time)| {
            let mut guest = Guest::new("acme.default-0", spec);
            guest.metadata.labels = Some(labels);
            guest.metadata.creation_timestamp = Some(time);
            guest.status = status;
            guest
        })
    }

    fn seed_template() -> impl Strategy<Value = SeedTemplate> {
        let template =
            prop_oneof![label().prop_map(Template::Name), text().prop_map(|text| Template::Inline(text.into())),];
        let source = (template, map()).prop_map(|(template, values)| TemplateSource { template, values });
        (source, any::<bool>()).prop_map(|(source, ignition)| {
            if ignition { SeedTemplate::Ignition(source) } else { SeedTemplate::CloudInit(source) }
        })
    }

    fn pool() -> impl Strategy<Value = WorkerPool> {
        let template = (machine(), boot(), disks(), map(), seed_template(), span());
        (label(), number(0..5001), vec(label(), 0..3), vec(label(), 0..3), template).prop_map(
            |(name, replicas, zones, host_roles, (machine, boot, disks, labels, seed, shutdown_grace))| WorkerPool {
                name,
                replicas,
                machine,
                image: "oci-layout:/srv/images/debian:12".parse().unwrap(),
                boot,
                disks,
                labels,
                zones,
                host_roles,
                seed,
                shutdown_grace,
            },
        )
    }

    pub(crate) fn cluster() -> impl Strategy<Value = Cluster> {
        let masters = (prop_oneof![Just(MasterCount::One), Just(MasterCount::Three), Just(MasterCount::Five)], pool())
            .prop_map(|(replicas, pool)| Masters {
                replicas,
                machine: pool.machine,
                image: pool.image,
                boot: pool.boot,
                disks: pool.disks,
                labels: pool.labels,
                zones: pool.zones,
                host_roles: pool.host_roles,
                seed: pool.seed,
                shutdown_grace: pool.shutdown_grace,
            });
        let network = (cidr(), option::of(number(1..1 << 24)), option::of(number(576..9217)), any::<bool>()).prop_map(
            |(cidr, vni, mtu, egress)| ClusterNetwork {
                cidr,
                vni,
                mtu,
                egress,
                dns_servers: vec![Ipv4Addr::new(192, 0, 2, 53)],
                ntp_servers: Vec::new(),
            },
        );
        let kubernetes =
            (cidr(), cidr(), number(1..65536), label()).prop_map(|(service_cidr, pod_cidr, api_port, dns_domain)| {
                Kubernetes {
                    version: "v1.35.4".parse().unwrap(),
                    api_port,
                    service_cidr,
                    pod_cidr,
                    dns_domain,
                    oidc: None,
                }
            });
        (any::<bool>(), kubernetes, network, masters, vec(pool(), 0..3), conditions()).prop_map(
            |(paused, kubernetes, network, masters, workers, conditions)| {
                let spec =
                    ClusterSpec { paused, kubernetes, ingress: None, network, masters, workers, pki: Pki::default() };
                let mut cluster = Cluster::new("acme", spec);
                cluster.status = Some(ClusterStatus { conditions, ..ClusterStatus::default() });
                cluster
            },
        )
    }

    pub(crate) fn host() -> impl Strategy<Value = Host> {
        let capacity = || {
            (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(vcpus, memory, disk)| Capacity {
                vcpus,
                memory: memory.try_into().unwrap(),
                disk: disk.try_into().unwrap(),
            })
        };
        (option::of(label()), vec(label(), 0..3), option::of(capacity()), option::of(time()), conditions()).prop_map(
            |(zone, roles, capacity, heartbeat_time, conditions)| {
                let address = "192.0.2.11:7411".parse().unwrap();
                let mut host =
                    Host::new("host-a", HostSpec { address, server_name: None, zone, roles, cordoned: true });
                host.status = Some(HostStatus { conditions, heartbeat_time, capacity, ..HostStatus::default() });
                host
            },
        )
    }
}
