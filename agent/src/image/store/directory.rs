//! The store on disk.
//!
//! ```text
//! images/<digest>/   a published image, by its manifest: metadata.json, disk.qcow2 or disk.raw, vmlinuz, initrd
//! partial/<digest>   what has come of a blob
//! staging/           images being made and being removed; emptied at the start
//! lock
//! ```
//!
//! An image comes to `images/` and leaves it by a rename, so what is there is whole.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tracing::warn;

use crate::{
    image::{DiskFormat, Image, ImageDisk, ImageError},
    spec::{ByteSize, Digest},
};

const METADATA: &str = "metadata.json";
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";

/// Held as long as the store is open.
pub(in crate::image) type StoreLock = Flock<File>;

/// Where the store keeps its files.
#[derive(Debug, Clone)]
pub(in crate::image) struct Directory {
    root: PathBuf,
}

/// `metadata.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::image) struct Record {
    pub(in crate::image) digest: Digest,
    /// Indexes that led to the image.
    pub(in crate::image) indexes: BTreeSet<Digest>,
    pub(in crate::image) references: BTreeSet<String>,
    pub(in crate::image) stored: ByteSize,
    pub(in crate::image) disk: Option<RecordedDisk>,
    pub(in crate::image) kernel: bool,
    pub(in crate::image) initrd: bool,
    pub(in crate::image) command_line: Option<String>,
    pub(in crate::image) pulled_at: jiff::Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::image) struct RecordedDisk {
    pub(in crate::image) format: DiskFormat,
    pub(in crate::image) virtual_size: ByteSize,
}

impl RecordedDisk {
    fn file_name(self) -> &'static str {
        match self.format {
            DiskFormat::Qcow2 => "disk.qcow2",
            DiskFormat::Raw => "disk.raw",
        }
    }
}

/// What a new image is made of: files in the staging area, checked.
#[derive(Debug)]
pub(in crate::image) struct NewImage {
    pub(in crate::image) digest: Digest,
    pub(in crate::image) disk: Option<(PathBuf, RecordedDisk)>,
    pub(in crate::image) kernel: Option<PathBuf>,
    pub(in crate::image) initrd: Option<PathBuf>,
    pub(in crate::image) command_line: Option<String>,
}

