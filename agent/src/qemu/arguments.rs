//! QEMU's arguments: a pure function of a [`MachineConfig`] and of what the host offers.
//!
//! QEMU gets every file, socket and device as an open descriptor, so the directories they are in can be closed to it.
//! Devices have fixed places on the PCI bus: one more disk never renames the guest's network card.

use std::{
    os::fd::RawFd,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    machine::{
        BootMethod, CertificateDevice, CertificateMedium, DiskFormat, Firmware, HostFacts, MachineConfig,
        RootDiskFiles, SeedDevice, VcpuAccelerator,
    },
    medium,
};

/// The name of the virtio-serial port to which the guest writes `READY=1` and a newline when it is up.
pub const NOTIFY_PORT: &str = "goliath.notify.0";
/// The name of the virtio-serial port of qemu-guest-agent, which is its default.
pub const GUEST_AGENT_PORT: &str = "org.qemu.guest_agent.0";
/// The id of the guest agent's character device and port, as QMP's events name it.
pub const GUEST_AGENT_ID: &str = "guest-agent";
/// The virtiofs tag, and the serial of the disk, by which a guest finds its certificates.
pub const CERTIFICATES: &str = "goliath-certs";

/// Descriptors below this one are the launcher's: standard streams, lock, status.
const FIRST_DESCRIPTOR: RawFd = 5;

/// Arguments, and the descriptors they speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Without the program itself.
    pub arguments: Vec<String>,
    /// By number, ascending.
    pub descriptors: Vec<(RawFd, Descriptor)>,
}

/// What must stand behind a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Descriptor {
    /// A Unix socket that listens.
    Listener(Listener),
    /// The console's log, append only.
    ConsoleLog,
    /// The guest's tap, with a vnet header.
    Tap,
    /// /dev/vhost-net.
    VhostNet,
    /// /dev/kvm.
    Kvm,
    /// A socket connected to virtiofsd.
    CertificateVolume,
    /// The document in memory.
    Ignition,
    /// A file that is only read. QEMU opens it again by /proc/self/fd, so its user needs the right to read it.
    Loaded(PathBuf),
    /// An image that is only read.
    ReadOnlyDisk(PathBuf),
    /// An image that is read and written.
    Disk {
        /// Where it is.
        path: PathBuf,
        /// Past the host's page cache; QEMU wants the descriptor to have been opened so.
        direct: bool,
    },
}

/// The sockets of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listener {
    /// QMP.
    Qmp,
    /// The serial console, both ways.
    Console,
    /// qemu-guest-agent's protocol.
    GuestAgent,
    /// What the guest tells of its start.
    Notify,
}

/// Where devices sit on the root bus.
mod slot {
    pub(super) const NETWORK: u8 = 0x2;
    pub(super) const ROOT_DISK: u8 = 0x3;
    pub(super) const SEED: u8 = 0x4;
    pub(super) const SERIAL: u8 = 0x5;
    pub(super) const RANDOM: u8 = 0x6;
    pub(super) const PANIC: u8 = 0x7;
    pub(super) const CERTIFICATES: u8 = 0x8;
    /// And those that follow, eight disks each.
    pub(super) const DATA_DISKS: u8 = 0x10;
}

/// The arguments for a machine.
pub fn command_line(machine: &MachineConfig, host: HostFacts) -> CommandLine {
    let mut builder = Builder { arguments: Vec::new(), descriptors: Vec::new(), host };
    builder.identity(machine);
    builder.processors_and_memory(machine);
    builder.boot(&machine.boot);
    builder.sockets();
    builder.disks(machine);
    builder.network(machine);
    builder.certificates(machine.certificates.as_ref());
    builder.small_devices();
    if machine.start_paused {
        builder.flag("-S");
    }
    CommandLine { arguments: builder.arguments, descriptors: builder.descriptors }
}

struct Builder {
    arguments: Vec<String>,
    descriptors: Vec<(RawFd, Descriptor)>,
    host: HostFacts,
}

impl Builder {
    fn flag(&mut self, flag: &str) {
        self.arguments.push(flag.to_owned());
    }

