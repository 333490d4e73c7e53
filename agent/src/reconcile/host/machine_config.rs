//! From what was asked for and what was made ready to what QEMU shall run: a pure function.

use std::path::PathBuf;

use super::prepare::disk_format;
use crate::{
    image::Image,
    qemu::{
        BootMethod, CertificateDevice, DataDiskFile, Firmware, MachineConfig, NetworkDevice, RootDiskFiles, SeedDevice,
        VcpuAccelerator,
    },
    reconcile::executor::Failure,
    spec::{Boot, DesiredState, GuestSpec, Mtu},
};

/// What the steps before have made ready.
#[derive(Debug)]
pub(super) struct Parts<'p> {
    pub(super) image: &'p Image,
    pub(super) accelerator: VcpuAccelerator,
    /// The overlay, where the spec has a root disk.
    pub(super) overlay: Option<PathBuf>,
    pub(super) data_disks: Vec<DataDiskFile>,
    pub(super) seed: Option<SeedDevice>,
    pub(super) mtu: Option<Mtu>,
    pub(super) certificates: Option<CertificateDevice>,
}

pub(super) fn machine_config(spec: &GuestSpec, parts: Parts<'_>) -> Result<MachineConfig, Failure> {
    let lacks = |what: &str| {
        Failure::new(
            "ImageReady",
            "ImageUnfit",
            format!("image {} has no {what}, which the guest's boot method needs", parts.image.digest),
        )
    };
    let boot = match &spec.boot {
        Boot::Kernel { command_line } => BootMethod::Kernel {
            kernel: parts.image.kernel.clone().ok_or_else(|| lacks("kernel"))?,
            initrd: parts.image.initrd.clone(),
            command_line: joined(parts.image.command_line.as_deref(), command_line),
        },
        Boot::Firmware { path } => BootMethod::Firmware(path.clone().map_or(Firmware::SeaBios, Firmware::Image)),
    };
    let root_disk = match parts.overlay {
        None => None,
        Some(overlay) => {
            let base = parts.image.disk.as_ref().ok_or_else(|| lacks("disk"))?;
            Some(RootDiskFiles { overlay, base: base.path.clone(), base_format: disk_format(base.format) })
        }
    };
    Ok(MachineConfig {
        uid: spec.uid,
        generation: spec.generation,
        cluster: spec.cluster.clone(),
        name: spec.name.clone(),
        vcpus: spec.machine.vcpus,
        memory: spec.machine.memory,
        accelerator: parts.accelerator,
        cpu_model: spec.machine.cpu_model.clone(),
        boot,
        root_disk,
        data_disks: parts.data_disks,
        seed: parts.seed,
        network: spec.network.as_ref().map(|_| NetworkDevice { mac: spec.mac_address(), mtu: parts.mtu }),
        certificates: parts.certificates,
        start_paused: spec.lifecycle.desired_state == DesiredState::Paused,
    })
}

/// The image's command line, then the spec's: what comes later wins with the kernel.
fn joined(image: Option<&str>, spec: &str) -> String {
    [image.unwrap_or_default().trim(), spec.trim()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn the_specs_command_line_follows_the_images() {
        assert_eq!(joined(Some("console=ttyS0 quiet\n"), "debug"), "console=ttyS0 quiet debug");
        assert_eq!(joined(None, ""), "");
        assert_eq!(joined(Some("console=ttyS0"), ""), "console=ttyS0");
    }
}