impl Directory {
    /// Makes what is missing, takes the lock, and empties the staging area.
    pub(super) fn open(root: &Path) -> Result<(Self, StoreLock), ImageError> {
        let directory = Self { root: root.to_owned() };
        // QEMU, a user of its own, opens what is in images/.
        for (path, mode) in
            [(directory.images(), 0o755), (directory.root.join("partial"), 0o700), (directory.staging(), 0o700)]
        {
            DirBuilder::new().recursive(true).mode(mode).create(&path).map_err(ImageError::storage("create", &path))?;
        }
        let path = root.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(ImageError::storage("open", &path))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, reason)| ImageError::Misconfigured {
                what: format!("the image store in {} is in use by another process", root.display()),
                source: Some(reason.into()),
            })?;
        for path in entries(&directory.staging())? {
            remove_tree(&path)?;
        }
        Ok((directory, lock))
    }

    /// What is published. What cannot be read is left alone and told: it may be what a guest runs from.
    pub(super) fn load(&self) -> Result<Vec<Record>, ImageError> {
        let mut records = Vec::new();
        for path in entries(&self.images())? {
            match self.read(&path) {
                Ok(record) => records.push(record),
                Err(reason) => warn!(path = %path.display(), %reason, "an image in the store cannot be used"),
            }
        }
        Ok(records)
    }

    fn read(&self, path: &Path) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&fs::read(path.join(METADATA))?)?;
        if path.file_name() != Some(OsStr::new(record.digest.hex())) {
            return Err(io::Error::other(format!("its metadata is that of {}", record.digest)));
        }
        let image = self.image(&record);
        for file in image.disk.iter().map(|disk| &disk.path).chain(&image.kernel).chain(&image.initrd) {
            if !fs::symlink_metadata(file)?.is_file() {
                return Err(io::Error::other(format!("{} is not a file", file.display())));
            }
        }
        Ok(record)
    }

    pub(super) fn image(&self, record: &Record) -> Image {
        let directory = self.image_directory(&record.digest);
        Image {
            digest: record.digest.clone(),
            references: record.references.clone(),
            stored: record.stored,
            disk: record.disk.map(|disk| ImageDisk {
                path: directory.join(disk.file_name()),
                format: disk.format,
                virtual_size: disk.virtual_size,
            }),
            kernel: record.kernel.then(|| directory.join(KERNEL)),
            initrd: record.initrd.then(|| directory.join(INITRD)),
            command_line: record.command_line.clone(),
            pulled_at: record.pulled_at,
        }
    }

    /// Puts an image together in the staging area, makes it durable, and moves it to its place.
    pub(super) fn publish(&self, new: NewImage) -> Result<Record, ImageError> {
        let staged = self.stage(&new.digest)?;
        let mut files = Vec::new();
        let disk = new.disk.as_ref().map(|(path, disk)| (path, disk.file_name()));
        let boot = [(&new.kernel, KERNEL), (&new.initrd, INITRD)];
        for (from, name) in disk.into_iter().chain(boot.iter().filter_map(|(path, name)| Some((path.as_ref()?, *name))))
        {
            let to = staged.path().join(name);
            fs::rename(from, &to).map_err(ImageError::storage("rename", from))?;
            files.push(to);
        }
        let mut stored = 0;
        for path in &files {
            let metadata = File::open(path)
                .and_then(|file| file.sync_all().and_then(|()| file.metadata()))
                .map_err(ImageError::storage("sync", path))?;
            stored += metadata.blocks() * 512;
        }
        let record = Record {
            digest: new.digest,
            indexes: BTreeSet::new(),
            references: BTreeSet::new(),
            stored: ByteSize::bytes(stored),
            disk: new.disk.map(|(_, disk)| disk),
            kernel: new.kernel.is_some(),
            initrd: new.initrd.is_some(),
            command_line: new.command_line,
            pulled_at: jiff::Timestamp::now(),
        };
        write_metadata(staged.path(), &record)?;
        fs::set_permissions(staged.path(), Permissions::from_mode(0o755))
            .map_err(ImageError::storage("change the mode of", staged.path()))?;
        let place = self.image_directory(&record.digest);
        // Only what could not be read when the store was opened can be in the way.
        self.displace(&place)?;
        fs::rename(staged.path(), &place).map_err(ImageError::storage("rename", staged.path()))?;
        sync_directory(&self.images())?;
        Ok(record)
    }

    /// Writes an image's metadata anew.
    pub(super) fn rewrite(&self, record: &Record) -> Result<(), ImageError> {
        write_metadata(&self.image_directory(&record.digest), record)
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        self.displace(&self.image_directory(digest))
    }

    /// An area of its own for an image being made; it is removed when dropped.
    pub(in crate::image) fn stage(&self, digest: &Digest) -> Result<TempDir, ImageError> {
        let path = self.staging();
        tempfile::Builder::new()
            .prefix(&format!("{}.", digest.hex()))
            .tempdir_in(&path)
            .map_err(ImageError::storage("create a directory in", &path))
    }

    pub(super) fn partial(&self, blob: &Digest) -> PathBuf {
        self.root.join("partial").join(blob.hex())
    }

    /// Removes partial files but those of `kept`; gives what they took on disk.
    pub(super) fn remove_partials(&self, kept: &BTreeSet<Digest>, dry_run: bool) -> Result<ByteSize, ImageError> {
        let mut freed = 0;
        for path in entries(&self.root.join("partial"))? {
            if kept.iter().any(|digest| path.file_name() == Some(OsStr::new(digest.hex()))) {
                continue;
            }
            freed += fs::metadata(&path).map_err(ImageError::storage("read", &path))?.blocks() * 512;
            if !dry_run {
                fs::remove_file(&path).map_err(ImageError::storage("remove", &path))?;
            }
        }
        Ok(ByteSize::bytes(freed))
    }

    /// Refuses early what cannot fit.
    pub(in crate::image) fn check_space(&self, needed: ByteSize) -> Result<(), ImageError> {
        let space = nix::sys::statvfs::statvfs(&self.root)
            .map_err(|reason| ImageError::storage("measure", &self.root)(reason.into()))?;
        let available = ByteSize::bytes(space.blocks_available().saturating_mul(space.fragment_size()));
        if needed <= available {
            return Ok(());
        }
        Err(ImageError::NotEnoughSpace {
            what: "the image".to_owned(),
            needed,
            available,
            directory: self.root.clone(),
        })
    }

    /// Out of sight at once; then gone, now or at the next start.
    fn displace(&self, path: &Path) -> Result<(), ImageError> {
        let bin = tempfile::Builder::new()
            .prefix("removed.")
            .tempdir_in(self.staging())
            .map_err(ImageError::storage("create a directory in", &self.staging()))?;
        match fs::rename(path, bin.path().join("image")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(ImageError::storage("rename", path))?,
        }
        sync_directory(&self.images())?;
        let bin = bin.keep();
        remove_tree(&bin)
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    fn image_directory(&self, digest: &Digest) -> PathBuf {
        self.images().join(digest.hex())
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    list().map_err(ImageError::storage("list", directory))
}

fn remove_tree(path: &Path) -> Result<(), ImageError> {
    let is_directory = fs::symlink_metadata(path).map_err(ImageError::storage("read", path))?.is_dir();
    let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(ImageError::storage("remove", path))
}

/// Whole or not at all.
fn write_metadata(directory: &Path, record: &Record) -> Result<(), ImageError> {
    let (path, temporary) = (directory.join(METADATA), directory.join(".metadata.json"));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(ImageError::storage("write", &path))?;
    sync_directory(directory)
}

fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(ImageError::storage("sync", path))
}
