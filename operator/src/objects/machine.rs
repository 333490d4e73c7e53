//! What clusters and guests say of machines in the same words, which are the agent's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CommandLine, CpuModel, DiskSerial, DiskSize, HostPath, MemorySize, Vcpus};

/// Processors and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Whole MiB.
    pub memory: MemorySize,
    /// What runs the vCPUs.
    #[serde(default)]
    pub accelerator: Accelerator,
    /// Left out: `host` under KVM, `max` under TCG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<CpuModel>,
}

/// What runs the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Accelerator {
    /// KVM where the doctor saw it boot, else TCG where the host's configuration allows it.
    #[default]
    Auto,
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// How a guest starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Boot {
    /// QEMU loads the kernel and initrd that the image carries.
    Kernel(KernelBoot),
    /// Firmware finds a boot loader on the root disk.
    Firmware(FirmwareBoot),
}

impl Default for Boot {
    /// `SeaBIOS`.
    fn default() -> Self {
        Self::Firmware(FirmwareBoot { path: None })
    }
}

/// Direct boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KernelBoot {
    /// Appended to the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_line: Option<CommandLine>,
}

/// Boot from the root disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirmwareBoot {
    /// A file that the host's configuration lists, for example OVMF's; left out: SeaBIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<HostPath>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Disk {
    /// An overlay on the image's disk; the guest boots from it. At most one.
    Root(RootDisk),
    /// An empty disk that lives as long as the guest's uid.
    Data(DataDisk),
}

/// The disk a guest boots from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootDisk {
    /// Left out: the size of the image's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<DiskSize>,
}

/// An empty disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataDisk {
    /// The guest finds it at `/dev/disk/by-id/virtio-<serial>`; differs from those of the other disks.
    pub serial: DiskSerial,
    /// Its size.
    pub size: DiskSize,
}