    fn option(&mut self, option: &str, value: impl Into<String>) {
        self.arguments.push(option.to_owned());
        self.arguments.push(value.into());
    }

    /// JSON where QEMU takes it: a comma in a value means nothing there.
    fn json(&mut self, option: &str, value: &Value) {
        self.option(option, value.to_string());
    }

    /// A descriptor's number in QEMU.
    fn descriptor(&mut self, descriptor: Descriptor) -> RawFd {
        let number = self.descriptors.last().map_or(FIRST_DESCRIPTOR, |(last, _)| last + 1);
        self.descriptors.push((number, descriptor));
        number
    }

    /// A name under which QEMU opens a descriptor as if it were a file.
    fn descriptor_set(&mut self, descriptor: Descriptor) -> String {
        let number = self.descriptor(descriptor);
        self.option("-add-fd", format!("fd={number},set={number}"));
        format!("/dev/fdset/{number}")
    }

    /// A name under which the C library opens a descriptor's file once more.
    fn loaded_file(&mut self, descriptor: Descriptor) -> String {
        format!("/proc/self/fd/{}", self.descriptor(descriptor))
    }

    fn identity(&mut self, machine: &MachineConfig) {
        self.option(
            "-name",
            format!("guest={}/{},process=goliath:{},debug-threads=on", machine.cluster, machine.name, machine.name),
        );
        self.option("-uuid", machine.uid.to_string());
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            self.flag(flag);
        }
        self.option("-display", "none");
        self.option("-msg", "timestamp=on");
        self.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    }

    fn processors_and_memory(&mut self, machine: &MachineConfig) {
        // SeaBIOS writes to the serial console when there are no graphics; a kernel that is loaded directly needs no
        // such noise in its log.
        let graphics = if machine.boot == BootMethod::Firmware(Firmware::SeaBios) { "off" } else { "on" };
        self.option("-machine", format!("q35,memory-backend=ram,vmport=off,graphics={graphics}"));
        let model = match machine.accelerator {
            VcpuAccelerator::Kvm { hide_arch_capabilities } => {
                let device = self.descriptor_set(Descriptor::Kvm);
                self.option("-accel", format!("kvm,device={device}"));
                let model = machine.cpu_model.as_deref().unwrap_or("host");
                if hide_arch_capabilities { format!("{model},-arch-capabilities") } else { model.to_owned() }
            }
            VcpuAccelerator::Tcg => {
                // QEMU would let the translated code of each guest grow to 1 GiB.
                self.option("-accel", "tcg,thread=multi,tb-size=256");
                machine.cpu_model.as_deref().unwrap_or("max").to_owned()
            }
        };
        self.option("-cpu", model);
        self.option("-smp", machine.vcpus.to_string());
        let size = machine.memory.get();
        self.option("-m", format!("size={size}B"));
        // virtiofsd maps the guest's memory. Without it private memory is better: it gets huge pages.
        let backend = match machine.certificates {
            Some(CertificateDevice::Virtiofs) => {
                json!({"qom-type": "memory-backend-memfd", "id": "ram", "size": size, "share": true})
            }
            _ => json!({"qom-type": "memory-backend-ram", "id": "ram", "size": size}),
        };
        self.json("-object", &backend);
        self.option("-rtc", "base=utc,driftfix=slew");
    }

    fn boot(&mut self, boot: &BootMethod) {
        match boot {
            BootMethod::Kernel { kernel, initrd, command_line } => {
                let kernel = self.loaded_file(Descriptor::Loaded(kernel.clone()));
                self.option("-kernel", kernel);
                if let Some(initrd) = initrd {
                    let initrd = self.loaded_file(Descriptor::Loaded(initrd.clone()));
                    self.option("-initrd", initrd);
                }
                self.option("-append", command_line.as_str());
            }
            BootMethod::Firmware(firmware) => {
                if let Firmware::Image(path) = firmware {
                    let image = self.loaded_file(Descriptor::Loaded(path.clone()));
                    self.option("-bios", image);
                }
                self.option("-boot", "strict=on");
            }
        }
    }

    fn sockets(&mut self) {
        let qmp = self.descriptor(Descriptor::Listener(Listener::Qmp));
        self.option("-chardev", format!("socket,id=qmp,fd={qmp},server=on,wait=off"));
        self.option("-mon", "chardev=qmp,mode=control");

        let console = self.descriptor(Descriptor::Listener(Listener::Console));
        let log = self.descriptor_set(Descriptor::ConsoleLog);
        self.option(
            "-chardev",
            format!("socket,id=console,fd={console},server=on,wait=off,logfile={log},logappend=on"),
        );
        self.option("-serial", "chardev:console");

        self.device(json!({"driver": "virtio-serial-pci", "id": "serial", "max_ports": 4}), slot::SERIAL);
        for (index, (listener, id, port)) in
            [(Listener::GuestAgent, GUEST_AGENT_ID, GUEST_AGENT_PORT), (Listener::Notify, "notify", NOTIFY_PORT)]
                .into_iter()
                .enumerate()
        {
            let socket = self.descriptor(Descriptor::Listener(listener));
            self.option("-chardev", format!("socket,id={id},fd={socket},server=on,wait=off"));
            self.json("-device", &json!({"driver": "virtserialport", "id": id, "bus": "serial.0", "nr": index + 1, "chardev": id, "name": port}),
            );
        }
    }

    fn disks(&mut self, machine: &MachineConfig) {
        let has_disks = machine.root_disk.is_some() || !machine.data_disks.is_empty();
        if has_disks {
            self.json("-object", &json!({"qom-type": "iothread", "id": "disks"}));
        }
        if let Some(root) = &machine.root_disk {
            self.root_disk(root);
        }
        for (index, disk) in (0_u8..).zip(&machine.data_disks) {
            let id = format!("data{index}");
            let file = self.disk(&disk.path);
            let node = self.file_node(&file, false);
            self.json(
                "-blockdev",
                &json!({"node-name": id, "driver": "raw", "discard": "unmap", "cache": self.cache(), "file": node}),
            );
            self.device_at(
                json!({"driver": "virtio-blk-pci", "id": id, "drive": id, "serial": disk.serial.as_str(), "iothread": "disks"}),
                slot::DATA_DISKS + index / 8,
                Some(index % 8),
            );
        }
        match &machine.seed {
            Some(SeedDevice::NoCloudDisk(path)) => self.read_only_disk("seed", path, slot::SEED),
            Some(SeedDevice::Ignition(_)) => {
                let document = self.loaded_file(Descriptor::Ignition);
                for name in ["opt/org.flatcar-linux/config", "opt/com.coreos/config"] {
                    self.option("-fw_cfg", format!("name={name},file={document}"));
                }
            }
            None => {}
        }
    }

    fn root_disk(&mut self, root: &RootDiskFiles) {
        // The base is shared by many guests: they read it through the host's page cache.
        let file = self.descriptor_set(Descriptor::ReadOnlyDisk(root.base.clone()));
        let mut base = json!({
            "node-name": "base", "driver": root.base_format.as_str(), "read-only": true,
            "file": {"driver": "file", "filename": file, "read-only": true, "aio": "threads"},
        });
        if root.base_format == DiskFormat::Qcow2 {
            // Whatever its header says.
            base["backing"] = Value::Null;
        }
        self.json("-blockdev", &base);
        let file = self.disk(&root.overlay);
        let node = self.file_node(&file, false);
        // A kernel that is loaded directly has the first place.
        self.json(
            "-blockdev",
            &json!({
                "node-name": "root", "driver": "qcow2", "discard": "unmap", "cache": self.cache(), "file": node,
                "backing": "base",
            }),
        );
        self.device(
            json!({"driver": "virtio-blk-pci", "id": "root", "drive": "root", "serial": "root", "bootindex": 1, "iothread": "disks"}),
            slot::ROOT_DISK,
        );
    }

    fn disk(&mut self, path: &Path) -> String {
        let direct = self.host.direct_io;
        self.descriptor_set(Descriptor::Disk { path: path.to_owned(), direct })
    }

    fn read_only_disk(&mut self, id: &str, path: &Path, slot: u8) {
        let file = self.descriptor_set(Descriptor::ReadOnlyDisk(path.to_owned()));
        self.read_only_node(id, &file);
        self.device(json!({"driver": "virtio-blk-pci", "id": id, "drive": id, "serial": id}), slot);
    }

    fn read_only_node(&mut self, name: &str, file: &str) {
        self.json(
            "-blockdev",
            &json!({
                "node-name": name, "driver": "raw", "read-only": true,
                "file": {"driver": "file", "filename": file, "read-only": true, "aio": "threads"},
            }),
        );
    }

    /// Guests have caches of their own, so theirs go past the host's where the file system can do that.
    fn file_node(&self, filename: &str, read_only: bool) -> Value {
        let aio = if self.host.direct_io { "native" } else { "threads" };
        json!({"driver": "file", "filename": filename, "read-only": read_only, "aio": aio, "discard": "unmap", "cache": self.cache()})
    }

    fn cache(&self) -> Value {
        json!({"direct": self.host.direct_io})
    }

    fn network(&mut self, machine: &MachineConfig) {
        let Some(network) = &machine.network else { return };
        let tap = self.descriptor(Descriptor::Tap);
        let backend = if self.host.vhost_net {
            let vhost = self.descriptor(Descriptor::VhostNet);
            format!("tap,id=network,fd={tap},vhost=on,vhostfd={vhost}")
        } else {
            format!("tap,id=network,fd={tap}")
        };
        self.option("-netdev", backend);
        let mut device = json!({
            "driver": "virtio-net-pci", "id": "network", "netdev": "network", "mac": network.mac.to_string(),
            // No boot from the network, so no option ROM.
            "romfile": "",
        });
        if let Some(mtu) = network.mtu {
            device["host_mtu"] = json!(mtu.get());
        }
        self.device(device, slot::NETWORK);
    }

    fn certificates(&mut self, certificates: Option<&CertificateDevice>) {
        match certificates {
            Some(CertificateDevice::Virtiofs) => {
                let socket = self.descriptor(Descriptor::CertificateVolume);
                self.option("-chardev", format!("socket,id=certificates,fd={socket}"));
                self.device(
                    json!({"driver": "vhost-user-fs-pci", "id": "certificates", "chardev": "certificates", "tag": CERTIFICATES}),
                    slot::CERTIFICATES,
                );
            }
            Some(CertificateDevice::Disk(first)) => self.certificate_drive(first),
            None => {}
        }
    }

    /// A SCSI disk whose medium can be changed, unlike virtio-blk's; the first one is in it from the start.
    fn certificate_drive(&mut self, first: &CertificateMedium) {
        let number = self.descriptor(Descriptor::ReadOnlyDisk(first.path.clone()));
        self.option("-add-fd", format!("fd={number},set={number},opaque={}", medium::mark(first.generation)));
        self.read_only_node(CERTIFICATES, &format!("/dev/fdset/{number}"));
        let controller = json!({"driver": "virtio-scsi-pci", "id": "certificates", "num_queues": 1});
        self.device(controller, slot::CERTIFICATES);
        self.json(
            "-device",
            &json!({
                "driver": "scsi-hd", "id": CERTIFICATES, "bus": "certificates.0", "drive": CERTIFICATES,
                "removable": true, "serial": CERTIFICATES,
            }),
        );
    }

    fn small_devices(&mut self) {
        self.json("-object", &json!({"qom-type": "rng-random", "id": "random", "filename": "/dev/urandom"}));
        self.device(json!({"driver": "virtio-rng-pci", "id": "random", "rng": "random"}), slot::RANDOM);
        self.device(json!({"driver": "pvpanic-pci", "id": "panic"}), slot::PANIC);
    }

    fn device(&mut self, device: Value, slot: u8) {
        self.device_at(device, slot, None);
    }

    /// Eight functions share a slot where one is given.
    fn device_at(&mut self, mut device: Value, slot: u8, function: Option<u8>) {
        device["bus"] = json!("pcie.0");
        device["addr"] = match function {
            Some(function) => json!(format!("{slot:x}.{function}")),
            None => json!(format!("{slot:x}")),
        };
        if function == Some(0) {
            device["multifunction"] = json!(true);
        }
        self.json("-device", &device);
    }
}

#[cfg(test)]
mod tests;
