//! What ended a QEMU: a pure function of what was heard of it.

use jiff::Timestamp;

use crate::{
    observed::{Exit, ExitReason},
    qemu::{
        ProcessExit, QmpEvent,
        qmp::schema::{Event, ShutdownCause},
    },
};

/// What QEMU said that foretells its end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Omens {
    panicked: bool,
    shutdown: Option<ShutdownCause>,
}

impl Omens {
    pub(super) fn hear(&mut self, event: &QmpEvent) {
        let QmpEvent::Known(event) = event else { return };
        match event.as_ref() {
            Event::GUEST_PANICKED { .. } => self.panicked = true,
            Event::SHUTDOWN { data, .. } => self.shutdown = Some(data.reason),
            _ => {}
        }
    }

    /// `exit` is how the process ended.
    pub(super) fn explain(self, exit: ProcessExit) -> Exit {
        let (reason, message) = match self.shutdown {
            _ if self.panicked => {
                (ExitReason::GuestPanic, "the guest's kernel panicked; its console log ends with why".to_owned())
            }
            Some(ShutdownCause::guest_panic) => {
                (ExitReason::GuestPanic, "the guest's kernel panicked; its console log ends with why".to_owned())
            }
            Some(ShutdownCause::guest_shutdown) => {
                (ExitReason::GuestShutdown, "the guest powered itself off".to_owned())
            }
            Some(ShutdownCause::guest_reset | ShutdownCause::subsystem_reset | ShutdownCause::snapshot_load) => {
                (ExitReason::GuestReset, "the guest asked for a reset".to_owned())
            }
            Some(ShutdownCause::host_signal) => {
                (ExitReason::Crashed, "somebody on the host ended QEMU by a signal".to_owned())
            }
            Some(cause) => (ExitReason::Crashed, format!("QEMU ended itself ({cause:?}, {exit})")),
            None => (ExitReason::Crashed, format!("QEMU ended without a word ({exit})")),
        };
        Exit { reason, message, time: Timestamp::now() }
    }
}
