//! What is in the store, who uses it, and what may go.

mod directory;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use tracing::warn;

pub(super) use directory::{Directory, NewImage, Record, RecordedDisk, StoreLock};

use super::{
    Image, ImageError, fetch,
    inspect::Inspector,
    pull::{Flights, Pull},
    registry::Registries,
    unpack::Limits,
};
use crate::{
    config::ImageConfig,
    spec::{ByteSize, Digest, GuestUid, ImageReference, InvalidValue},
};

/// The host's images.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ImageStore").field("directory", &self.inner.directory).finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) directory: Directory,
    pub(super) registries: Registries,
    pub(super) inspector: Inspector,
    pub(super) limits: Limits,
    pub(super) downloads: Flights<Digest>,
    references: Flights<ImageReference>,
    blobs: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    entries: Mutex<BTreeMap<Digest, Entry>>,
    /// Whoever changes the store's files holds this, on a thread where waiting is allowed. Taken before `entries`.
    writer: Mutex<()>,
    _lock: StoreLock,
}

struct Entry {
    record: Record,
    image: Arc<Image>,
    /// How many leases each guest holds.
    leases: BTreeMap<GuestUid, usize>,
}

/// Which image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSelector {
    /// The one with this digest.
    Digest(Digest),
    /// The one that was pulled by this reference.
    Reference(ImageReference),
}

impl FromStr for ImageSelector {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("sha256:") { text.parse().map(Self::Digest) } else { text.parse().map(Self::Reference) }
    }
}

impl fmt::Display for ImageSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(formatter),
            Self::Reference(reference) => reference.fmt(formatter),
        }
    }
}

/// What a collection removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Images that no guest has a lease on.
    pub removed: Vec<Arc<Image>>,
    /// On disk; counts broken-off downloads too.
    pub freed: ByteSize,
}

/// A guest's hold on an image: as long as it exists, the image stays.
pub struct ImageLease {
    image: Arc<Image>,
    guest: GuestUid,
    store: Arc<Inner>,
}

impl ImageLease {
    /// The image.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl fmt::Debug for ImageLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ImageLease({} for {})", self.image.digest, self.guest)
    }
}

impl Drop for ImageLease {
    fn drop(&mut self) {
        if let Some(entry) = self.store.entries().get_mut(&self.image.digest)
            && let Some(count) = entry.leases.get_mut(&self.guest)
        {
            *count -= 1;
            if *count == 0 {
                entry.leases.remove(&self.guest);
            }
        }
    }
}

impl ImageStore {
    /// Opens the store in a directory, which is made if need be. What a crash left half-done is removed; broken-off
    /// downloads stay, to be resumed. One process at a time has a store open.
    pub fn open(config: &ImageConfig, directory: &Path, image_tool: &Path) -> Result<Self, ImageError> {
        let (directory, lock) = Directory::open(directory)?;
        let entries = directory
            .load()?
            .into_iter()
            .map(|record| {
                let image = Arc::new(directory.image(&record));
                (record.digest.clone(), Entry { record, image, leases: BTreeMap::new() })
            })
            .collect();
        let limit = ByteSize::bytes(config.max_disk_mib.saturating_mul(ByteSize::MIB.get()));
        Ok(Self {
            inner: Arc::new(Inner {
                directory,
                registries: Registries::new(config)?,
                inspector: Inspector::new(image_tool, limit),
                limits: Limits { disk: limit },
                downloads: Flights::default(),
                references: Flights::default(),
                blobs: Mutex::default(),
                entries: Mutex::new(entries),
                writer: Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// Makes an image present. Needs a tokio runtime; the work goes on while the [`Pull`] exists, whoever polls it.
    ///
    /// A reference that is pinned by digest, to an image that is here, asks nobody.
    pub fn pull(&self, reference: &ImageReference) -> Pull {
        let flight = self.inner.references.join(reference.clone(), |controls| {
            fetch::by_reference(Arc::clone(&self.inner), reference.clone(), controls)
        });
        Pull::new(flight)
    }

    /// A guest's hold on an image, if that is here.
    ///
    /// Leases do not survive the process: take those of all guests in the ledger before anything is removed.
    pub fn lease(&self, digest: &Digest, guest: GuestUid) -> Option<ImageLease> {
        let mut entries = self.inner.entries();
        let entry = entries.get_mut(digest)?;
        *entry.leases.entry(guest).or_default() += 1;
        Some(ImageLease { image: Arc::clone(&entry.image), guest, store: Arc::clone(&self.inner) })
    }

    /// The guests that hold leases on an image.
    pub fn used_by(&self, digest: &Digest) -> Vec<GuestUid> {
        self.inner.entries().get(digest).map(|entry| entry.leases.keys().copied().collect()).unwrap_or_default()
    }

    /// All images, by digest.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.entries().values().map(|entry| Arc::clone(&entry.image)).collect()
    }

    /// The image that is selected, if it is here.
    pub fn find(&self, selector: &ImageSelector) -> Option<Arc<Image>> {
        match selector {
            ImageSelector::Digest(digest) => self.inner.present(digest),
            ImageSelector::Reference(reference) => {
                let text = reference.to_string();
                let by_name = self
                    .inner
                    .entries()
                    .values()
                    .find(|entry| entry.image.references.contains(&text))
                    .map(Entry::image);
                by_name.or_else(|| reference.digest().and_then(|digest| self.inner.present(digest)))
            }
        }
    }

    /// Removes an image; refuses while a guest has a lease on it. Gives the bytes that were freed.
    pub async fn remove(&self, selector: &ImageSelector) -> Result<ByteSize, ImageError> {
        let image = self
            .find(selector)
            .ok_or_else(|| ImageError::NotFound { what: format!("image {selector} in this host's store") })?;
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.evict(&image.digest).map(|image| image.stored)).await
    }

    /// Removes the images without leases and the downloads that nobody continues; with `dry_run` only says what.
    pub async fn collect_garbage(&self, dry_run: bool) -> Result<Garbage, ImageError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.collect_garbage(dry_run)).await
    }
}

/// Runs what waits for the disk on a thread made for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(ImageError::lost_thread)?
}

