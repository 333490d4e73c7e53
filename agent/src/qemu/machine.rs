//! What QEMU shall run, as values: everything that [`super::arguments`] needs and nothing that it has to find out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{ByteSize, ClusterName, DiskSerial, Generation, GuestName, GuestUid, MacAddress, Mtu};

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// Becomes the SMBIOS UUID, by which QEMU is known again.
    pub uid: GuestUid,
    /// Of the spec that it is started with.
    pub generation: Generation,
    /// For people who look at a list of processes.
    pub cluster: ClusterName,
    /// For people who look at a list of processes.
    pub name: GuestName,
    /// 1 to 255.
    pub vcpus: u8,
    /// The guest's memory.
    pub memory: ByteSize,
    /// What runs the vCPUs, as chosen.
    pub accelerator: VcpuAccelerator,
    /// A model that QEMU knows, with features as `-cpu` takes them; none: all that the accelerator has.
    pub cpu_model: Option<String>,
    /// What runs first.
    pub boot: BootMethod,
    /// The disk it boots from.
    pub root_disk: Option<RootDiskFiles>,
    /// In this order in the guest.
    pub data_disks: Vec<DataDiskFile>,
    /// First-boot configuration.
    pub seed: Option<SeedDevice>,
    /// The tap itself is handed over at the launch.
    pub network: Option<NetworkDevice>,
    /// How the guest gets its certificates.
    pub certificates: Option<CertificateDevice>,
    /// QEMU waits with its vCPUs standing until it is told `cont`.
    pub start_paused: bool,
}

/// What runs the vCPUs, as chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VcpuAccelerator {
    /// The processor.
    Kvm {
        /// Some nested kinds of KVM offer `arch-capabilities` and then refuse to set it.
        hide_arch_capabilities: bool,
    },
    /// QEMU's emulation.
    Tcg,
}

/// What runs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootMethod {
    /// QEMU loads a kernel; QEMU's user must be able to read both files.
    Kernel {
        /// A bzImage.
        kernel: PathBuf,
        /// Loaded beside it.
        initrd: Option<PathBuf>,
        /// The kernel's.
        command_line: String,
    },
    /// Firmware looks for a boot loader on the root disk.
    Firmware(Firmware),
}

/// Firmware that QEMU can start with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// QEMU's own BIOS. It writes to the serial console too, so that "no bootable device" is seen there.
    SeaBios,
    /// A combined image of code and variables, such as OVMF.fd; the variables live as long as the QEMU.
    Image(PathBuf),
}

/// The formats of disks; always told to QEMU, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskFormat {
    /// QEMU's own.
    Qcow2,
    /// The bytes themselves.
    Raw,
}

impl DiskFormat {
    /// As QEMU's block drivers are called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The guest's own qcow2 over a base that many guests share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDiskFiles {
    /// Written by this guest only.
    pub overlay: PathBuf,
    /// Read only; has no backing file of its own.
    pub base: PathBuf,
    /// The base's.
    pub base_format: DiskFormat,
}

/// A disk of the guest's own: raw and sparse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDiskFile {
    /// How the guest finds it.
    pub serial: DiskSerial,
    /// Where it is.
    pub path: PathBuf,
}

/// How the guest gets its first-boot configuration.
#[derive(Clone, PartialEq, Eq)]
pub enum SeedDevice {
    /// A read-only raw disk labelled `cidata`.
    NoCloudDisk(PathBuf),
    /// A JSON document by `fw_cfg`; it goes from memory to memory.
    Ignition(String),
}

/// A document often holds passwords and tokens, so only its size is shown.
impl std::fmt::Debug for SeedDevice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoCloudDisk(path) => write!(formatter, "NoCloudDisk({})", path.display()),
            Self::Ignition(document) => write!(formatter, "Ignition({} bytes)", document.len()),
        }
    }
}

/// A virtio network card on a tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkDevice {
    /// The guest's.
    pub mac: MacAddress,
    /// Told to the guest's driver.
    pub mtu: Option<Mtu>,
}

/// How the guest gets its certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateDevice {
    /// virtiofs under the tag `goliath-certs`; the connected socket is handed over at the launch.
    Virtiofs,
    /// A read-only, removable raw disk with the serial `goliath-certs`.
    Disk(CertificateMedium),
}

/// A disk image of a guest's certificates, which the running guest's drive takes in place of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateMedium {
    /// Grows with each image; equal ones hold the same.
    pub generation: u64,
    /// Raw.
    pub path: PathBuf,
}

/// What the host offers, found out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// The kernel moves a tap's packets.
    pub vhost_net: bool,
    /// The file system of guests' disks takes `O_DIRECT`.
    pub direct_io: bool,
}
