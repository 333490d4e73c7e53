//! A guest starts confined and once, or the reason is told.

use std::{fs, path::Path};

use goliath_agent::{
    qemu::{
        BootMethod, CertificateDevice, DiskFormat, Handed, LaunchError, MachineConfig, NetworkDevice, ProcessExit,
        RootDiskFiles, qmp::schema,
    },
    spec::ByteSize,
    volume::{Base, root_disk},
};

use crate::host::{Host, USER_ID, status_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_confined() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    let pid = running.process.pid();

    let ids = [USER_ID; 4].join(" ");
    assert_eq!(status_of(pid, "Uid"), ids);
    assert_eq!(status_of(pid, "Gid"), ids);
    assert_eq!(status_of(pid, "Groups"), "");
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    assert_eq!(status_of(pid, "Seccomp"), "2", "a filter is on");
    assert_eq!(status_of(pid, "CapEff"), "0000000000000000");

    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let devices: Vec<&str> = devices.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    assert_eq!(devices, ["lo"], "QEMU sees no network");
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));

    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    assert_eq!(running.qmp.execute(schema::query_uuid {}).await.unwrap().UUID, running.record.uid.to_string());
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_guest_never_runs_twice() {
    let host = Host::new();
    let machine = Host::paused();
    let first = host.launch(machine.clone()).await;

    // A second agent, even, that knows nothing of the first.
    let second = Host::launcher(host.directory.path());
    for _ in 0..3 {
        let refused = second.launch(machine.clone(), Handed::default()).await.unwrap_err();
        assert!(matches!(refused, LaunchError::AlreadyRunning { uid, .. } if uid == machine.uid), "{refused}");
    }
    let status = first.qmp.execute(schema::query_status {}).await.unwrap();
    assert!(!status.running, "the first one was not disturbed");

    first.process.kill().unwrap();
    assert_eq!(first.process.wait_exit().await, ProcessExit::Signal(9));
    second.launch(machine, Handed::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_refuses_to_start_says_why() {
    let host = Host::new();
    let machine = MachineConfig { cpu_model: Some("no-such-model".to_owned()), ..Host::paused() };
    let uid = machine.uid;
    let error = host.launcher.launch(machine.clone(), Handed::default()).await.unwrap_err();
    assert!(error.to_string().contains("unable to find CPU model 'no-such-model'"), "{error}");
    assert!(matches!(error, LaunchError::Exited { exit: ProcessExit::Code(1), .. }), "{error:?}");

    // Nothing holds the guest back from a better try.
    let better = MachineConfig { cpu_model: None, ..machine };
    assert_eq!(host.launch(better).await.record.uid, uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_starts_nothing() {
    let host = Host::new();
    let mut machine = Host::paused();
    machine.boot =
        BootMethod::Kernel { kernel: "/nonexistent/vmlinuz".into(), initrd: None, command_line: String::new() };
    let error = host.launcher.launch(machine.clone(), Handed::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot open /nonexistent/vmlinuz");

    let secret = host.directory.path().join("vmlinuz");
    fs::write(&secret, "").unwrap();
    let set_mode = |mode| fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    set_mode(0o600);
    machine.boot = BootMethod::Kernel { kernel: secret.clone(), initrd: None, command_line: String::new() };
    let error = host.launcher.launch(machine.clone(), Handed::default()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Unreadable { mode: 0o600, .. }), "{error}");
    assert!(!host.paths(machine.uid).process_record().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_needs_and_is_not_handed_is_named() {
    let host = Host::new();
    let network = NetworkDevice { mac: "06:12:34:56:78:9a".parse().unwrap(), mtu: None };
    let machine = MachineConfig { network: Some(network), ..Host::paused() };
    let error = host.launcher.launch(machine, Handed::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the launch was given no tap");
    let machine = MachineConfig { certificates: Some(CertificateDevice::Virtiofs), ..Host::paused() };
    let error = host.launcher.launch(machine, Handed::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the launch was given no socket of the certificate volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guests_share_a_base_of_either_format_and_start_together() {
    let host = Host::new();
    let directory = host.directory.path();
    let mut machines = Vec::new();
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let path = directory.join(format.as_str());
        let size = ByteSize::mib(64);
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", format.as_str()])
            .arg(&path)
            .arg(size.get().to_string())
            .status();
        assert!(made.unwrap().success());
        for number in 0..3 {
            let own = directory.join(format!("{}-{number}", format.as_str()));
            fs::create_dir(&own).unwrap();
            let overlay = root_disk(&own, Base { path: &path, format, size }, None, Path::new("/nonexistent")).unwrap();
            let files = RootDiskFiles { overlay, base: path.clone(), base_format: format };
            machines.push(MachineConfig { root_disk: Some(files), ..Host::paused() });
        }
    }
    let launches = machines.into_iter().map(|machine| host.launch(machine));
    let running = futures::future::join_all(launches).await;
    for guest in &running {
        let nodes = guest.qmp.execute(schema::query_named_block_nodes { flat: Some(true) }).await.unwrap();
        assert!(nodes.iter().any(|node| node.node_name.as_deref() == Some("base") && node.ro));
    }
}
