//! Whether KVM runs Linux here, found out by letting it.
//!
//! That /dev/kvm opens proves nothing, nor that firmware runs: some nested kinds of KVM do both and stop at the first
//! instructions of a stock kernel. So a kernel is booted, by the launcher that guests are started with, without a root
//! disk: one that gets as far as missing it has shown all that was in question. What was found holds until the machine
//! restarts or QEMU is another one.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use super::{
    discovery::{Discovery, discover},
    launcher::{Handed, LaunchError, Launcher, Running},
    machine::{BootMethod, MachineConfig, VcpuAccelerator},
    process::boot_id,
    qmp::{QmpEvent, schema},
};
use crate::{
    errors::with_causes,
    files,
    spec::{ByteSize, GuestUid, InvalidValue},
};

/// What is known of KVM on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvmVerdict {
    /// A Linux kernel ran.
    Works {
        /// Every guest must be started like this.
        hide_arch_capabilities: bool,
        /// The kernel that ran.
        kernel: PathBuf,
    },
    /// A Linux kernel was started and did not run.
    Fails {
        /// What was seen instead.
        how: String,
        /// The kernel that was started.
        kernel: PathBuf,
    },
    /// There was no kernel to try it with.
    Untried,
    /// There is no KVM to try.
    Absent {
        /// The kernel's answer.
        how: String,
    },
}

