//! QEMU: its arguments, its process, and the protocols to speak with it and with what runs in it.
//!
//! [`Launcher`] starts one, [`discover`] finds one again after the agent was away, [`Qmp`] speaks with it.
//! One QEMU per uid is the kernel's promise, not ours: each holds a lock on a file for as long as it lives, and none is
//! started without that lock.

pub mod arguments;
mod boot_signal;
mod console;
mod console_log;
mod discovery;
mod guest_agent;
mod kvm;
pub mod launch;
mod launcher;
mod machine;
mod medium;
pub mod memory;
mod paths;
mod process;
pub mod qmp;
mod readiness;
mod scope;
mod shutdown;

pub use boot_signal::{BootSignal, BootWatch, Booted};
pub use console::{Console, ConsoleSession};
pub use console_log::{ConsoleLog, LogReader};
pub use discovery::{Discovery, DiscoveryError, discover, is_guest, known_guests};
pub use guest_agent::{GuestAgent, GuestAgentError};
pub use kvm::{KvmProbeError, KvmVerdict, Probed, host_kernel};
pub use launcher::{Handed, LaunchError, Launcher, LauncherError, Running};
pub use machine::{
    BootMethod, CertificateDevice, CertificateMedium, DataDiskFile, DiskFormat, Firmware, HostFacts, MachineConfig,
    NetworkDevice, RootDiskFiles, SeedDevice, VcpuAccelerator,
};
pub use medium::{MediumError, show_medium};
pub use paths::GuestPaths;
pub(crate) use process::start_time_of;
pub use process::{Process, ProcessError, ProcessExit, ProcessRecord, boot_id};
pub use qmp::{Qmp, QmpError, QmpEvent, QmpEvents, QmpLimits};
pub use shutdown::{ShutdownEnd, ShutdownPlan, shut_down};
