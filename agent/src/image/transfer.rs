//! One blob's way: network or file -> hash and partial file -> decompression and unpacking.
//!
//! ```text
//! download (task) --16 chunks--> intake (thread): SHA-256, partial file --16 chunks--> unpacking (thread)
//! ```
//!
//! All three work at once, and what is between them is bounded, so memory stays flat whatever the blob's size.
//!
//! The compressed bytes are kept in a partial file until the image is published: a hash and a decompressor cannot be
//! put aside and taken up again, bytes can. A download that broke off, in this process or in one before, reads them
//! back (much faster than from the network) and goes on where they end.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc as threads,
};

use aws_lc_rs::digest;
use tokio::sync::mpsc;
use tokio_util::{bytes::Bytes, sync::CancellationToken};

use super::{ImageError, archive::Fault, manifest::Descriptor, pull::Meter, registry::Repository};
use crate::spec::Digest;

/// Chunks between two stages. The network's have up to 400 KiB.
const DEPTH: usize = 16;
const READ_SIZE: usize = 256 << 10;

/// Where a blob comes from.
#[derive(Clone)]
pub(super) enum Origin {
    /// A registry; what was read is kept in `partial`.
    Registry { repository: Repository, partial: PathBuf },
    /// A file on this machine.
    File(PathBuf),
}

/// Why a transfer failed.
#[derive(Debug)]
pub(super) enum TransferError {
    /// The hash is wrong, and part of the bytes came from an earlier attempt's file: a crash may have damaged that.
    DamagedPartial,
    Failed(ImageError),
}

impl From<ImageError> for TransferError {
    fn from(error: ImageError) -> Self {
        Self::Failed(error)
    }
}

/// Moves one blob and unpacks it with `unpack`, which has to read to the end.
///
/// It gives success only where size and hash are the descriptor's; until then nothing that `unpack` wrote may be
/// used. When this returns, all of its threads have ended. A partial file stays where it is.
pub(super) async fn transfer<T: Send + 'static>(
    origin: &Origin,
    blob: &Descriptor,
    meter: &Meter,
    stop: &CancellationToken,
    unpack: impl FnOnce(Chunks) -> Result<T, Fault> + Send + 'static,
) -> Result<T, TransferError> {
    let (to_unpacking, chunks) = threads::sync_channel(DEPTH);
    let mut intake = Intake {
        hash: digest::Context::new(&digest::SHA256),
        blob: blob.clone(),
        length: 0,
        meter: meter.clone(),
        unpacking: to_unpacking,
        stop: stop.clone(),
    };
    let unpacking = tokio::task::spawn_blocking(move || run_unpacking(chunks, unpack));
    let (downloaded, taken) = match origin {
        Origin::File(path) => {
            let path = path.clone();
            (Ok(()), tokio::task::spawn_blocking(move || intake.take_file(&path)).await)
        }
        Origin::Registry { repository, partial } => {
            let partial = Partial::open(partial, blob.size)?;
            let resumed = partial.length;
            let (sink, from_network) = mpsc::channel(DEPTH);
            let intake = tokio::task::spawn_blocking(move || intake.take_download(partial, from_network));
            let download = stop.run_until_cancelled(repository.download(blob, resumed, sink));
            let (downloaded, taken) = tokio::join!(download, intake);
            (downloaded.unwrap_or(Err(ImageError::Cancelled)), taken)
        }
    };
    let unpacked = unpacking.await.map_err(ImageError::lost_thread)?;
    // The first stage's failure is the reason for the others'.
    downloaded?;
    let verdict = taken.map_err(ImageError::lost_thread)??;
    match (verdict, unpacked) {
        (Verdict::Verified, Ok(result)) => Ok(result),
        (_, Err(Fault::Final(error))) => Err(error.into()),
        (_, Err(Fault::Stream(reason))) => {
            Err(ImageError::refused_because(format!("its layer {} cannot be unpacked", blob.digest), reason).into())
        }
        // Unpacking ends well only at the mark that the intake sets when all is verified.
        (Verdict::Abandoned, Ok(_)) => {
            Err(ImageError::refused(format!("its layer {} goes on after its end", blob.digest)).into())
        }
    }
}

fn run_unpacking<T>(
    receiver: threads::Receiver<Piece>,
    unpack: impl FnOnce(Chunks) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let (returned, drain) = threads::channel();
    let result = unpack(Chunks { receiver: Some(receiver), current: Bytes::new(), returned });
    // Damaged bytes: let the rest be hashed, so that the error can be that the hash is wrong.
    if let (Err(Fault::Stream(_)), Ok(rest)) = (&result, drain.try_recv()) {
        rest.into_iter().for_each(drop);
    }
    result
}

enum Piece {
    Data(Bytes),
    /// All there is, with the right size and hash.
    Verified,
}

