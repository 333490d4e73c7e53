//! A guest's disks: made once, whole, and kept for as long as its uid.
//!
//! They are root's: QEMU gets them as open files.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::overlay::{self, Overlay};
use crate::{
    qemu::{DataDiskFile, DiskFormat},
    spec::{ByteSize, DataDisk},
};

/// What a root disk lies over.
#[derive(Debug, Clone, Copy)]
pub struct Base<'b> {
    /// Shared by many guests, and only read.
    pub path: &'b Path,
    /// Its format, which is never guessed.
    pub format: DiskFormat,
    /// As a guest would see it.
    pub size: ByteSize,
}

/// Why a disk is not there.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image is larger.
    #[error("the root disk of {wanted} is smaller than the image's, which has {base}: ask for at least that")]
    SmallerThanImage {
        /// Asked for.
        wanted: ByteSize,
        /// The image's.
        base: ByteSize,
    },
    /// A disk holds data that would be cut off.
    #[error("{} has {has} and shall have {wanted}: a disk does not shrink", path.display())]
    Shrinks {
        /// The disk.
        path: PathBuf,
        /// Its size.
        has: ByteSize,
        /// Asked for.
        wanted: ByteSize,
    },
    /// The overlay could not be enlarged.
    #[error("cannot enlarge {}: {reason}", path.display())]
    NotEnlarged {
        /// The disk.
        path: PathBuf,
        /// What the tool said.
        reason: String,
    },
    /// The file system says no.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// The overlay on an image's disk, of the size asked for or the image's own. One that lies over another image is made
/// anew: a root disk belongs to its image, and a guest's data belongs on data disks.
pub fn root_disk(
    directory: &Path,
    base: Base<'_>,
    size: Option<ByteSize>,
    image_tool: &Path,
) -> Result<PathBuf, DiskError> {
    let size = match size {
        Some(wanted) if wanted < base.size => {
            return Err(DiskError::SmallerThanImage { wanted, base: base.size });
        }
        Some(wanted) => wanted,
        // A raw image need not end with a sector.
        None => ByteSize::bytes(base.size.get().next_multiple_of(512)),
    };
    let path = directory.join("root.qcow2");
    match File::open(&path) {
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
        Err(reason) => return Err(at("open", &path)(reason)),
        Ok(mut file) => match overlay::read(&mut file).map_err(at("read", &path))? {
            Overlay { base: over, .. } if over != base.path => {}
            Overlay { size: has, .. } if has == size => return Ok(path),
            Overlay { size: has, .. } if has > size => return Err(DiskError::Shrinks { path, has, wanted: size }),
            Overlay { .. } => return enlarge(path, size, image_tool),
        },
    }
    make_whole(&path, |file| overlay::write(file, base.path, base.format, size))?;
    Ok(path)
}

/// An empty disk; one that is there keeps what is on it, and may grow.
pub fn data_disk(directory: &Path, disk: &DataDisk) -> Result<DataDiskFile, DiskError> {
    let path = directory.join(format!("data-{}.raw", disk.serial));
    let wanted = disk.size;
    match OpenOptions::new().write(true).open(&path) {
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
            make_whole(&path, |file| file.set_len(wanted.get()))?;
        }
        Err(reason) => return Err(at("open", &path)(reason)),
        Ok(file) => {
            let has = ByteSize::bytes(file.metadata().map_err(at("look at", &path))?.len());
            if has > wanted {
                return Err(DiskError::Shrinks { path, has, wanted });
            }
            file.set_len(wanted.get()).map_err(at("enlarge", &path))?;
        }
    }
    Ok(DataDiskFile { serial: disk.serial.clone(), path })
}

/// Growing is rare and moves tables: the tool that knows all about it does that.
fn enlarge(path: PathBuf, size: ByteSize, image_tool: &Path) -> Result<PathBuf, DiskError> {
    let output = Command::new(image_tool)
        .args(["resize", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg(size.get().to_string())
        .output()
        .map_err(at("run qemu-img on", &path))?;
    if output.status.success() {
        Ok(path)
    } else {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(DiskError::NotEnlarged { path, reason })
    }
}

/// A crash leaves the disk whole or not at all.
fn make_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), DiskError> {
    let temporary = path.with_extension("making");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(at("make", &temporary))?;
    write(&mut file).map_err(at("write", &temporary))?;
    file.sync_all().map_err(at("write", &temporary))?;
    fs::rename(&temporary, path).map_err(at("name", path))
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TOOL: &str = "/nowhere/qemu-img";

    fn base(path: &Path) -> Base<'_> {
        Base { path, format: DiskFormat::Raw, size: ByteSize::mib(64) }
    }

    #[test]
    fn a_root_disk_has_the_images_size_or_a_larger_one() {
        let directory = tempfile::tempdir().unwrap();
        let image = base(Path::new("/images/a/disk"));
        let made = root_disk(directory.path(), image, None, Path::new(NO_TOOL)).unwrap();
        assert_eq!(overlay::read(&mut File::open(&made).unwrap()).unwrap().size, ByteSize::mib(64));
        let refused = root_disk(directory.path(), image, Some(ByteSize::mib(63)), Path::new(NO_TOOL));
        assert!(matches!(refused, Err(DiskError::SmallerThanImage { .. })));
    }

    #[test]
    fn a_root_disk_is_made_once_and_anew_for_another_image() {
        let directory = tempfile::tempdir().unwrap();
        let image = base(Path::new("/images/a/disk"));
        let made = root_disk(directory.path(), image, None, Path::new(NO_TOOL)).unwrap();
        let first = fs::metadata(&made).unwrap().modified().unwrap();
        root_disk(directory.path(), image, None, Path::new(NO_TOOL)).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().modified().unwrap(), first);

        let other = base(Path::new("/images/b/disk"));
        root_disk(directory.path(), other, None, Path::new(NO_TOOL)).unwrap();
        assert_eq!(overlay::read(&mut File::open(&made).unwrap()).unwrap().base, Path::new("/images/b/disk"));
    }

    #[test]
    fn a_data_disk_keeps_its_data_grows_and_never_shrinks() {
        let directory = tempfile::tempdir().unwrap();
        let disk = |mib| DataDisk { serial: "etcd".parse().unwrap(), size: ByteSize::mib(mib) };
        let made = data_disk(directory.path(), &disk(2)).unwrap();
        fs::write(&made.path, b"data").unwrap();
        data_disk(directory.path(), &disk(4)).unwrap();
        let content = fs::read(&made.path).unwrap();
        assert_eq!((&content[..4], content.len()), (&b"data"[..], 4 << 20));
        assert!(matches!(data_disk(directory.path(), &disk(1)), Err(DiskError::Shrinks { .. })));
    }
}
