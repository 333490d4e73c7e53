use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Conditions;
use crate::spec::{Digest, Generation, MacAddress};

/// What was seen of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestStatus {
    /// Where it is on its way.
    pub phase: GuestPhase,
    /// ImageReady, NetworkReady, CertificatesReady, VolumesReady, Running, Booted, Ready, RestartRequired, Deleting.
    pub conditions: Conditions,
    /// The generation that the running QEMU was started with.
    pub running_generation: Option<Generation>,
    /// The generation that the agent last worked on.
    pub observed_generation: Option<Generation>,
    /// While a QEMU is there.
    pub process: Option<ProcessStatus>,
    /// Of the image as resolved.
    pub image_digest: Option<Digest>,
    /// Of its interface.
    pub mac_address: Option<MacAddress>,
    /// How often QEMU was started again since the guest was accepted.
    pub restart_count: u32,
    /// The last end of QEMU.
    pub last_exit: Option<Exit>,
    /// In [`GuestPhase::Backoff`]: when it is tried again.
    pub next_attempt: Option<Timestamp>,
}

/// Where a guest is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GuestPhase {
    /// Written down.
    #[default]
    Accepted,
    /// Image, network and volumes are being made ready.
    Preparing,
    /// QEMU was started and did not answer `running` yet.
    Starting,
    /// QMP says `running`.
    Running,
    /// QMP says `paused`, or that it was never started.
    Paused,
    /// Being shut down.
    Stopping,
    /// No QEMU, as asked.
    Stopped,
    /// Waits before the next try.
    Backoff,
    /// Ended and, by its restart policy, stays so.
    Failed,
    /// There is a QEMU of this uid that the agent does not know.
    Quarantined,
}

/// A QEMU that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its number, for people: the agent signals by pidfd.
    pub pid: i32,
    /// When it was started.
    pub started_at: Timestamp,
    /// What runs its vCPUs.
    pub accelerator: ChosenAccelerator,
    /// As QMP says; empty until it did.
    pub qemu_version: String,
}

/// What runs the vCPUs, as chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChosenAccelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// How a QEMU ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What ended it.
    pub reason: ExitReason,
    /// A sentence for people.
    pub message: String,
    /// When that was seen.
    pub time: Timestamp,
}

/// What ended a QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest asked for a reset, which ends QEMU here.
    GuestReset,
    /// We stopped it.
    Stopped {
        /// Which step of the shutdown contract ended it.
        step: ShutdownStep,
    },
    /// QEMU ended by itself or by a signal.
    Crashed,
    /// It ended while no agent watched.
    Unobserved,
    /// QEMU refused to start.
    LaunchFailed,
}

/// A step of the shutdown contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ShutdownStep {
    /// The ACPI power button, repeated.
    PowerButton,
    /// The guest agent was asked.
    GuestAgent,
    /// QMP `quit`.
    Quit,
    /// SIGKILL, by pidfd.
    Kill,
}