/// The blob's bytes as a reader. Ends only after the hash was found right.
pub(super) struct Chunks {
    /// None at the end.
    receiver: Option<threads::Receiver<Piece>>,
    current: Bytes,
    /// Where the receiver goes when the reader is dropped before the end.
    returned: threads::Sender<threads::Receiver<Piece>>,
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            let Some(receiver) = &self.receiver else { return Ok(&[]) };
            match receiver.recv() {
                Ok(Piece::Data(bytes)) => self.current = bytes,
                Ok(Piece::Verified) => self.receiver = None,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob was not read to its end")),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        let _ = self.current.split_to(amount);
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            let _ = self.returned.send(receiver);
        }
    }
}

enum Verdict {
    Verified,
    /// Unpacking ended before the blob did.
    Abandoned,
}

/// Nobody unpacks any more.
struct Gone;

struct Intake {
    hash: digest::Context,
    blob: Descriptor,
    length: u64,
    meter: Meter,
    unpacking: threads::SyncSender<Piece>,
    stop: CancellationToken,
}

impl Intake {
    fn take_file(&mut self, path: &Path) -> Result<Verdict, TransferError> {
        let mut file = super::layout::open_regular(path)?;
        match self.take_reader(&mut file, path, u64::MAX)? {
            Err(Gone) => Ok(Verdict::Abandoned),
            Ok(()) => self.conclude(false),
        }
    }

    fn take_download(
        mut self,
        mut partial: Partial,
        mut network: mpsc::Receiver<Bytes>,
    ) -> Result<Verdict, TransferError> {
        let resumed = partial.length > 0;
        let path = partial.path.clone();
        if resumed && self.take_reader(&mut partial.file, &path, partial.length)?.is_err() {
            return Ok(Verdict::Abandoned);
        }
        while let Some(bytes) = network.blocking_recv() {
            // First what keeps the next stage busy.
            if self.pass(&bytes)?.is_err() {
                return Ok(Verdict::Abandoned);
            }
            partial.file.write_all(&bytes).map_err(ImageError::storage("write", &path))?;
            self.account(&bytes);
        }
        self.conclude(resumed)
    }

    fn take_reader(&mut self, reader: &mut File, path: &Path, limit: u64) -> Result<Result<(), Gone>, ImageError> {
        let mut left = limit;
        while left > 0 {
            if self.stop.is_cancelled() {
                return Err(ImageError::Cancelled);
            }
            let mut chunk = vec![0; usize::try_from(left).map_or(READ_SIZE, |left| left.min(READ_SIZE))];
            let count = reader.read(&mut chunk).map_err(ImageError::storage("read", path))?;
            if count == 0 {
                break;
            }
            chunk.truncate(count);
            let bytes = Bytes::from(chunk);
            if self.pass(&bytes)?.is_err() {
                return Ok(Err(Gone));
            }
            self.account(&bytes);
            left -= count as u64;
        }
        Ok(Ok(()))
    }

    fn pass(&mut self, bytes: &Bytes) -> Result<Result<(), Gone>, ImageError> {
        self.length += bytes.len() as u64;
        if self.length > self.blob.size {
            return Err(self.wrong_size("more"));
        }
        Ok(self.unpacking.send(Piece::Data(bytes.clone())).map_err(|_| Gone))
    }

    fn account(&mut self, bytes: &Bytes) {
        self.hash.update(bytes);
        self.meter.show(self.length);
    }

    fn wrong_size(&self, than: &str) -> ImageError {
        let Descriptor { digest, size, .. } = &self.blob;
        ImageError::refused(format!("its blob {digest} has {than} than the {size} bytes that the manifest states"))
    }

    fn conclude(&mut self, resumed: bool) -> Result<Verdict, TransferError> {
        if self.length < self.blob.size {
            return Err(self.wrong_size("less").into());
        }
        let hash = self.hash.clone().finish();
        let found = <&[u8; 32]>::try_from(hash.as_ref()).map(Digest::from_sha256).map_err(ImageError::lost_thread)?;
        if found != self.blob.digest {
            if resumed {
                return Err(TransferError::DamagedPartial);
            }
            return Err(TransferError::Failed(ImageError::refused(format!(
                "its blob {} has the hash {found}: it was changed or damaged",
                self.blob.digest
            ))));
        }
        match self.unpacking.send(Piece::Verified) {
            Ok(()) => Ok(Verdict::Verified),
            Err(_) => Ok(Verdict::Abandoned),
        }
    }
}

/// What earlier attempts left of a blob.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Partial {
    /// Positioned at its beginning.
    fn open(path: &Path, size: u64) -> Result<Self, ImageError> {
        let open = || -> io::Result<(File, u64)> {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            let mut length = file.metadata()?.len();
            if length > size {
                file.set_len(0)?;
                length = 0;
            }
            file.rewind()?;
            Ok((file, length))
        };
        let (file, length) = open().map_err(ImageError::storage("open", path))?;
        Ok(Self { path: path.to_owned(), file, length })
    }
}
