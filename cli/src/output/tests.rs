//! What people see, whole.

use goliath_proto::agent::v1::{
    Accelerator, Boot, Capacity, Certificate, CertificateRequest, Condition, ConditionStatus, DataDisk, Disk,
    DoctorCheck, Exit, ExitReason, Guest, GuestPhase, GuestSpec, GuestStatus, Host, Image, ImageDisk, KernelBoot,
    Lifecycle, Machine, Network, NetworkInterface, NetworkSpec, NetworkStatus, Peer, PeerEndpoint, PeerList, Process,
    RootDisk, ShutdownStep, Versions, boot, disk, doctor_check::Verdict,
};
use prost_types::Timestamp as Time;

use super::{structured::Notation, *};

const NOW: i64 = 1_800_000_000;
const WIDE: u16 = 160;

fn view() -> View {
    View { style: Style::plain(), width: Some(WIDE), now: Timestamp::from_second(NOW).unwrap() }
}

fn ago(seconds: i64) -> Time {
    Time { seconds: NOW - seconds, nanos: 0 }
}

fn condition(kind: &str, status: ConditionStatus, reason: &str, message: &str, age: i64) -> Condition {
    Condition {
        r#type: kind.to_owned(),
        status: i32::from(status),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Some(ago(age)),
    }
}

fn spec(name: &str) -> GuestSpec {
    GuestSpec {
        uid: "11111111-2222-3333-4444-555555555555".to_owned(),
        generation: 4,
        name: name.to_owned(),
        cluster: "acme".to_owned(),
        machine: Some(Machine { vcpus: 2, memory_bytes: 512 << 20, accelerator: 1, cpu_model: String::new() }),
        boot: Some(Boot {
            method: Some(boot::Method::Kernel(KernelBoot { command_line: "console=ttyS0".to_owned() })),
        }),
        image: "registry.example/tiny:1".to_owned(),
        disks: vec![
            Disk { kind: Some(disk::Kind::Root(RootDisk { size_bytes: 0 })) },
            Disk { kind: Some(disk::Kind::Data(DataDisk { serial: "etcd".to_owned(), size_bytes: 4 << 30 })) },
        ],
        network: Some(NetworkInterface { ipv4_address: "10.7.0.10".to_owned(), mac_address: String::new() }),
        certificates: vec![CertificateRequest { name: "kubelet".to_owned(), ..CertificateRequest::default() }],
        lifecycle: Some(Lifecycle { desired_state: 1, restart_policy: 2, ..Lifecycle::default() }),
        labels: [("role".to_owned(), "worker".to_owned())].into(),
        ..GuestSpec::default()
    }
}

fn running() -> Guest {
    let status = GuestStatus {
        phase: i32::from(GuestPhase::Running),
        conditions: vec![
            // The agent sends them by name; people read them in the order in which they come true.
            condition("Booted", ConditionStatus::True, "Reported", "", 11_515),
            condition("ImageReady", ConditionStatus::True, "Stored", "", 11_600),
            condition("NetworkReady", ConditionStatus::True, "Attached", "", 11_590),
            condition("Running", ConditionStatus::True, "Running", "QMP says that it runs", 11_520),
        ],
        running_generation: 4,
        observed_generation: 4,
        process: Some(Process {
            pid: 4242,
            started_at: Some(ago(11_520)),
            accelerator: i32::from(Accelerator::Tcg),
            qemu_version: "10.0.2".to_owned(),
        }),
        image_digest: format!("sha256:{}", "ab".repeat(32)),
        mac_address: "06:5d:1f:60:a4:92".to_owned(),
        ..GuestStatus::default()
    };
    Guest { spec: Some(spec("worker-0")), status: Some(status), revision: 17 }
}

