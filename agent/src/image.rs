//! Images: fetched from registries and layouts, checked, kept by digest.
//!
//! ```text
//! pull -> resolve the reference to a manifest -> transfer each blob -> inspect the disk -> publish by rename
//!         (registry, layout, manifest)            (transfer, unpack)    (inspect, qcow2)   (store)
//! ```
//!
//! What an image may be, and what is refused, is in docs/images.md.

mod archive;
mod error;
mod fetch;
mod inspect;
mod layout;
mod manifest;
mod pull;
mod qcow2;
mod registry;
mod sparse;
mod store;
mod transfer;
mod unpack;

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use error::{Cause, ImageError, ImageErrorKind};
pub use pull::{Pull, PullPhase, PullProgress};
pub use store::{Garbage, ImageLease, ImageSelector, ImageStore};

use crate::spec::{ByteSize, Digest};

/// An image in the store: whole, checked, and never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Of the manifest.
    pub digest: Digest,
    /// By which it was asked for; a tag that has moved to another image is not among them.
    pub references: BTreeSet<String>,
    /// What it takes on disk.
    pub stored: ByteSize,
    /// What the guest's root disk stands on.
    pub disk: Option<ImageDisk>,
    /// For direct boot.
    pub kernel: Option<PathBuf>,
    /// For direct boot; only with a kernel.
    pub initrd: Option<PathBuf>,
    /// What the kernel is told before what the guest's spec tells it; only with a kernel.
    pub command_line: Option<String>,
    /// When it was published.
    pub pulled_at: jiff::Timestamp,
}

/// An image's disk: a read-only base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDisk {
    /// Absolute, if the store's directory is.
    pub path: PathBuf,
    /// Decided when it was pulled: give it to QEMU, which must not probe.
    pub format: DiskFormat,
    /// What the guest sees.
    pub virtual_size: ByteSize,
}

/// How a disk's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's own, without backing or external data file.
    Qcow2,
    /// Sector by sector.
    Raw,
}

impl DiskFormat {
    /// As QEMU names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

fn check_digest(bytes: &[u8], expected: &Digest, what: &str) -> Result<(), ImageError> {
    let found = digest_of(bytes)?;
    if found == *expected {
        return Ok(());
    }
    Err(ImageError::refused(format!("its {what} {expected} has the hash {found}: it was changed or damaged")))
}

fn digest_of(bytes: &[u8]) -> Result<Digest, ImageError> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    <&[u8; 32]>::try_from(hash.as_ref()).map(Digest::from_sha256).map_err(ImageError::lost_thread)
}
