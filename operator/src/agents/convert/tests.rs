//! Messages are read back by hand, field by field, so that none can be forgotten on the way.

use std::collections::BTreeSet;

use goliath_proto::values::Generation;
use proptest::{option, prelude::*, sample::select, strategy::ValueTree as _};

use super::*;
use crate::objects::{tests::arbitrary, *};

/// The object's spec that a message was made of; what stays with the operator is empty.
fn spec_of(told: &pb::GuestSpec) -> GuestSpec {
    let machine = told.machine.as_ref().unwrap();
    let lifecycle = told.lifecycle.as_ref().unwrap();
    GuestSpec {
        cluster: told.cluster.parse().unwrap(),
        role: match told.labels["goliath.dev/role"].as_str() {
            "master" => GuestRole::Master,
            "worker" => GuestRole::Worker,
            other => panic!("{other}"),
        },
        pool: told.labels.get("goliath.dev/pool").map(|pool| pool.parse().unwrap()),
        index: told.labels["goliath.dev/index"].parse::<u64>().unwrap().try_into().unwrap(),
        hostname: told.name.parse().unwrap(),
        machine: Machine {
            vcpus: u64::from(machine.vcpus).try_into().unwrap(),
            memory: machine.memory_bytes.try_into().unwrap(),
            accelerator: accelerator(machine.accelerator()).unwrap(),
            cpu_model: filled(&machine.cpu_model).map(|model| model.parse().unwrap()),
        },
        boot: match told.boot.as_ref().unwrap().method.as_ref().unwrap() {
            pb::boot::Method::Kernel(kernel) => Boot::Kernel(KernelBoot {
                command_line: filled(&kernel.command_line).map(|line| line.parse().unwrap()),
            }),
            pb::boot::Method::Firmware(firmware) => {
                Boot::Firmware(FirmwareBoot { path: filled(&firmware.firmware).map(|path| path.parse().unwrap()) })
            }
        },
        image: told.image.parse().unwrap(),
        disks: told.disks.iter().map(disk_of).collect(),
        network: told.network.as_ref().map(|network| NetworkInterface {
            ipv4_address: network.ipv4_address.parse().unwrap(),
            mac_address: filled(&network.mac_address).map(|mac| mac.parse().unwrap()),
        }),
        seed: told.seed.as_ref().map(seed_of),
        certificates: told.certificates.iter().map(certificate_of).collect(),
        lifecycle: Lifecycle {
            desired_state: match lifecycle.desired_state() {
                pb::DesiredState::Running => DesiredState::Running,
                pb::DesiredState::Paused => DesiredState::Paused,
                pb::DesiredState::Stopped => DesiredState::Stopped,
                pb::DesiredState::Unspecified => panic!("it says what it wants"),
            },
            restart_policy: match lifecycle.restart_policy() {
                pb::RestartPolicy::Always => RestartPolicy::Always,
                pb::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
                pb::RestartPolicy::Never => RestartPolicy::Never,
                pb::RestartPolicy::Unspecified => panic!("it says what it wants"),
            },
            shutdown_grace: span_of(lifecycle.shutdown_grace.as_ref()),
            restart_on_change: lifecycle.restart_on_change,
        },
        hosts: HostRequirements::default(),
        binding: None,
    }
}

fn disk_of(told: &pb::Disk) -> Disk {
    match told.kind.as_ref().unwrap() {
        pb::disk::Kind::Root(root) => {
            Disk::Root(RootDisk { size: (root.size_bytes > 0).then(|| root.size_bytes.try_into().unwrap()) })
        }
        pb::disk::Kind::Data(data) => {
            Disk::Data(DataDisk { serial: data.serial.parse().unwrap(), size: data.size_bytes.try_into().unwrap() })
        }
    }
}

fn seed_of(told: &pb::Seed) -> Seed {
    let kind = match told.kind.clone().unwrap() {
        pb::seed::Kind::Ignition(document) => SeedKind::Ignition(document.into()),
        pb::seed::Kind::CloudInit(cloud_init) => SeedKind::CloudInit(CloudInit {
            user_data: cloud_init.user_data.into(),
            vendor_data: cloud_init.vendor_data.into(),
        }),
    };
    Seed { kind, ntp_servers: parsed(&told.ntp_servers) }
}