fn failing() -> Guest {
    let status = GuestStatus {
        phase: i32::from(GuestPhase::Backoff),
        conditions: vec![
            condition("ImageReady", ConditionStatus::True, "Stored", "", 700),
            condition(
                "NetworkReady",
                ConditionStatus::False,
                "VniInUse",
                "VNI 7001 is that of network umbrella: give one of the two another",
                650,
            ),
            condition("Booted", ConditionStatus::Unknown, "", "", 650),
            condition("RestartRequired", ConditionStatus::True, "SpecChanged", "machine.memory_bytes waits", 60),
        ],
        observed_generation: 4,
        restart_count: 3,
        last_exit: Some(Exit {
            reason: i32::from(ExitReason::GuestPanic),
            message: "Kernel panic - not syncing: \u{1b}[31mVFS".to_owned(),
            time: Some(ago(48)),
            shutdown_step: i32::from(ShutdownStep::Unspecified),
        }),
        next_attempt_time: Some(ago(-12)),
        ..GuestStatus::default()
    };
    Guest { spec: Some(spec("worker-1")), status: Some(status), revision: 18 }
}

fn certificates() -> Vec<Certificate> {
    vec![Certificate {
        name: "kubelet".to_owned(),
        generation: 3,
        issuer: "vault".to_owned(),
        serial_number: "1a:2b:3c".to_owned(),
        common_name: "system:node:worker-1".to_owned(),
        not_after: Some(ago(-86_400)),
        renew_at: Some(ago(3600)),
        last_error: "Vault is sealed".to_owned(),
        ..Certificate::default()
    }]
}

fn network_message() -> Network {
    let endpoint = |address: &str| PeerEndpoint { ipv4_address: address.to_owned(), mac_address: String::new() };
    Network {
        spec: Some(NetworkSpec {
            cluster: "acme".to_owned(),
            generation: 2,
            vni: 7001,
            cidr: "10.7.0.0/24".to_owned(),
            gateway_address: "10.7.0.1".to_owned(),
            host_address: "10.7.0.2".to_owned(),
            egress: true,
            dns_servers: vec!["192.0.2.53".to_owned()],
            ..NetworkSpec::default()
        }),
        peers: Some(PeerList {
            generation: 5,
            peers: vec![Peer {
                host: "host-b".to_owned(),
                underlay_address: "192.0.2.12".to_owned(),
                host_endpoint: Some(endpoint("10.7.0.3")),
                guests: vec![endpoint("10.7.0.11"), endpoint("10.7.0.12")],
            }],
        }),
        status: Some(NetworkStatus {
            conditions: vec![condition("Ready", ConditionStatus::True, "Complete", "", 900)],
            observed_generation: 2,
            observed_peers_generation: 4,
            mtu: 1450,
            namespace: "/run/netns/goliath-acme".to_owned(),
            ports: 1,
            repairs: 2,
        }),
    }
}

fn host_message() -> Host {
    let capacity = |vcpus, memory_bytes, disk_bytes| Some(Capacity { vcpus, memory_bytes, disk_bytes });
    Host {
        name: "host-a".to_owned(),
        boot_id: "0f0f".to_owned(),
        capacity: capacity(8, 22 << 30, 100 << 30),
        available: capacity(6, 21 << 30, 95 << 30),
        conditions: vec![condition("Ready", ConditionStatus::True, "Open", "", 60)],
        versions: Some(Versions {
            agent: "0.1.0".to_owned(),
            qemu: "10.0.2".to_owned(),
            kernel: "6.1.0-30-amd64".to_owned(),
        }),
        cordoned: true,
        accelerator: i32::from(Accelerator::Kvm),
        underlay_address: "192.0.2.11".to_owned(),
        guests: 1,
        ..Host::default()
    }
}

fn image_message() -> Image {
    Image {
        digest: format!("sha256:{}", "cd".repeat(32)),
        references: vec!["registry.example/tiny:1".to_owned(), "registry.example/tiny:latest".to_owned()],
        stored_bytes: 12_345_678,
        disk: Some(ImageDisk { format: "qcow2".to_owned(), virtual_size_bytes: 2 << 30 }),
        has_kernel: true,
        has_initrd: true,
        command_line: "quiet".to_owned(),
        pulled_at: Some(ago(7200)),
        used_by: vec!["a".to_owned(), "b".to_owned()],
    }
}

