use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::{
    qemu::machine::{DataDiskFile, NetworkDevice},
    spec::ByteSize,
};

const PLAIN: HostFacts = HostFacts { vhost_net: false, direct_io: false };
const FULL: HostFacts = HostFacts { vhost_net: true, direct_io: true };

fn smallest() -> MachineConfig {
    MachineConfig {
        uid: "11111111-2222-3333-4444-555555555555".parse().unwrap(),
        generation: 1.try_into().unwrap(),
        cluster: "acme".parse().unwrap(),
        name: "worker-0".parse().unwrap(),
        vcpus: 1,
        memory: ByteSize::mib(128),
        accelerator: VcpuAccelerator::Tcg,
        cpu_model: None,
        boot: BootMethod::Kernel {
            kernel: "/store/vmlinuz".into(),
            initrd: None,
            command_line: "console=ttyS0".to_owned(),
        },
        root_disk: None,
        data_disks: Vec::new(),
        seed: None,
        network: None,
        certificates: None,
        start_paused: false,
    }
}

fn worker() -> MachineConfig {
    let disk =
        |serial: &str| DataDiskFile { serial: serial.parse().unwrap(), path: format!("/state/{serial}.raw").into() };
    MachineConfig {
        vcpus: 4,
        memory: ByteSize::GIB,
        accelerator: VcpuAccelerator::Kvm { hide_arch_capabilities: false },
        boot: BootMethod::Kernel {
            kernel: "/store/vmlinuz".into(),
            initrd: Some("/store/initrd".into()),
            command_line: "console=ttyS0 a,b=c d".to_owned(),
        },
        root_disk: Some(RootDiskFiles {
            overlay: "/state/root.qcow2".into(),
            base: "/store/base".into(),
            base_format: DiskFormat::Qcow2,
        }),
        data_disks: vec![disk("etcd"), disk("containers")],
        seed: Some(SeedDevice::NoCloudDisk("/run/seed.img".into())),
        network: Some(NetworkDevice { mac: "06:12:34:56:78:9a".parse().unwrap(), mtu: Some(1450.try_into().unwrap()) }),
        certificates: Some(CertificateDevice::Virtiofs),
        start_paused: true,
        ..smallest()
    }
}

fn flatcar() -> MachineConfig {
    MachineConfig {
        accelerator: VcpuAccelerator::Kvm { hide_arch_capabilities: true },
        boot: BootMethod::Firmware(Firmware::Image("/usr/share/ovmf/OVMF.fd".into())),
        root_disk: Some(RootDiskFiles {
            overlay: "/state/root.qcow2".into(),
            base: "/store/base".into(),
            base_format: DiskFormat::Raw,
        }),
        seed: Some(SeedDevice::Ignition("{}".to_owned())),
        certificates: Some(CertificateDevice::Disk(CertificateMedium { generation: 7, path: "/run/7.img".into() })),
        ..smallest()
    }
}

/// An option and its value to a line, then the descriptors.
fn shown(machine: &MachineConfig, host: HostFacts) -> String {
    let CommandLine { arguments, descriptors } = command_line(machine, host);
    let mut text = String::new();
    for argument in &arguments {
        let separator = if argument.starts_with('-') { "\n" } else { " " };
        let _ = write!(text, "{separator}{argument}");
    }
    text.push('\n');
    for (number, descriptor) in descriptors {
        let _ = write!(text, "\n{number}: {descriptor:?}");
    }
    text
}

#[test]
fn the_smallest_guest_has_only_what_every_guest_has() {
    insta::assert_snapshot!(shown(&smallest(), PLAIN));
}

#[test]
fn a_worker_on_a_full_host_uses_what_the_host_offers() {
    insta::assert_snapshot!(shown(&worker(), FULL));
}

#[test]
fn a_guest_with_firmware_and_ignition() {
    insta::assert_snapshot!(shown(&flatcar(), PLAIN));
}

#[test]
fn seabios_writes_to_the_console_what_it_cannot_boot() {
    let machine = MachineConfig { boot: BootMethod::Firmware(Firmware::SeaBios), ..smallest() };
    let CommandLine { arguments, .. } = command_line(&machine, PLAIN);
    assert!(arguments.contains(&"q35,memory-backend=ram,vmport=off,graphics=off".to_owned()));
    assert!(!arguments.contains(&"-bios".to_owned()));
}

#[test]
fn more_disks_move_no_other_device() {
    let addresses = |machine: &MachineConfig| -> Vec<(String, String)> {
        let CommandLine { arguments, .. } = command_line(machine, FULL);
        arguments
            .iter()
            .filter_map(|argument| serde_json::from_str::<Value>(argument).ok())
            .filter(|device| device["addr"].is_string())
            .map(|device| (device["id"].to_string(), device["addr"].to_string()))
            .collect()
    };
    let few = worker();
    let mut many = worker();
    for index in 0..60 {
        many.data_disks.push(DataDiskFile { serial: format!("disk-{index}").parse().unwrap(), path: "/d".into() });
    }
    let (few, many) = (addresses(&few), addresses(&many));
    assert!(few.iter().all(|device| many.contains(device)), "{few:?}");
    let distinct: std::collections::BTreeSet<&String> = many.iter().map(|(_, address)| address).collect();
    assert_eq!(distinct.len(), many.len());
}

proptest! {
    /// QEMU's own syntax splits at commas; a path or a serial must not get that far.
    #[test]
    fn no_path_reaches_qemu(path in "/[a-z,=]{1,40}") {
        let mut machine = worker();
        machine.root_disk = Some(RootDiskFiles {
            overlay: path.clone().into(), base: path.clone().into(), base_format: DiskFormat::Raw,
        });
        machine.boot = BootMethod::Firmware(Firmware::Image(path.clone().into()));
        machine.data_disks[0].path = path.clone().into();
        machine.seed = Some(SeedDevice::NoCloudDisk(path.clone().into()));
        machine.certificates = Some(CertificateDevice::Disk(CertificateMedium { generation: 7, path: path.clone().into() }));
        let normal = command_line(&{
            let mut plain = machine.clone();
            plain.data_disks[0].path = "/x".into();
            plain
        }, FULL);
        prop_assert_eq!(normal.arguments, command_line(&machine, FULL).arguments);
    }

    #[test]
    fn every_descriptor_is_spoken_of_and_each_number_is_given_once(vhost_net: bool, direct_io: bool) {
        for machine in [smallest(), worker(), flatcar()] {
            let CommandLine { arguments, descriptors } = command_line(&machine, HostFacts { vhost_net, direct_io });
            let mut numbers: Vec<RawFd> = descriptors.iter().map(|(number, _)| *number).collect();
            for number in &numbers {
                let names = [format!("fd={number}"), format!("/proc/self/fd/{number}")];
                prop_assert!(arguments.iter().any(|argument| names.iter().any(|name| argument.contains(name))));
            }
            numbers.dedup();
            prop_assert_eq!(numbers.len(), descriptors.len());
            prop_assert!(numbers.iter().all(|number| *number >= FIRST_DESCRIPTOR));
        }
    }
}
