//! QEMU: its arguments, its process, and the protocols to speak with it and with what runs in it.
//!
//! [`Launcher`] starts one, [`discover`] finds one again after the agent was away, [`Qmp`] speaks with it.
//! One QEMU per uid is the kernel's promise, not ours: each holds a lock on a file for as long as it lives, and none is
//! started without that lock.

pub mod arguments;
pub mod launch;
mod launcher;
mod machine;
mod paths;
mod process;
pub mod qmp;
mod readiness;
mod scope;

pub use launcher::{Handed, LaunchError, Launcher, LauncherError, Running};
pub use machine::{
    BootMethod, CertificateVolume, DataDiskFile, DiskFormat, Firmware, HostFacts, MachineConfig, NetworkDevice,
    RootDiskFiles, SeedDevice, VcpuAccelerator,
};
pub use paths::GuestPaths;
pub(crate) use process::start_time_of;
pub use process::{Process, ProcessError, ProcessExit, ProcessRecord, boot_id};
pub use qmp::{Qmp, QmpError, QmpEvent, QmpEvents, QmpLimits};
