//! From a layer's bytes to the few files of it that matter. Nothing else of an image is ever written, and no name that
//! an image chose becomes a path on this machine.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
};

use super::{
    ImageError,
    archive::{Archive, Entry, EntryKind, Fault, show},
    manifest::{COMMAND_LINE_LIMIT, Compression},
    sparse,
};
use crate::spec::ByteSize;

/// The most that a kernel or an initrd may take.
pub(super) const BOOT_FILE_LIMIT: ByteSize = ByteSize::mib(512);

/// What an image may have, by its path in a container image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// `/disk/<name>`
    Disk(String),
    /// `/boot/vmlinuz`
    Kernel,
    /// `/boot/initrd`
    Initrd,
    /// `/boot/cmdline`
    CommandLine,
}

impl Place {
    fn path(&self) -> String {
        match self {
            Self::Disk(name) => format!("disk/{name}"),
            Self::Kernel => "boot/vmlinuz".to_owned(),
            Self::Initrd => "boot/initrd".to_owned(),
            Self::CommandLine => "boot/cmdline".to_owned(),
        }
    }
}

/// The files of an image where they were unpacked to.
pub(super) type Files = BTreeMap<Place, PathBuf>;

/// What one layer changes in the layers below it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    files: Files,
    /// Whiteouts: these paths, and all below them, are gone.
    removed: Vec<String>,
    unpacked: u64,
}

impl Changes {
    /// Bytes of the decompressed layer.
    pub(super) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    pub(super) fn apply(self, files: &mut Files) {
        let gone = |place: &Place| {
            let path = place.path();
            self.removed.iter().any(|removed| {
                let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
                removed.is_empty() || path.strip_prefix(removed.as_str()).is_some_and(below)
            })
        };
        files.retain(|place, _| !gone(place));
        files.extend(self.files);
    }
}

/// What an image may take when it is unpacked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) disk: ByteSize,
}

impl Limits {
    /// Of all of an image's bytes, those too that are not kept.
    pub(super) fn total(self) -> u64 {
        self.disk.get().saturating_add(2 * BOOT_FILE_LIMIT.get())
    }

    fn of(self, place: &Place) -> ByteSize {
        match place {
            Place::Disk(_) => self.disk,
            Place::Kernel | Place::Initrd => BOOT_FILE_LIMIT,
            Place::CommandLine => ByteSize::bytes(COMMAND_LINE_LIMIT),
        }
    }

    /// Refuses a file by its stated size, before a byte of it is written.
    pub(super) fn check(self, place: &Place, size: u64) -> Result<(), ImageError> {
        let (size, limit) = (ByteSize::bytes(size), self.of(place));
        if size <= limit {
            return Ok(());
        }
        let hint = if matches!(place, Place::Disk(_)) { ": images.max_disk_mib allows" } else { ": the limit is" };
        Err(ImageError::refused(format!("{} has {size}{hint} {limit}", show(place.path().as_bytes()))))
    }
}

/// A stream decompressed, refused where it exceeds `budget` bytes.
fn decompressed<'r>(
    reader: impl BufRead + 'r,
    compression: Compression,
    budget: u64,
) -> io::Result<Budgeted<Box<dyn Read + 'r>>> {
    let reader: Box<dyn Read + 'r> = match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(reader)?),
    };
    Ok(Budgeted { reader, left: budget, budget })
}

struct Budgeted<R> {
    reader: R,
    left: u64,
    budget: u64,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::other(ImageError::refused(format!(
                "it unpacks to more than {}: images.max_disk_mib and {} for kernel and initrd are the most",
                ByteSize::bytes(self.budget),
                ByteSize::bytes(2 * BOOT_FILE_LIMIT.get())
            )))
        })?;
        Ok(count)
    }
}

/// Reads a layer's archive to its end and writes what matters into `directory`, under names of our own.
pub(super) fn layer(
    chunks: impl BufRead,
    compression: Compression,
    budget: u64,
    limits: Limits,
    directory: &Path,
) -> Result<Changes, Fault> {
    let mut reader = decompressed(chunks, compression, budget)?;
    let mut archive = Archive::new(&mut reader);
    let mut changes = Changes::default();
    while let Some(entry) = archive.next()? {
        match placed(&entry)? {
            Placed::Elsewhere => {}
            Placed::Removal(path) => changes.removed.push(path),
            Placed::At(place) => {
                limits.check(&place, entry.size)?;
                let path = directory.join(changes.files.len().to_string());
                if matches!(place, Place::Disk(_)) && changes.files.keys().any(|kept| matches!(kept, Place::Disk(_))) {
                    return Err(ImageError::refused("it has more than one disk in /disk").into());
                }
                if changes.files.contains_key(&place) {
                    return Err(ImageError::refused(format!("it has {} twice in one layer", place.path())).into());
                }
                sparse::write(&path, entry.size, &mut archive.content())?;
                changes.files.insert(place, path);
            }
        }
    }
    changes.unpacked = budget - reader.left;
    Ok(changes)
}

