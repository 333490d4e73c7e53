//! The log that QEMU appends to by itself, whether an agent runs or not.
//!
//! It is bounded by taking away its front: the blocks are given back to the file system and leave a hole, so offsets
//! keep their meaning for those who read along. While no agent runs it can outgrow its limit; the next one trims it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
    unistd::{Whence, lseek},
};
use tokio::io::unix::AsyncFd;
use tokio_util::bytes::Bytes;

use super::readiness::readable;
use crate::spec::ByteSize;

const BLOCK: u64 = 4096;
/// Of one read.
const CHUNK: usize = 64 << 10;
/// A guest that writes without end costs one look in this time.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// A log with a bound.
#[derive(Debug, Clone)]
pub struct ConsoleLog {
    path: PathBuf,
    limit: u64,
}

/// Reads a log, and along with it.
#[derive(Debug)]
pub struct LogReader {
    file: Arc<File>,
    offset: u64,
    changes: Changes,
}

impl ConsoleLog {
    /// A log at this path of which at least `limit` is kept.
    pub fn new(path: PathBuf, limit: ByteSize) -> Self {
        Self { path, limit: limit.get() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the front away when there is a quarter too much; blocks for a moment. No log is a short log.
    pub fn trim(&self) -> io::Result<()> {
        let file = match File::options().write(true).open(&self.path) {
            Ok(file) => file,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(reason) => return Err(reason),
        };
        let end = file.metadata()?.len();
        let start = kept_from(&file, end)?;
        let keep_from = end.saturating_sub(self.limit) / BLOCK * BLOCK;
        if end - start.min(end) <= self.limit + self.limit / 4 + BLOCK || keep_from == 0 {
            return Ok(());
        }
        let length = i64::try_from(keep_from).map_err(io::Error::other)?;
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&file, hole, 0, length)?)
    }

    /// Trims for as long as it is polled; costs nothing while the guest is quiet.
    pub async fn keep_bounded(&self) -> io::Result<std::convert::Infallible> {
        let mut changes = Changes::of(&self.path)?;
        loop {
            let log = self.clone();
            tokio::task::spawn_blocking(move || log.trim()).await.map_err(io::Error::other)??;
            changes.next().await?;
            tokio::time::sleep(TRIM_INTERVAL).await;
        }
    }

    /// Reads what is kept, or the last `tail` bytes of it, from the start of a line. Without a log: NotFound.
    pub fn reader(&self, tail: Option<u64>) -> io::Result<LogReader> {
        let file = File::open(&self.path)?;
        // Before the first read, so that what comes after that is not missed.
        let changes = Changes::of(&self.path)?;
        let end = file.metadata()?.len();
        let kept = kept_from(&file, end)?;
        let from = tail.map_or(kept, |tail| kept.max(end.saturating_sub(tail)));
        let offset = start_of_line(&file, from)?;
        Ok(LogReader { file: Arc::new(file), offset, changes })
    }
}

impl LogReader {
    /// What comes next of what is there; none at the end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let (chunk, next) =
            tokio::task::spawn_blocking(move || read_at(&file, offset)).await.map_err(io::Error::other)??;
        self.offset = next;
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// What comes next, whenever that is; none when the log was removed. Dropping it loses nothing.
    pub async fn follow(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(chunk) = self.next().await? {
                return Ok(Some(chunk));
            }
            if self.file.metadata()?.nlink() == 0 {
                return Ok(None);
            }
            self.changes.next().await?;
        }
    }
}

/// Where the first byte is that was not taken away.
fn kept_from(file: &File, end: u64) -> io::Result<u64> {
    match lseek(file, 0, Whence::SeekData) {
        Ok(offset) => Ok(offset.cast_unsigned()),
        // No data at all.
        Err(nix::errno::Errno::ENXIO) => Ok(end),
        Err(reason) => Err(reason.into()),
    }
}

/// The first line that begins at or after an offset, unless it is far away.
fn start_of_line(file: &File, from: u64) -> io::Result<u64> {
    if from == 0 {
        return Ok(0);
    }
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, from - 1)?;
    Ok(buffer[..length].iter().position(|byte| *byte == b'\n').map_or(from, |position| from + position as u64))
}

fn read_at(file: &File, offset: u64) -> io::Result<(Bytes, u64)> {
    let mut buffer = vec![0; CHUNK];
    let length = file.read_at(&mut buffer, offset)?;
    buffer.truncate(length);
    let next = offset + length as u64;
    // Looked at after the read: what was taken away meanwhile was read as zeros.
    let kept = kept_from(file, next)?;
    if kept > offset {
        let gone = usize::try_from(kept - offset).unwrap_or(length).min(length);
        let rest = Bytes::from(buffer).slice(gone..);
        return Ok(if rest.is_empty() && kept > next { read_at(file, kept)? } else { (rest, next) });
    }
    Ok((buffer.into(), next))
}

