//! OCI image layouts: directories with `oci-layout`, `index.json` and `blobs/`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    ImageError, check_digest,
    manifest::{self, Descriptor, Document, MANIFEST_LIMIT},
};
use crate::spec::{Digest, ImageReference};

/// The bytes of the manifest or index that a reference names.
pub(super) fn manifest(directory: &Path, reference: &ImageReference) -> Result<Vec<u8>, ImageError> {
    let digest = match reference.digest() {
        Some(digest) => digest.clone(),
        None => named(directory, reference)?,
    };
    blob(directory, &digest, MANIFEST_LIMIT, "manifest")
}

/// A small blob whole, with the right hash.
pub(super) fn blob(directory: &Path, digest: &Digest, limit: u64, what: &str) -> Result<Vec<u8>, ImageError> {
    let bytes = read(&blob_path(directory, digest), limit)?;
    check_digest(&bytes, digest, what)?;
    Ok(bytes)
}

pub(super) fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// A path that a reference leads to may be anything: to open a pipe must not wait for its other end.
pub(super) fn open_regular(path: &Path) -> Result<File, ImageError> {
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(ImageError::NotFound { what: path.display().to_string() });
        }
        opened => opened.map_err(ImageError::storage("open", path))?,
    };
    let metadata = file.metadata().map_err(ImageError::storage("read", path))?;
    if !metadata.is_file() {
        return Err(ImageError::refused(format!("{} is not a file", path.display())));
    }
    Ok(file)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes).map_err(ImageError::storage("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(ImageError::refused(format!("{} has more than {limit} bytes", path.display())));
    }
    Ok(bytes)
}

/// The digest that the layout's index has for a tag; without a tag, that of the only image in it.
fn named(directory: &Path, reference: &ImageReference) -> Result<Digest, ImageError> {
    let Document::Index(entries) = manifest::parse(&read(&directory.join("index.json"), MANIFEST_LIMIT)?)? else {
        return Err(ImageError::refused(format!("{}/index.json is not an index", directory.display())));
    };
    let tags: Vec<&str> = entries.iter().filter_map(|entry| entry.annotations.reference.as_deref()).collect();
    let chosen = match (reference.tag(), entries.as_slice()) {
        (Some(tag), _) => entries.iter().find(|entry| entry.annotations.reference.as_deref() == Some(tag)),
        (None, [only]) => Some(only),
        (None, _) => single_platform(&entries),
    };
    chosen.map(|entry| entry.digest.clone()).ok_or_else(|| ImageError::NotFound {
        what: match reference.tag() {
            Some(tag) => format!("tag {tag:?} in {} (it has {tags:?})", directory.display()),
            None => format!("one image in {} (it has {tags:?}: name one)", directory.display()),
        },
    })
}

/// Untagged, a layout may hold one image for several kinds of machine.
fn single_platform(entries: &[Descriptor]) -> Option<&Descriptor> {
    let untagged = entries.iter().all(|entry| entry.annotations.reference.is_none());
    if untagged { manifest::for_this_platform(entries).ok() } else { None }
}