#[test]
fn guests_in_a_table() {
    let guests = [running(), failing()];
    insta::assert_snapshot!("guests", guest::table(&guests, false, view().now).render(&view()));
    let wide = View { width: None, ..view() };
    insta::assert_snapshot!("guests_wide", guest::table(&guests, true, wide.now).render(&wide));
}

#[test]
fn a_watch_stays_in_line_and_tells_no_news_twice() {
    let mut lines = guest::Lines::new(false);
    let mut preparing = running();
    if let Some(status) = &mut preparing.status {
        status.phase = i32::from(GuestPhase::Preparing);
    }
    let later = View { now: Timestamp::from_second(NOW + 5).unwrap(), ..view() };
    let text = lines.next(&preparing, &view()) + &lines.next(&running(), &view()) + &lines.next(&running(), &later);
    insta::assert_snapshot!(text);
}

#[test]
fn a_table_fits_its_terminal() {
    let narrow = View { width: Some(100), ..view() };
    let text = guest::table(&[running(), failing()], false, narrow.now).render(&narrow);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn the_page_of_a_guest_that_runs() {
    insta::assert_snapshot!(describe::guest(&running(), &[], &view()));
}

#[test]
fn the_page_of_a_guest_in_trouble_says_what_to_do() {
    let page = describe::guest(&failing(), &certificates(), &view());
    assert!(!page.contains('\u{1b}'), "a guest's words command no terminal");
    insta::assert_snapshot!(page);
}

#[test]
fn a_guest_that_nobody_saw_yet_has_a_page_too() {
    insta::assert_snapshot!(describe::guest(&Guest::default(), &[], &view()));
}

#[test]
fn networks_in_a_table_and_on_a_page() {
    insta::assert_snapshot!("networks", network::table(&[network_message()], false).render(&view()));
    insta::assert_snapshot!("network", describe::network(&network_message(), &view()));
}

#[test]
fn the_host_in_a_table_and_on_a_page() {
    insta::assert_snapshot!("hosts_wide", host::table(&host_message(), true).render(&View { width: None, ..view() }));
    insta::assert_snapshot!("host", describe::host(&host_message(), &view()));
}

#[test]
fn images_in_a_table() {
    insta::assert_snapshot!("images", image::table(&[image_message()], false, view().now).render(&view()));
}

#[test]
fn certificates_in_a_table() {
    insta::assert_snapshot!("certificates", certificate::table(&certificates(), view().now).render(&view()));
}

#[test]
fn yaml_and_json_of_a_guest() {
    insta::assert_snapshot!("guest_yaml", Notation::Yaml.one(&structured::guests(&[failing()])[0]));
    insta::assert_snapshot!("host_json", Notation::Json.one(&structured::host(&host_message())));
}

fn checks() -> Vec<DoctorCheck> {
    let check = |name: &str, verdict: Verdict, message: &str, hint: &str| DoctorCheck {
        name: name.to_owned(),
        verdict: i32::from(verdict),
        message: message.to_owned(),
        hint: hint.to_owned(),
    };
    vec![
        check("qemu", Verdict::Pass, "QEMU 10.0.2 at /usr/bin/qemu-system-x86_64", ""),
        check(
            "kvm",
            Verdict::Warning,
            "/dev/kvm opens, but a Linux kernel does not boot under it: guests use TCG",
            "enable hardware virtualization, or leave it so and accept slow guests",
        ),
        check("underlay", Verdict::Fail, "no interface has 192.0.2.11", "set [network] underlay_address"),
    ]
}

#[test]
fn the_doctor_judges_by_the_worst() {
    assert_eq!(doctor::worst(&checks()), Some(crate::failure::ExitCode::Error));
    assert_eq!(doctor::worst(&checks()[..2]), Some(crate::failure::ExitCode::Warnings));
    assert_eq!(doctor::worst(&checks()[..1]), None);
    insta::assert_snapshot!("doctor", doctor::page(&checks(), &View { width: Some(80), ..view() }));
    assert!(doctor::page(&checks()[..1], &view()).ends_with("This host is ready for guests.\n"));
}