impl KvmVerdict {
    /// How to start guests under KVM, where that works.
    pub fn accelerator(&self) -> Option<VcpuAccelerator> {
        match self {
            Self::Works { hide_arch_capabilities, .. } => {
                Some(VcpuAccelerator::Kvm { hide_arch_capabilities: *hide_arch_capabilities })
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for KvmVerdict {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Works { kernel, .. } => write!(formatter, "{} ran under KVM", kernel.display()),
            Self::Fails { how, kernel } => write!(formatter, "{} did not run under KVM: {how}", kernel.display()),
            Self::Untried => formatter.write_str("there is no kernel to try KVM with, in /boot or in an image"),
            Self::Absent { how } => write!(formatter, "/dev/kvm cannot be opened: {how}"),
        }
    }
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum KvmProbeError {
    /// The name of the probe is no guest's name.
    #[error("the probe's own name is wrong")]
    Name(#[from] InvalidValue),
    /// A QEMU of an earlier probe is in the way.
    #[error("an earlier try of KVM is in the way: {reason}")]
    InTheWay {
        /// What is known of it.
        reason: String,
    },
    /// The machine says no.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A kernel that runs needs a second or two for all that is asked of it.
const LIMIT: Duration = Duration::from_secs(10);
/// Beside a guest's uid, which is random, this one is never met.
const PROBE: &str = "5d0b2f4e-6b1c-4f0e-9c5a-676f6c696174";

/// A verdict, and of what.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    qemu: QemuIdentity,
    verdict: KvmVerdict,
}

/// A package's new QEMU has another size or time.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct QemuIdentity {
    path: PathBuf,
    size: u64,
    modified: i64,
}

/// How one start ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Probed {
    /// Linux ran.
    Ran,
    /// Something did, and came to nothing.
    Stopped(String),
    /// QEMU itself gave up.
    Refused(String),
}

impl Launcher {
    /// What is known of KVM, trying it with this kernel when nothing is: one from an image, or [`host_kernel`]. One at a
    /// time. A verdict of [`KvmVerdict::Untried`] is not remembered.
    pub async fn try_kvm(&self, kernel: Option<&Path>) -> Result<KvmVerdict, KvmProbeError> {
        if let Some(verdict) = self.known_kvm() {
            return Ok(verdict);
        }
        let verdict = match fs::File::options().read(true).write(true).open("/dev/kvm") {
            Err(reason) => KvmVerdict::Absent { how: reason.to_string() },
            Ok(_) => match kernel {
                None => return Ok(KvmVerdict::Untried),
                Some(kernel) => self.boot_under_kvm(kernel).await?,
            },
        };
        self.remember(&verdict)?;
        Ok(verdict)
    }

    /// What was found before, on this boot of the machine and with this QEMU.
    pub fn known_kvm(&self) -> Option<KvmVerdict> {
        let remembered: Remembered = serde_json::from_slice(&fs::read(self.kvm_record()).ok()?).ok()?;
        let same = remembered.boot_id == boot_id().ok()? && remembered.qemu == self.qemu_identity().ok()?;
        same.then_some(remembered.verdict)
    }

    /// Makes the next [`Self::try_kvm`] try again.
    pub fn forget_kvm(&self) -> Result<(), KvmProbeError> {
        let path = self.kvm_record();
        files::remove(&path).map_err(at("remove", &path))
    }

    async fn boot_under_kvm(&self, kernel: &Path) -> Result<KvmVerdict, KvmProbeError> {
        let mut hide_arch_capabilities = false;
        loop {
            let accelerator = VcpuAccelerator::Kvm { hide_arch_capabilities };
            let kernel = kernel.to_owned();
            match self.probe(&kernel, accelerator).await? {
                Probed::Ran => return Ok(KvmVerdict::Works { hide_arch_capabilities, kernel }),
                // Where KVM offers this feature and refuses to set it, QEMU falls before its guest's first instruction.
                Probed::Refused(_) if !hide_arch_capabilities => hide_arch_capabilities = true,
                Probed::Stopped(how) | Probed::Refused(how) => return Ok(KvmVerdict::Fails { how, kernel }),
            }
        }
    }

    /// Boots a kernel without anything else and leaves nothing of it.
    pub async fn probe(&self, kernel: &Path, accelerator: VcpuAccelerator) -> Result<Probed, KvmProbeError> {
        let uid: GuestUid = PROBE.parse()?;
        self.end_earlier_probe(uid).await?;
        let readable = self.readable_copy(kernel)?;
        let machine = MachineConfig {
            uid,
            generation: 1.try_into()?,
            cluster: "goliath".parse()?,
            name: "kvm-probe".parse()?,
            vcpus: 1,
            memory: ByteSize::mib(256),
            accelerator,
            cpu_model: None,
            boot: BootMethod::Kernel {
                kernel: readable.as_deref().unwrap_or(kernel).to_owned(),
                initrd: None,
                command_line: "console=ttyS0 panic=-1".to_owned(),
            },
            root_disk: None,
            data_disks: Vec::new(),
            seed: None,
            network: None,
            certificates: None,
            // So that nothing happens before someone looks.
            start_paused: true,
        };
        let probed = match self.launch(machine, Handed::default()).await {
            Ok(running) => {
                let probed = self.watch(&running, uid).await;
                if let Err(reason) = running.process.kill() {
                    tracing::warn!(%reason, "the QEMU that tried KVM is left over");
                }
                running.process.wait_exit().await;
                probed
            }
            Err(LaunchError::Exited { exit, stderr }) => Probed::Refused(format!("QEMU ended with {exit}: {stderr}")),
            Err(other) => Probed::Refused(with_causes(&other)),
        };
        let paths = self.paths(uid);
        for directory in [paths.runtime(), paths.state()] {
            files::remove_directory(directory).map_err(at("remove", directory))?;
        }
        if let Some(copy) = readable {
            files::remove(&copy).map_err(at("remove", &copy))?;
        }
        Ok(probed)
    }

    async fn watch(&self, running: &Running, uid: GuestUid) -> Probed {
        let ended = tokio::time::timeout(LIMIT, end_of(running)).await;
        let console = fs::read(self.paths(uid).console_log()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        match ended {
            // It missed its root disk, or whatever else it wanted: by then it ran.
            _ if console.contains("Kernel panic - not syncing") => Probed::Ran,
            Ok(how) => Probed::Stopped(format!("{how}, after {} bytes on its console", console.len())),
            Err(_) => Probed::Stopped(format!("nothing came of it in {LIMIT:?}")),
        }
    }

    /// Of an agent that was killed while it tried. The probe's uid is ours alone, and only its recorded process is ended.
    async fn end_earlier_probe(&self, uid: GuestUid) -> Result<(), KvmProbeError> {
        let in_the_way = |reason: &dyn std::fmt::Display| KvmProbeError::InTheWay { reason: reason.to_string() };
        match discover(&self.paths(uid), uid).await.map_err(|reason| in_the_way(&reason))? {
            Discovery::None => Ok(()),
            Discovery::Running(process, _) => {
                process.kill().map_err(|reason| in_the_way(&reason))?;
                process.wait_exit().await;
                Ok(())
            }
            Discovery::Stranger { reason, .. } => Err(in_the_way(&reason)),
        }
    }

    /// Some distributions keep their kernels from those who are not root; then a copy that QEMU's user can read.
    fn readable_copy(&self, kernel: &Path) -> Result<Option<PathBuf>, KvmProbeError> {
        let mode = fs::metadata(kernel).map_err(at("look at", kernel))?.mode();
        if mode & 0o004 != 0 {
            return Ok(None);
        }
        let copy = self.runtime().join("kvm-probe-kernel");
        fs::copy(kernel, &copy).map_err(at("copy", kernel))?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).map_err(at("open up", &copy))?;
        Ok(Some(copy))
    }

    fn remember(&self, verdict: &KvmVerdict) -> Result<(), KvmProbeError> {
        let path = self.kvm_record();
        let record = || -> io::Result<Vec<u8>> {
            let qemu = self.qemu_identity()?;
            Ok(serde_json::to_vec(&Remembered { boot_id: boot_id()?, qemu, verdict: verdict.clone() })?)
        };
        record().and_then(|text| files::write_whole(&path, &text, 0o600)).map_err(at("write", &path))
    }

    fn kvm_record(&self) -> PathBuf {
        self.runtime().join("kvm.json")
    }

    fn qemu_identity(&self) -> io::Result<QemuIdentity> {
        let path = self.binary().to_owned();
        let metadata = fs::metadata(&path)?;
        Ok(QemuIdentity { path, size: metadata.len(), modified: metadata.mtime() })
    }
}

/// Lets the vCPU go, and waits for whatever ends it.
async fn end_of(running: &Running) -> String {
    let mut events = running.qmp.events();
    if let Err(reason) = running.qmp.execute(schema::cont {}).await {
        return reason.to_string();
    }
    loop {
        match events.recv().await {
            Ok(QmpEvent::Known(event)) => match *event {
                schema::Event::SHUTDOWN { .. } => return "it reset itself".to_owned(),
                schema::Event::STOP { .. } => return stopped(running).await,
                _ => {}
            },
            Ok(QmpEvent::Other { .. }) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return "QEMU fell".to_owned(),
        }
    }
}

async fn stopped(running: &Running) -> String {
    match running.qmp.execute(schema::query_status {}).await {
        Ok(status) if status.status == schema::RunState::internal_error => {
            "KVM gave up on an instruction (internal error)".to_owned()
        }
        Ok(status) => format!("QEMU stopped it ({:?})", status.status),
        Err(reason) => reason.to_string(),
    }
}

/// The newest kernel in /boot.
pub fn host_kernel() -> Option<PathBuf> {
    let entries = fs::read_dir("/boot").ok()?.flatten();
    let kernels = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"));
    kernels.max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok()).map(|entry| entry.path())
}

/// Whether a uid is the probe's, which is no guest's.
pub(super) fn is_probe(uid: GuestUid) -> bool {
    PROBE.parse().is_ok_and(|probe: GuestUid| probe == uid)
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KvmProbeError {
    let path = path.to_owned();
    move |source| KvmProbeError::File { what, path, source }
}
