//! What is kept of the serial console's output, then what comes.

use std::io;

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::agent::v1 as pb;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{known, paths};
use crate::{
    api::{
        Context,
        errors::{self, Precondition},
    },
    qemu::{ConsoleLog, LogReader},
    spec::{ByteSize, GuestUid},
};

pub(super) fn console_log(
    context: &Context,
    request: &pb::ConsoleLogRequest,
) -> Result<BoxStream<'static, Result<pb::ConsoleLogResponse, Status>>, Status> {
    let uid = known(context, &request.uid)?;
    let limit = ByteSize::bytes(context.config.qemu.console_log_kib.saturating_mul(1024));
    let log = ConsoleLog::new(paths(context, uid).console_log(), limit);
    let reader = log.reader((request.tail_bytes > 0).then_some(request.tail_bytes));
    let reader = reader.map_err(|error| not_there(&error, uid))?;
    let follower = Follower { reader, follow: request.follow, shutdown: context.shutdown.clone(), ended: false };
    Ok(stream::unfold(follower, |mut follower| async { follower.next().await.map(|chunk| (chunk, follower)) }).boxed())
}

fn not_there(error: &io::Error, uid: GuestUid) -> Status {
    if error.kind() != io::ErrorKind::NotFound {
        return errors::internal(error);
    }
    errors::failed_precondition(&[Precondition {
        reason: "NEVER_STARTED",
        subject: format!("guest {uid}"),
        description: format!("guest {uid} has no console log: it was never started on this host"),
    }])
}

struct Follower {
    reader: LogReader,
    follow: bool,
    shutdown: CancellationToken,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<pb::ConsoleLogResponse, Status>> {
        if self.ended {
            return None;
        }
        let chunk = if self.follow {
            tokio::select! {
                () = self.shutdown.cancelled() => {
                    self.ended = true;
                    return Some(Err(errors::shutting_down()));
                }
                chunk = self.reader.follow() => chunk,
            }
        } else {
            self.reader.next().await
        };
        match chunk {
            Ok(chunk) => chunk.map(|data| Ok(pb::ConsoleLogResponse { data: data.into() })),
            Err(error) => {
                self.ended = true;
                Some(Err(errors::internal(&error)))
            }
        }
    }
}
