//! A blob from its registry, however often the connection breaks.

use std::time::Duration;

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_RANGE},
};
use tokio::sync::mpsc;
use tokio_util::bytes::{Buf as _, Bytes};
use tracing::{debug, warn};

use super::{Chain, Endpoint, ImageError, Repository};
use crate::image::manifest::Descriptor;

/// Attempts in a row that bring nothing, before an endpoint is given up.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Waits longer each time, and gives up in the end.
pub(super) struct Backoff {
    attempts_left: u32,
    pause: Duration,
}

impl Backoff {
    pub(super) fn new(attempts: u32) -> Self {
        Self { attempts_left: attempts, pause: FIRST_PAUSE }
    }

    /// Gives the error back when there were enough attempts.
    pub(super) async fn pause(&mut self, error: ImageError) -> Result<(), ImageError> {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        if self.attempts_left == 0 {
            return Err(error);
        }
        debug!(error = %Chain(&error), pause = ?self.pause, "a request failed and is repeated");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// How an attempt ended that did not fail.
enum Ended {
    Complete,
    /// Nobody reads on; whoever stopped knows why.
    Unread,
}

impl Repository {
    /// Sends the blob's bytes from `offset` on to `sink`, over as many connections and endpoints as it takes.
    ///
    /// Ends well too when the receiver is gone.
    pub(in crate::image) async fn download(
        &self,
        blob: &Descriptor,
        mut offset: u64,
        sink: mpsc::Sender<Bytes>,
    ) -> Result<(), ImageError> {
        if offset == blob.size {
            return Ok(());
        }
        let mut outcome = Err(ImageError::NotFound { what: blob.digest.to_string() });
        for endpoint in self.endpoints.iter() {
            if let Err(error) = &outcome
                && !matches!(error, ImageError::NotFound { .. })
            {
                warn!(error = %Chain(error), next = endpoint.registry, "a mirror failed");
            }
            outcome = endpoint.download(blob, &mut offset, &sink).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

impl Endpoint {
    async fn download(
        &self,
        blob: &Descriptor,
        offset: &mut u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), ImageError> {
        let mut attempts = Backoff::new(ATTEMPTS);
        loop {
            let before = *offset;
            match self.attempt(blob, offset, sink).await {
                Ok(Ended::Complete | Ended::Unread) => return Ok(()),
                Err(error @ ImageError::Unavailable { .. }) => {
                    if *offset > before {
                        attempts = Backoff::new(ATTEMPTS);
                    }
                    attempts.pause(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        blob: &Descriptor,
        offset: &mut u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<Ended, ImageError> {
        let path = format!("blobs/{}", blob.digest);
        let mut response = self.get(&path, (*offset > 0).then_some(*offset)).await?;
        let mut unwanted = self.check_extent(&response, blob, *offset)?;
        while let Some(mut bytes) = response.chunk().await.map_err(|reason| self.failed(&path, reason))? {
            let skipped = unwanted.min(bytes.len() as u64);
            unwanted -= skipped;
            bytes.advance(usize::try_from(skipped).unwrap_or(bytes.len()));
            if bytes.is_empty() {
                continue;
            }
            *offset += bytes.len() as u64;
            if sink.send(bytes).await.is_err() {
                return Ok(Ended::Unread);
            }
        }
        if *offset < blob.size {
            return Err(self.failed(&path, format!("it ended after {} of {} bytes", *offset, blob.size)));
        }
        Ok(Ended::Complete)
    }

    /// Whether the answer is what was asked for, as far as its headers tell; and how many of its bytes are known
    /// already, which are those of a server that does not resume.
    fn check_extent(&self, response: &Response, blob: &Descriptor, offset: u64) -> Result<u64, ImageError> {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (start, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
            header(CONTENT_RANGE)
                .and_then(content_range)
                .ok_or_else(|| self.failed("blobs", "it answers with a part and does not say which"))?
        } else {
            (0, header(CONTENT_LENGTH).and_then(|text| text.parse().ok()))
        };
        if let Some(total) = total.filter(|total| *total != blob.size) {
            return Err(ImageError::refused(format!(
                "its blob {} has {total} bytes in {}, and its manifest states {}",
                blob.digest, self.registry, blob.size
            )));
        }
        offset
            .checked_sub(start)
            .ok_or_else(|| self.failed("blobs", format!("it answers from byte {start} instead of {offset}")))
    }
}

/// `bytes 100-199/200`: the start, and the whole's size where it is known (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read() {
        assert_eq!(content_range("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(content_range("bytes 100-199/*"), Some((100, None)));
        for bad in ["", "bytes */200", "items 0-1/2", "bytes 1/2", "bytes -5-9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
