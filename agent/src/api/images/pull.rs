//! Progress as a stream. The pull goes on while somebody listens, and what was downloaded is kept for the next time.

use std::{sync::Arc, time::Duration};

use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};
use goliath_proto::agent::v1::{self as pb, pull_image_response::Phase};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::Status;

use super::{failed, render_image};
use crate::{
    api::{Context, errors, render},
    image::{Image, ImageError, PullProgress},
    spec::ImageReference,
};

/// Progress is told at most this often: a person cannot see more.
const BETWEEN_MESSAGES: Duration = Duration::from_millis(100);

pub(super) fn pull(
    context: &Context,
    reference: &ImageReference,
) -> BoxStream<'static, Result<pb::PullImageResponse, Status>> {
    let pull = context.images.pull(reference);
    let mut progress = pull.progress();
    progress.mark_changed();
    let listener = Listener {
        context: context.clone(),
        reference: reference.clone(),
        progress,
        not_before: Instant::now(),
        finish: Some(Box::pin(pull.finish())),
    };
    stream::unfold(listener, |mut listener| async { listener.next().await.map(|message| (message, listener)) }).boxed()
}

struct Listener {
    context: Context,
    reference: ImageReference,
    progress: watch::Receiver<PullProgress>,
    not_before: Instant,
    /// None: all was told.
    finish: Option<BoxFuture<'static, Result<Arc<Image>, Arc<ImageError>>>>,
}

impl Listener {
    async fn next(&mut self) -> Option<Result<pb::PullImageResponse, Status>> {
        let finish = self.finish.as_mut()?;
        let (progress, not_before) = (&mut self.progress, self.not_before);
        let moved = async {
            loop {
                sleep_until(not_before).await;
                if progress.changed().await.is_err() {
                    // The end follows.
                    std::future::pending::<()>().await;
                }
                if let Some(message) = render::progress(*progress.borrow_and_update()) {
                    return message;
                }
            }
        };
        let finished = tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => Err(errors::shutting_down()),
            finished = finish => finished.map_err(|error| failed(&error, &self.reference)),
            message = moved => {
                self.not_before = Instant::now() + BETWEEN_MESSAGES;
                return Some(Ok(message));
            }
        };
        self.finish = None;
        Some(finished.map(|image| {
            let progress = *self.progress.borrow();
            pb::PullImageResponse {
                phase: Phase::Done.into(),
                downloaded_bytes: progress.downloaded.get(),
                total_bytes: progress.total.map_or(0, crate::spec::ByteSize::get),
                image: Some(render_image(&self.context, &image)),
            }
        }))
    }
}