fn certificate_of(told: &pb::CertificateRequest) -> CertificateRequest {
    CertificateRequest {
        name: told.name.parse().unwrap(),
        issuer: told.issuer.parse().unwrap(),
        role: filled(&told.role).map(|role| role.parse().unwrap()),
        common_name: told.common_name.parse().unwrap(),
        dns_names: parsed(&told.dns_names),
        ip_addresses: parsed(&told.ip_addresses),
        organizations: parsed(&told.organizations),
        ttl: span_of(told.ttl.as_ref()),
    }
}

fn span_of(told: Option<&prost_types::Duration>) -> TimeSpan {
    TimeSpan::seconds(told.unwrap().seconds.try_into().unwrap())
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[String]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn guest() -> impl Strategy<Value = Guest> {
    let states = select(vec![DesiredState::Running, DesiredState::Paused, DesiredState::Stopped]);
    let policies = select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    let macs = option::of(select(vec!["06:aa:bb:cc:dd:ee".parse().unwrap(), "52:54:00:00:00:01".parse().unwrap()]));
    (arbitrary::guest(), states, policies, macs, any::<u128>(), 1..i64::MAX).prop_map(
        |(mut guest, desired_state, restart_policy, mac, uid, generation)| {
            guest.spec.lifecycle.desired_state = desired_state;
            guest.spec.lifecycle.restart_policy = restart_policy;
            if let Some(network) = &mut guest.spec.network {
                network.mac_address = mac;
            }
            guest.metadata.uid = Some(uuid::Uuid::from_u128(uid | 1).to_string());
            guest.metadata.generation = Some(generation);
            guest
        },
    )
}

proptest! {
    #[test]
    fn a_guest_is_told_whole(guest in guest()) {
        let told = guest_spec(&guest).unwrap();
        prop_assert_eq!(Some(&told.uid), guest.metadata.uid.as_ref());
        prop_assert_eq!(i64::try_from(told.generation).ok(), guest.metadata.generation);
        prop_assert_eq!(Some(&told.labels["goliath.dev/guest"]), guest.metadata.name.as_ref());
        let mut expected = guest.spec.clone();
        expected.binding = None;
        expected.hosts = HostRequirements::default();
        prop_assert_eq!(spec_of(&told), expected);
    }

    #[test]
    fn what_changes_without_the_generation_is_not_told(guest in guest(), label in "[a-z]{1,8}") {
        let mut other = guest.clone();
        other.metadata.labels.get_or_insert_default().insert("tier".to_owned(), label);
        other.metadata.resource_version = Some("7".to_owned());
        other.status = None;
        prop_assert_eq!(guest_spec(&guest).unwrap(), guest_spec(&other).unwrap());
    }
}

#[test]
fn an_object_that_was_never_written_is_not_told() {
    let mut guest = written_guest();
    guest.metadata.generation = None;
    assert_eq!(guest_spec(&guest).unwrap_err().field, "metadata.generation");
    guest.metadata.uid = None;
    assert_eq!(guest_spec(&guest).unwrap_err().field, "metadata.uid");
}

fn written_guest() -> Guest {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    guest().new_tree(&mut runner).unwrap().current()
}

fn at(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 999 }
}

fn told_condition(type_: &str, status: pb::ConditionStatus) -> pb::Condition {
    pb::Condition {
        r#type: type_.to_owned(),
        status: status.into(),
        reason: "Seen".to_owned(),
        message: "it was seen".to_owned(),
        last_transition_time: Some(at(7)),
    }
}

