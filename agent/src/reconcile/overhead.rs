//! Looks now and then at what QEMUs take beside their guests' memory.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::rooms::Rooms;
use crate::{
    admission::{MachineKind, Overheads},
    certs::Virtiofsd,
    qemu,
    spec::{ByteSize, GuestSpec},
};

/// Guests that were found again, or that start with the machine, have booted by then.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// It changes slowly, and only what grows is of interest.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// Measures the guests that run, for as long as somebody wants to know; starts from the configured guess.
pub fn measure_overheads(rooms: Arc<Rooms>, floor: ByteSize) -> watch::Receiver<Overheads> {
    let (told, overheads) = watch::channel(Overheads::at_least(floor));
    tokio::spawn(async move {
        let mut looks = interval_at(Instant::now() + FIRST_LOOK, LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = told.closed() => return,
                _ = looks.tick() => look(&rooms, &told).await,
            }
        }
    });
    overheads
}

/// One guest after the other: nobody is in a hurry.
async fn look(rooms: &Arc<Rooms>, told: &watch::Sender<Overheads>) {
    let records = rooms.ledger.snapshot().guests;
    for (uid, record) in records.iter() {
        let process = || rooms.observed.guest(*uid)?.status.process.as_ref().map(|process| process.pid);
        let runs_its_spec = |uid| {
            rooms.observed.guest(uid).is_some_and(|seen| seen.status.running_generation == Some(record.spec.generation))
        };
        let Some(pid) = process().filter(|_| runs_its_spec(*uid)) else { continue };
        let measured = measure(rooms, &record.spec, pid).await;
        // A process that ended meanwhile may have been measured half, or another one for it.
        let Some(measured) = measured.filter(|_| process() == Some(pid)) else { continue };
        let kind = MachineKind::of(&record.spec);
        if told.send_if_modified(|overheads| overheads.saw(kind, measured)) {
            tracing::info!(guest = %uid, %measured, ?kind, "a QEMU takes more beside its guest's memory than was known");
        }
    }
}

async fn measure(rooms: &Arc<Rooms>, spec: &GuestSpec, pid: i32) -> Option<ByteSize> {
    let virtiofsd = Virtiofsd::find(rooms.launcher.paths(spec.uid).runtime()).ok().flatten();
    let guest = spec.machine.memory;
    let measured = tokio::task::spawn_blocking(move || {
        let of_qemu = qemu::memory::beside_guest(pid, guest)?;
        let of_virtiofsd = virtiofsd.map(|process| qemu::memory::private(process.pid())).transpose()?;
        let add = |size: ByteSize| size.get().saturating_add(of_virtiofsd.unwrap_or_default().get());
        std::io::Result::Ok(of_qemu.map(|size| ByteSize::bytes(add(size))))
    });
    // It may have ended just now; the next look sees the next one.
    measured.await.ok()?.ok()?
}