#[derive(Debug, PartialEq, Eq)]
enum Placed {
    At(Place),
    Removal(String),
    Elsewhere,
}

/// Where an entry belongs; an error where it tries to be somewhere else.
fn placed(entry: &Entry) -> Result<Placed, ImageError> {
    let shown = show(&entry.path);
    let parts = parts(&entry.path).ok_or_else(|| {
        ImageError::refused(format!("{shown:?} in it leads out of the image: paths are relative and without `..`"))
    })?;
    let ours = matches!(parts.first(), Some(&(b"disk" | b"boot")));
    match &entry.kind {
        EntryKind::Device => return Err(ImageError::refused(format!("{shown:?} in it is a device"))),
        EntryKind::Symlink(target) | EntryKind::HardLink(target) => {
            if ours {
                return Err(ImageError::refused(format!(
                    "{shown:?} in it is a link to {:?}: what is in /disk and /boot must be files",
                    show(target)
                )));
            }
            let base = if matches!(entry.kind, EntryKind::Symlink(_)) { parts.len().saturating_sub(1) } else { 0 };
            if leads_out(base, target) {
                return Err(ImageError::refused(format!(
                    "{shown:?} in it is a link out of the image, to {:?}",
                    show(target)
                )));
            }
            return Ok(Placed::Elsewhere);
        }
        EntryKind::Directory => return Ok(Placed::Elsewhere),
        EntryKind::File => {}
    }
    if let Some(path) = whiteout(&parts)? {
        return Ok(Placed::Removal(path));
    }
    match parts.as_slice() {
        [b"disk", name] => disk(name).map(|name| Placed::At(Place::Disk(name))),
        [b"boot", b"vmlinuz"] => Ok(Placed::At(Place::Kernel)),
        [b"boot", b"initrd"] => Ok(Placed::At(Place::Initrd)),
        [b"boot", b"cmdline"] => Ok(Placed::At(Place::CommandLine)),
        [b"disk", ..] | [b"boot"] => {
            Err(ImageError::refused(format!("{shown:?} in it is out of place: /disk/<name>.qcow2 is a disk's")))
        }
        _ => Ok(Placed::Elsewhere),
    }
}

fn disk(name: &[u8]) -> Result<String, ImageError> {
    std::str::from_utf8(name)
        .ok()
        .filter(|name| [".qcow2", ".raw", ".img"].iter().any(|ending| name.ends_with(ending)))
        .map(str::to_owned)
        .ok_or_else(|| {
            ImageError::refused(format!("/disk/{} is no disk: its name must end in .qcow2, .raw or .img", show(name)))
        })
}

/// A path's names; none for one that is absolute or goes up.
fn parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    if path.first() == Some(&b'/') {
        return None;
    }
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(|name| (name != b"..").then_some(name))
        .collect()
}

/// Whether a link's target, taken from a directory `depth` below the root, is absolute or goes above the root.
fn leads_out(mut depth: usize, target: &[u8]) -> bool {
    if target.first() == Some(&b'/') {
        return true;
    }
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// What a whiteout removes (OCI image-spec, layer.md): `.wh.<name>` a name, `.wh..wh..opq` all that its directory has.
fn whiteout(parts: &[&[u8]]) -> Result<Option<String>, ImageError> {
    let Some((last, above)) = parts.split_last() else { return Ok(None) };
    let Some(name) = last.strip_prefix(b".wh.") else { return Ok(None) };
    let mut removed = above.to_vec();
    if name != b".wh..opq" {
        removed.push(name);
    }
    // An empty path is the root: all is gone.
    let path = String::from_utf8(removed.join(&b'/'))
        .map_err(|_| ImageError::refused("a whiteout in it has a name that is not UTF-8"))?;
    if name.is_empty() || name == b"." || name == b".." {
        return Err(ImageError::refused(format!("a whiteout in it has no name: {:?}", show(last))));
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests;
