//! What an agent saw of a guest.

use goliath_proto::agent::v1 as pb;

use super::{accelerator, conditions, counted, filled, time};
use crate::objects::{Exit, ExitReason, GuestPhase, GuestStatus, HostName, Process, ShutdownStep};

/// As the object's status; the operator's own conditions are not in it. What a newer agent says and this version does
/// not understand is left out.
pub fn guest_status(host: &HostName, told: &pb::GuestStatus) -> GuestStatus {
    GuestStatus {
        phase: phase(told.phase()),
        conditions: conditions(&told.conditions),
        host: Some(host.clone()),
        observed_generation: counted(told.observed_generation),
        running_generation: counted(told.running_generation),
        process: told.process.as_ref().and_then(process),
        image_digest: filled(&told.image_digest).and_then(|text| text.parse().ok()),
        mac_address: filled(&told.mac_address).and_then(|text| text.parse().ok()),
        restart_count: told.restart_count,
        last_exit: told.last_exit.as_ref().and_then(exit),
        next_attempt_time: time(told.next_attempt_time.as_ref()),
    }
}

fn phase(told: pb::GuestPhase) -> Option<GuestPhase> {
    match told {
        pb::GuestPhase::Unspecified => None,
        pb::GuestPhase::Accepted => Some(GuestPhase::Accepted),
        pb::GuestPhase::Preparing => Some(GuestPhase::Preparing),
        pb::GuestPhase::Starting => Some(GuestPhase::Starting),
        pb::GuestPhase::Running => Some(GuestPhase::Running),
        pb::GuestPhase::Paused => Some(GuestPhase::Paused),
        pb::GuestPhase::Stopping => Some(GuestPhase::Stopping),
        pb::GuestPhase::Stopped => Some(GuestPhase::Stopped),
        pb::GuestPhase::Backoff => Some(GuestPhase::Backoff),
        pb::GuestPhase::Failed => Some(GuestPhase::Failed),
        pb::GuestPhase::Quarantined => Some(GuestPhase::Quarantined),
    }
}

fn process(told: &pb::Process) -> Option<Process> {
    Some(Process {
        pid: told.pid,
        started_at: time(told.started_at.as_ref())?,
        accelerator: accelerator(told.accelerator())?,
        qemu_version: told.qemu_version.clone(),
    })
}

fn exit(told: &pb::Exit) -> Option<Exit> {
    let reason = match told.reason() {
        pb::ExitReason::Unspecified => return None,
        pb::ExitReason::GuestShutdown => ExitReason::GuestShutdown,
        pb::ExitReason::GuestPanic => ExitReason::GuestPanic,
        pb::ExitReason::GuestReset => ExitReason::GuestReset,
        pb::ExitReason::Stopped => ExitReason::Stopped,
        pb::ExitReason::Crashed => ExitReason::Crashed,
        pb::ExitReason::Unobserved => ExitReason::Unobserved,
        pb::ExitReason::LaunchFailed => ExitReason::LaunchFailed,
    };
    let shutdown_step = match told.shutdown_step() {
        pb::ShutdownStep::Unspecified => None,
        pb::ShutdownStep::PowerButton => Some(ShutdownStep::PowerButton),
        pb::ShutdownStep::GuestAgent => Some(ShutdownStep::GuestAgent),
        pb::ShutdownStep::Quit => Some(ShutdownStep::Quit),
        pb::ShutdownStep::Kill => Some(ShutdownStep::Kill),
    };
    Some(Exit { reason, message: told.message.clone(), time: time(told.time.as_ref())?, shutdown_step })
}