impl Entry {
    fn image(&self) -> Arc<Image> {
        Arc::clone(&self.image)
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Digest, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image with this digest, or the one that an index with this digest led to.
    pub(super) fn present(&self, digest: &Digest) -> Option<Arc<Image>> {
        let entries = self.entries();
        let direct = entries.get(digest);
        direct.or_else(|| entries.values().find(|entry| entry.record.indexes.contains(digest))).map(Entry::image)
    }

    /// The only one to write a blob's partial file.
    pub(super) async fn own_blob(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let owner = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            blobs.retain(|_, owner| Arc::strong_count(owner) > 1);
            Arc::clone(blobs.entry(digest.clone()).or_default())
        };
        owner.lock_owned().await
    }

    fn blobs_in_use(&self) -> BTreeSet<Digest> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.iter().filter(|(_, owner)| Arc::strong_count(owner) > 1).map(|(digest, _)| digest.clone()).collect()
    }

    /// Makes a new image visible.
    pub(super) fn publish(&self, new: NewImage) -> Result<Arc<Image>, ImageError> {
        let _writing = self.writer();
        let record = self.directory.publish(new)?;
        let image = Arc::new(self.directory.image(&record));
        let entry = Entry { record, image: Arc::clone(&image), leases: BTreeMap::new() };
        self.entries().insert(image.digest.clone(), entry);
        Ok(image)
    }

    /// Notes by which reference, and by way of which index, an image was asked for. A tag names one image, so another
    /// that had it loses it.
    pub(super) fn note(
        &self,
        digest: &Digest,
        reference: &ImageReference,
        index: Option<&Digest>,
    ) -> Option<Arc<Image>> {
        let _writing = self.writer();
        let name = reference.to_string();
        let records: Vec<Record> = self.entries().values().map(|entry| entry.record.clone()).collect();
        for mut record in records {
            let changed = if record.digest == *digest {
                let named = record.references.insert(name.clone());
                index.is_some_and(|index| record.indexes.insert(index.clone())) || named
            } else {
                record.references.remove(&name)
            };
            if changed {
                // The image is as good without the note.
                if let Err(error) = self.directory.rewrite(&record) {
                    warn!(%error, digest = %record.digest, "an image's references cannot be recorded");
                }
                let image = Arc::new(self.directory.image(&record));
                if let Some(entry) = self.entries().get_mut(&record.digest) {
                    (entry.record, entry.image) = (record, image);
                }
            }
        }
        self.entries().get(digest).map(Entry::image)
    }

    fn evict(&self, digest: &Digest) -> Result<Arc<Image>, ImageError> {
        let _writing = self.writer();
        let entry = {
            let mut entries = self.entries();
            match entries.get(digest) {
                Some(entry) if !entry.leases.is_empty() => {
                    let guests = entry.leases.keys().copied().collect();
                    return Err(ImageError::InUse { digest: digest.clone(), guests });
                }
                // Nobody can take a lease from here on.
                _ => entries.remove(digest),
            }
        };
        let entry =
            entry.ok_or_else(|| ImageError::NotFound { what: format!("image {digest} in this host's store") })?;
        let image = entry.image();
        if let Err(error) = self.directory.remove(digest) {
            self.entries().insert(digest.clone(), entry);
            return Err(error);
        }
        Ok(image)
    }

    fn collect_garbage(&self, dry_run: bool) -> Result<Garbage, ImageError> {
        let idle: Vec<Arc<Image>> = self
            .entries()
            .values()
            .filter(|entry| entry.leases.is_empty() && !self.downloads.has(&entry.image.digest))
            .map(Entry::image)
            .collect();
        let mut garbage = Garbage { removed: Vec::new(), freed: ByteSize::default() };
        for image in idle {
            let removed = if dry_run { Ok(image) } else { self.evict(&image.digest) };
            match removed {
                Ok(image) => {
                    garbage.freed = ByteSize::bytes(garbage.freed.get() + image.stored.get());
                    garbage.removed.push(image);
                }
                // Someone was faster: to use it, or to remove it.
                Err(ImageError::InUse { .. } | ImageError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let partials = self.directory.remove_partials(&self.blobs_in_use(), dry_run)?;
        garbage.freed = ByteSize::bytes(garbage.freed.get() + partials.get());
        Ok(garbage)
    }

    /// Where what is left of a broken-off download is kept.
    pub(super) fn partial(&self, blob: &Digest) -> PathBuf {
        self.directory.partial(blob)
    }
}