/// A file's changes, by inotify.
#[derive(Debug)]
struct Changes {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

impl Changes {
    fn of(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // A removal shows as a change of the number of links while somebody has the file open.
        inotify.add_watch(path, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB)?;
        let ready = readable(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, ready })
    }

    async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.ready.readable().await?;
            match self.inotify.read_events() {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EAGAIN) => guard.clear_ready(),
                Err(reason) => return Err(reason.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    struct Fixture {
        _directory: tempfile::TempDir,
        log: ConsoleLog,
        writer: File,
    }

    fn fixture(limit: ByteSize) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let writer = File::options().append(true).create(true).open(&path).unwrap();
        Fixture { _directory: directory, log: ConsoleLog::new(path, limit), writer }
    }

    async fn rest(reader: &mut LogReader) -> String {
        let mut text = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn the_front_is_given_back_and_what_is_kept_begins_with_a_line() {
        let Fixture { _directory, log, mut writer } = fixture(ByteSize::bytes(16 << 10));
        for number in 0..10_000 {
            writeln!(writer, "line {number:05}").unwrap();
        }
        log.trim().unwrap();
        let metadata = writer.metadata().unwrap();
        assert_eq!(metadata.len(), 110_000, "offsets stay");
        assert!(metadata.blocks() * 512 <= 24 << 10, "{} blocks", metadata.blocks());
        let kept = rest(&mut log.reader(None).unwrap()).await;
        assert!(kept.len() >= (16 << 10) - 11 && kept.len() <= 20 << 10, "{}", kept.len());
        assert!(kept.starts_with("line 0") && kept.ends_with("line 09999\n"));
        assert_eq!(rest(&mut log.reader(Some(25)).unwrap()).await, "line 09998\nline 09999\n");
        assert_eq!(rest(&mut log.reader(Some(22)).unwrap()).await, "line 09998\nline 09999\n");
        log.trim().unwrap();
        assert_eq!(rest(&mut log.reader(None).unwrap()).await, kept, "nothing to do");
    }

    #[tokio::test]
    async fn a_follower_reads_on_through_a_trim_without_a_zero() {
        let Fixture { _directory, log, mut writer } = fixture(ByteSize::bytes(8 << 10));
        writeln!(writer, "first").unwrap();
        let mut reader = log.reader(None).unwrap();
        assert_eq!(reader.follow().await.unwrap().unwrap(), "first\n");
        for _ in 0..10_000 {
            writeln!(writer, "much").unwrap();
        }
        log.trim().unwrap();
        writeln!(writer, "last").unwrap();
        let text = rest(&mut reader).await;
        assert!(text.ends_with("much\nlast\n") && !text.contains('\0') && text.len() < 16 << 10, "{}", text.len());
    }

    #[tokio::test]
    async fn a_follower_wakes_for_what_is_written_and_ends_when_the_log_is_removed() {
        let Fixture { _directory, log, mut writer } = fixture(ByteSize::MIB);
        let mut reader = log.reader(None).unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
        let following = tokio::spawn(async move {
            let first = reader.follow().await.unwrap();
            (first, reader.follow().await.unwrap())
        });
        tokio::task::yield_now().await;
        writer.write_all(b"hello\n").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::fs::remove_file(log.path()).unwrap();
        let (first, second) = following.await.unwrap();
        assert_eq!(first.unwrap(), "hello\n");
        assert_eq!(second, None);
        assert_eq!(log.reader(None).unwrap_err().kind(), io::ErrorKind::NotFound);
        log.trim().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_reader_sees_each_byte_once_however_it_is_written(
            chunks in prop::collection::vec(prop::collection::vec(1_u8..255, 1..20_000), 1..8)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let Fixture { _directory, log, mut writer } = fixture(ByteSize::MIB);
                let mut reader = log.reader(None).unwrap();
                let mut read = Vec::new();
                for chunk in &chunks {
                    writer.write_all(chunk).unwrap();
                    log.trim().unwrap();
                    if let Some(part) = reader.next().await.unwrap() {
                        read.extend_from_slice(&part);
                    }
                }
                while let Some(part) = reader.next().await.unwrap() {
                    read.extend_from_slice(&part);
                }
                assert_eq!(read, chunks.concat());
            });
        }
    }
}
