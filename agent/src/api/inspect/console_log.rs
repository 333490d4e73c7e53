//! What is kept of the serial console's output, then what comes.

use std::io;

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::agent::v1 as pb;
use tokio::sync::watch;
use tokio_util::{bytes::Bytes, sync::CancellationToken};
use tonic::Status;

use super::{known, paths};
use crate::{
    api::{
        Context,
        errors::{self, Precondition},
    },
    ledger::GuestRecords,
    observed::{GuestWatch, Observed, TooOld},
    qemu::{ConsoleLog, LogReader},
    spec::{ByteSize, GuestUid},
};

pub(super) fn console_log(
    context: &Context,
    request: &pb::ConsoleLogRequest,
) -> Result<BoxStream<'static, Result<pb::ConsoleLogResponse, Status>>, Status> {
    let uid = known(context, &request.uid)?;
    let limit = ByteSize::bytes(context.config.qemu.console_log_kib.saturating_mul(1024));
    let wanted = Wanted {
        log: ConsoleLog::new(paths(context, uid).console_log(), limit),
        tail: (request.tail_bytes > 0).then_some(request.tail_bytes),
    };
    let source = match wanted.open() {
        Ok(reader) => Source::Open(reader),
        Err(error) if error.kind() == io::ErrorKind::NotFound && request.follow => {
            Source::Awaited(Awaited::new(context, uid, wanted))
        }
        Err(error) => return Err(not_there(&error, uid)),
    };
    let follower = Follower { source, follow: request.follow, shutdown: context.shutdown.clone(), ended: false };
    Ok(stream::unfold(follower, |mut follower| async { follower.next().await.map(|chunk| (chunk, follower)) }).boxed())
}

fn not_there(error: &io::Error, uid: GuestUid) -> Status {
    if error.kind() != io::ErrorKind::NotFound {
        return errors::internal(error);
    }
    errors::failed_precondition(&[Precondition {
        reason: "NEVER_STARTED",
        subject: format!("guest {uid}"),
        description: format!(
            "guest {uid} has no console log: it was never started on this host; follow the log to wait for it"
        ),
    }])
}

/// A log, and how much of it.
struct Wanted {
    log: ConsoleLog,
    tail: Option<u64>,
}

impl Wanted {
    fn open(&self) -> io::Result<LogReader> {
        self.log.reader(self.tail)
    }
}

enum Source {
    /// The guest was never started.
    Awaited(Awaited),
    Open(LogReader),
}

/// A log that comes with its guest's first start.
struct Awaited {
    wanted: Wanted,
    uid: GuestUid,
    guests: watch::Receiver<GuestRecords>,
    observed: Observed,
    changes: Result<GuestWatch, TooOld>,
}

impl Awaited {
    fn new(context: &Context, uid: GuestUid, wanted: Wanted) -> Self {
        let observed = context.observed.clone();
        let changes = observed.watch_guests(observed.guests().0);
        Self { wanted, uid, guests: context.ledger.guests(), observed, changes }
    }

    /// None: the guest was deleted before it was started. Dropping it loses nothing.
    async fn open(&mut self) -> io::Result<Option<LogReader>> {
        loop {
            // Looked at after the watch began, and after each change: a start is seen in the status after its log is there.
            match self.wanted.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map(Some),
            }
            if !self.guests.borrow_and_update().contains_key(&self.uid) {
                return Ok(None);
            }
            tokio::select! {
                changed = self.guests.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
                () = changed(self.uid, &self.observed, &mut self.changes) => {}
            }
        }
    }
}

/// Waits until anything is seen of a guest.
async fn changed(uid: GuestUid, observed: &Observed, changes: &mut Result<GuestWatch, TooOld>) {
    loop {
        let seen = match changes {
            Ok(watch) => watch.next().await,
            Err(gone) => Err(*gone),
        };
        match seen {
            Ok(seen) if seen.iter().any(|change| change.uid == uid) => return,
            Ok(_) => {}
            // What happened meanwhile is not known: it may have been our guest.
            Err(_) => {
                *changes = observed.watch_guests(observed.guests().0);
                return;
            }
        }
    }
}

struct Follower {
    source: Source,
    follow: bool,
    shutdown: CancellationToken,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<pb::ConsoleLogResponse, Status>> {
        if self.ended {
            return None;
        }
        let shutdown = self.shutdown.clone();
        let chunk = tokio::select! {
            () = shutdown.cancelled(), if self.follow => {
                self.ended = true;
                return Some(Err(errors::shutting_down()));
            }
            chunk = self.chunk() => chunk,
        };
        match chunk {
            Ok(chunk) => chunk.map(|data| Ok(pb::ConsoleLogResponse { data: data.into() })),
            Err(error) => {
                self.ended = true;
                Some(Err(errors::internal(&error)))
            }
        }
    }

    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match &mut self.source {
                Source::Awaited(awaited) => match awaited.open().await? {
                    Some(reader) => self.source = Source::Open(reader),
                    None => return Ok(None),
                },
                Source::Open(reader) if self.follow => return reader.follow().await,
                Source::Open(reader) => return reader.next().await,
            }
        }
    }
}