#[test]
fn what_was_seen_of_a_guest_is_copied_whole() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let told = pb::GuestStatus {
        phase: pb::GuestPhase::Backoff.into(),
        conditions: vec![told_condition("Running", pb::ConditionStatus::False)],
        running_generation: 3,
        observed_generation: 4,
        process: Some(pb::Process {
            pid: 4711,
            started_at: Some(at(10)),
            accelerator: pb::Accelerator::Tcg.into(),
            qemu_version: "10.0.2".to_owned(),
        }),
        image_digest: digest.clone(),
        mac_address: "06:01:02:03:04:05".to_owned(),
        restart_count: 5,
        last_exit: Some(pb::Exit {
            reason: pb::ExitReason::Stopped.into(),
            message: "stopped".to_owned(),
            time: Some(at(11)),
            shutdown_step: pb::ShutdownStep::GuestAgent.into(),
        }),
        next_attempt_time: Some(at(12)),
    };
    let second = |seconds| Time(Timestamp::from_second(seconds).unwrap());
    let condition = Condition {
        type_: "Running".to_owned(),
        status: ConditionStatus::False,
        reason: "Seen".to_owned(),
        message: "it was seen".to_owned(),
        last_transition_time: second(7),
        observed_generation: None,
    };
    let host: HostName = "host-a".parse().unwrap();
    assert_eq!(
        guest_status(&host, &told),
        GuestStatus {
            phase: Some(GuestPhase::Backoff),
            conditions: [condition].into_iter().collect(),
            host: Some(host.clone()),
            observed_generation: Some(4),
            running_generation: Some(3),
            process: Some(Process {
                pid: 4711,
                started_at: second(10),
                accelerator: Accelerator::Tcg,
                qemu_version: "10.0.2".to_owned(),
            }),
            image_digest: Some(digest.parse().unwrap()),
            mac_address: Some("06:01:02:03:04:05".parse().unwrap()),
            restart_count: 5,
            last_exit: Some(Exit {
                reason: ExitReason::Stopped,
                message: "stopped".to_owned(),
                time: second(11),
                shutdown_step: Some(ShutdownStep::GuestAgent),
            }),
            next_attempt_time: Some(second(12)),
        }
    );
    let nothing = GuestStatus { host: Some(host.clone()), ..GuestStatus::default() };
    assert_eq!(guest_status(&host, &pb::GuestStatus::default()), nothing);
}

/// Every value of an enum of the API has one of the object's, and no two the same.
#[test]
fn every_phase_reason_and_step_is_known() {
    let host: HostName = "host-a".parse().unwrap();
    let phases: BTreeSet<String> = (1..=10)
        .map(|phase| guest_status(&host, &pb::GuestStatus { phase, ..pb::GuestStatus::default() }).phase)
        .map(|phase| format!("{:?}", phase.unwrap()))
        .collect();
    assert_eq!(phases.len(), 10);
    assert!(pb::GuestPhase::try_from(11).is_err(), "the API has a new phase: teach the objects");

    let exit = |reason, shutdown_step| {
        let last_exit = pb::Exit { reason, shutdown_step, time: Some(at(1)), message: String::new() };
        let told = pb::GuestStatus { last_exit: Some(last_exit), ..pb::GuestStatus::default() };
        guest_status(&host, &told).last_exit
    };
    let reasons: BTreeSet<_> = (1..=7).map(|reason| format!("{:?}", exit(reason, 0).unwrap().reason)).collect();
    assert_eq!(reasons.len(), 7);
    assert!(exit(0, 0).is_none());
    assert!(pb::ExitReason::try_from(8).is_err(), "the API has a new reason: teach the objects");
    let steps: BTreeSet<_> = (0..=4).map(|step| format!("{:?}", exit(1, step).unwrap().shutdown_step)).collect();
    assert_eq!(steps.len(), 5);
    assert!(pb::ShutdownStep::try_from(5).is_err(), "the API has a new step: teach the objects");
}

#[test]
fn a_condition_that_is_not_known_is_unknown() {
    let statuses = [
        (pb::ConditionStatus::True, ConditionStatus::True),
        (pb::ConditionStatus::False, ConditionStatus::False),
        (pb::ConditionStatus::Unknown, ConditionStatus::Unknown),
        (pb::ConditionStatus::Unspecified, ConditionStatus::Unknown),
    ];
    for (told, expected) in statuses {
        assert_eq!(conditions(&[told_condition("Ready", told)]).get("Ready").unwrap().status, expected);
    }
    let bare = pb::Condition { r#type: "Ready".to_owned(), ..pb::Condition::default() };
    let bare = conditions(&[bare]);
    assert_eq!(bare.get("Ready").unwrap().reason, "Unspecified", "an object without a reason could not be written");
}

#[test]
fn what_an_agent_tells_of_its_host_is_copied_whole() {
    let digest = format!("sha256:{}", "b".repeat(64));
    let (vcpus, memory_bytes, disk_bytes) = (64, 512 << 30, 4 << 40);
    let told = pb::Host {
        name: "host-a".to_owned(),
        boot_id: "0fd2".to_owned(),
        capacity: Some(pb::Capacity { vcpus, memory_bytes, disk_bytes }),
        available: Some(pb::Capacity { vcpus: 1, memory_bytes: 2, disk_bytes: 3 }),
        conditions: vec![told_condition("LedgerReadable", pb::ConditionStatus::True)],
        versions: Some(pb::Versions { agent: "1".to_owned(), qemu: "2".to_owned(), kernel: "3".to_owned() }),
        cordoned: true,
        accelerator: pb::Accelerator::Kvm.into(),
        underlay_address: "192.0.2.11".to_owned(),
        guests: 9,
        guest_overhead_bytes: 131 << 20,
        networks: vec!["192.0.2.0/24".to_owned(), "nonsense".to_owned()],
        foreign_vnis: vec![4711],
        tcg_allowed: true,
    };
    let images = [digest.as_str(), "nonsense", digest.as_str()];
    let images = images.map(|digest| pb::Image { digest: digest.to_owned(), ..pb::Image::default() });
    let size = |bytes: u64| ByteSize::try_from(bytes).unwrap();
    assert_eq!(
        host_status(&told, &images),
        HostStatus {
            conditions: conditions(&told.conditions),
            observed_generation: None,
            heartbeat_time: None,
            boot_id: Some("0fd2".to_owned()),
            capacity: Some(Capacity { vcpus, memory: size(memory_bytes), disk: size(disk_bytes) }),
            available: Some(Capacity { vcpus: 1, memory: size(2), disk: size(3) }),
            accelerator: Some(Accelerator::Kvm),
            versions: Some(Versions { agent: "1".to_owned(), qemu: "2".to_owned(), kernel: "3".to_owned() }),
            underlay_address: Some([192, 0, 2, 11].into()),
            cordoned: true,
            guests: 9,
            guest_overhead: Some(size(131 << 20)),
            tcg_allowed: true,
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            foreign_vnis: vec![4711.try_into().unwrap()],
            images: vec![digest.parse().unwrap()],
        }
    );
    assert_eq!(host_status(&pb::Host::default(), &[]), HostStatus::default());
}

proptest! {
    #[test]
    fn a_network_is_told_whole(
        cluster in arbitrary::cluster(),
        vni in 1..1_u64 << 24,
        addresses in any::<[[u8; 4]; 2]>(),
        generation in 1_u64..,
    ) {
        let [gateway, address] = addresses.map(std::net::Ipv4Addr::from);
        let allocation = NetworkAllocation {
            vni: vni.try_into().unwrap(),
            gateway_address: gateway,
            peers_generation: 0,
            host_addresses: std::collections::BTreeMap::new(),
        };
        let generation = Generation::try_from(generation).unwrap();
        let told = network_spec(&cluster, &allocation, Member { address, generation });
        let network = &cluster.spec.network;
        prop_assert_eq!(told, pb::NetworkSpec {
            cluster: "acme".to_owned(),
            generation: generation.get(),
            vni: u32::try_from(vni).unwrap(),
            cidr: network.cidr.to_string(),
            gateway_address: gateway.to_string(),
            host_address: address.to_string(),
            mtu: network.mtu.map_or(0, |mtu| mtu.get().into()),
            egress: network.egress,
            dns_servers: vec!["192.0.2.53".to_owned()],
        });
    }
}
