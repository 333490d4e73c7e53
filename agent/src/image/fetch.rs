//! The work of a pull, from a reference to a published image.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use super::{
    Image, ImageError, digest_of, inspect, layout,
    manifest::{self, Compression, Contents, Descriptor, Document, Parts},
    pull::{Controls, Meter, Outcome, PullPhase},
    registry::Repository,
    sparse,
    store::{Inner, NewImage, RecordedDisk, blocking},
    transfer::{Chunks, Origin, TransferError, transfer},
    unpack::{self, Changes, Files, Limits, Place},
};
use crate::spec::{ByteSize, Digest, ImageReference, ImageSource};

/// Where an image's manifests and blobs are.
#[derive(Clone)]
enum Source {
    Registry(Repository),
    Layout(PathBuf),
}

/// What a reference was found to mean.
#[derive(Clone)]
struct Resolved {
    digest: Digest,
    /// The index that led to the manifest.
    index: Option<Digest>,
    contents: Contents,
}

/// Pulls what a reference means, waiting for others who pull the same image.
pub(super) async fn by_reference(store: Arc<Inner>, reference: ImageReference, controls: Controls) -> Outcome {
    if let Some(image) = reference.digest().and_then(|digest| store.present(digest)) {
        return note(store, image, reference, None).await;
    }
    let source = Source::of(&store, &reference)?;
    let resolving = controls.stop.run_until_cancelled(source.resolve(&reference));
    let resolved = resolving.await.unwrap_or(Err(ImageError::Cancelled))?;
    let index = resolved.index.clone();
    let image = if let Some(image) = store.present(&resolved.digest) {
        image
    } else {
        let flight = store
            .downloads
            .join(resolved.digest.clone(), |controls| by_digest(Arc::clone(&store), source, resolved, controls));
        let fetching = controls.stop.run_until_cancelled(flight.outcome_with_progress(&controls.meter));
        fetching.await.unwrap_or_else(|| Err(Arc::new(ImageError::Cancelled)))?
    };
    note(store, image, reference, index).await
}

async fn note(store: Arc<Inner>, image: Arc<Image>, reference: ImageReference, index: Option<Digest>) -> Outcome {
    let digest = image.digest.clone();
    let noted = blocking(move || Ok(store.note(&digest, &reference, index.as_ref()))).await?;
    Ok(noted.unwrap_or(image))
}

async fn by_digest(store: Arc<Inner>, source: Source, resolved: Resolved, controls: Controls) -> Outcome {
    if let Some(image) = store.present(&resolved.digest) {
        return Ok(image);
    }
    let staging = store.directory.stage(&resolved.digest)?;
    let outcome = fetch(&store, &source, &resolved, &controls, &staging).await;
    // What is resumed is only what may still become an image.
    let useless = matches!(outcome, Ok(_) | Err(ImageError::Refused { .. }));
    blocking(move || {
        drop(staging);
        if useless {
            for blob in resolved.contents.blobs() {
                // What is left here is garbage that a collection finds.
                let _ = fs::remove_file(store.partial(&blob.digest));
            }
        }
        Ok(())
    })
    .await?;
    outcome.map_err(Arc::new)
}

async fn fetch(
    store: &Arc<Inner>,
    source: &Source,
    resolved: &Resolved,
    controls: &Controls,
    staging: &TempDir,
) -> Result<Arc<Image>, ImageError> {
    let Resolved { digest, contents, .. } = resolved;
    store.directory.check_space(ByteSize::bytes(contents.size()))?;
    controls.meter.start(contents.size());
    let transfers = Transfers { store, source, controls, staging: staging.path(), done: 0, count: 0 };
    let unpacked = match contents {
        Contents::Container { config, layers } => {
            manifest::check_platform(&transfers.config(config).await?)?;
            let mut files = Files::new();
            let (mut transfers, mut budget) = (transfers, store.limits.total());
            for layer in layers {
                let changes = transfers.layer(&layer.blob, layer.compression, budget).await?;
                budget = budget.saturating_sub(changes.unpacked());
                changes.apply(&mut files);
            }
            Unpacked::from_files(files)?
        }
        Contents::Artifact { config, parts } => transfers.parts(config, parts).await?,
    };
    controls.meter.phase(PullPhase::Inspecting);
    let new = unpacked.inspected(store, digest).await?;
    let store = Arc::clone(store);
    blocking(move || store.publish(new)).await
}

/// An image's files, before its disk was looked at.
struct Unpacked {
    /// With the name that may tell the format.
    disk: Option<(PathBuf, String)>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    command_line: Option<String>,
}

impl Unpacked {
    fn from_files(files: Files) -> Result<Self, ImageError> {
        let mut unpacked = Self { disk: None, kernel: None, initrd: None, command_line: None };
        for (place, path) in files {
            match place {
                Place::Disk(name) => {
                    if let Some((_, other)) = unpacked.disk.replace((path, name.clone())) {
                        return Err(ImageError::refused(format!("it has more than one disk: {other} and {name}")));
                    }
                }
                Place::Kernel => unpacked.kernel = Some(path),
                Place::Initrd => unpacked.initrd = Some(path),
                Place::CommandLine => {
                    let bytes = fs::read(&path).map_err(ImageError::storage("read", &path))?;
                    unpacked.command_line = manifest::command_line(&bytes)?;
                }
            }
        }
        Ok(unpacked)
    }

    async fn inspected(self, store: &Inner, digest: &Digest) -> Result<NewImage, ImageError> {
        if self.kernel.is_none() && (self.initrd.is_some() || self.command_line.is_some()) {
            return Err(ImageError::refused(
                "it has an initrd or a kernel command line, and no kernel (/boot/vmlinuz)",
            ));
        }
        if self.disk.is_none() && self.kernel.is_none() {
            return Err(ImageError::refused("it has neither a disk (/disk/<name>.qcow2) nor a kernel (/boot/vmlinuz)"));
        }
        let disk = match self.disk {
            None => None,
            Some((path, name)) => {
                let format = inspect::format_of(&path, &name)?;
                let virtual_size = store.inspector.virtual_size(&path, format).await?;
                Some((path, RecordedDisk { format, virtual_size }))
            }
        };
        Ok(NewImage {
            digest: digest.clone(),
            disk,
            kernel: self.kernel,
            initrd: self.initrd,
            command_line: self.command_line,
        })
    }
}

/// The transfers of one image, one after the other.
struct Transfers<'a> {
    store: &'a Arc<Inner>,
    source: &'a Source,
    controls: &'a Controls,
    staging: &'a Path,
    /// Bytes of the blobs before.
    done: u64,
    count: usize,
}

impl Transfers<'_> {
    async fn config(&self, blob: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let reading = self.controls.stop.run_until_cancelled(self.source.config(blob));
        reading.await.unwrap_or(Err(ImageError::Cancelled))
    }

    async fn layer(&mut self, blob: &Descriptor, compression: Compression, budget: u64) -> Result<Changes, ImageError> {
        let limits = self.store.limits;
        self.transfer(blob, |directory| {
            move |chunks: Chunks| unpack::layer(chunks, compression, budget, limits, &directory)
        })
        .await
    }

    async fn parts(mut self, config: &Descriptor, parts: &Parts) -> Result<Unpacked, ImageError> {
        let kernel = self.part(parts.kernel.as_ref(), &Place::Kernel).await?;
        let initrd = self.part(parts.initrd.as_ref(), &Place::Initrd).await?;
        let disk = self.part(parts.disk.as_ref(), &Place::Disk("rootfs".to_owned())).await?;
        let command_line = match &parts.command_line {
            Some(blob) => manifest::command_line(&self.config(blob).await?)?,
            None => manifest::configured_command_line(&self.config(config).await?)?,
        };
        // The configuration is the same for an image's variants without a kernel.
        let command_line = command_line.filter(|_| kernel.is_some());
        Ok(Unpacked { disk: disk.map(|path| (path, "rootfs".to_owned())), kernel, initrd, command_line })
    }

    /// A blob that is a file as it is.
    async fn part(&mut self, blob: Option<&Descriptor>, place: &Place) -> Result<Option<PathBuf>, ImageError> {
        let Some(blob) = blob else { return Ok(None) };
        let (limits, size): (Limits, u64) = (self.store.limits, blob.size);
        limits.check(place, size)?;
        let written = self.transfer(blob, |directory| {
            move |mut chunks: Chunks| {
                let path = directory.join("0");
                sparse::write(&path, size, &mut chunks)?;
                // Up to the mark that all was verified.
                std::io::copy(&mut chunks, &mut std::io::sink())?;
                Ok(path)
            }
        });
        written.await.map(Some)
    }

    /// Transfers a blob into a new directory. A partial file that proves damaged is thrown away, once.
    async fn transfer<T, U>(&mut self, blob: &Descriptor, unpack: impl Fn(PathBuf) -> U) -> Result<T, ImageError>
    where
        T: Send + 'static,
        U: FnOnce(Chunks) -> Result<T, super::archive::Fault> + Send + 'static,
    {
        let Controls { meter, stop } = self.controls;
        let meter: Meter = meter.after(self.done);
        let owning = stop.run_until_cancelled(self.store.own_blob(&blob.digest));
        let _owned = owning.await.ok_or(ImageError::Cancelled)?;
        let origin = self.source.origin(self.store, &blob.digest);
        let mut retried = false;
        loop {
            let directory = self.staging.join(self.count.to_string());
            self.count += 1;
            fs::create_dir(&directory).map_err(ImageError::storage("create", &directory))?;
            match transfer(&origin, blob, &meter, stop, unpack(directory)).await {
                Ok(result) => {
                    self.done += blob.size;
                    return Ok(result);
                }
                Err(TransferError::Failed(error)) => return Err(error),
                Err(TransferError::DamagedPartial) => {
                    let partial = self.store.partial(&blob.digest);
                    fs::remove_file(&partial).map_err(ImageError::storage("remove", &partial))?;
                    if retried {
                        return Err(ImageError::refused(format!("its blob {} has another hash", blob.digest)));
                    }
                    retried = true;
                }
            }
        }
    }
}

impl Source {
    fn of(store: &Inner, reference: &ImageReference) -> Result<Self, ImageError> {
        match reference.source() {
            ImageSource::Registry { registry, repository } => {
                store.registries.repository(registry, repository).map(Self::Registry)
            }
            ImageSource::Layout { directory } => Ok(Self::Layout(directory.clone())),
        }
    }

    async fn resolve(&self, reference: &ImageReference) -> Result<Resolved, ImageError> {
        let bytes = match self {
            Self::Registry(repository) => repository.manifest(reference).await?,
            Self::Layout(directory) => {
                let (directory, reference) = (directory.clone(), reference.clone());
                blocking(move || layout::manifest(&directory, &reference)).await?
            }
        };
        let digest = digest_of(&bytes)?;
        match manifest::parse(&bytes)? {
            Document::Manifest(contents) => Ok(Resolved { digest, index: None, contents }),
            Document::Index(entries) => {
                let chosen = manifest::for_this_platform(&entries)?.digest.clone();
                match manifest::parse(&self.manifest(&chosen).await?)? {
                    Document::Manifest(contents) => Ok(Resolved { digest: chosen, index: Some(digest), contents }),
                    Document::Index(_) => Err(ImageError::refused("its index leads to another index")),
                }
            }
        }
    }

    async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(repository) => repository.manifest_by_digest(digest).await,
            Self::Layout(directory) => {
                let (directory, digest) = (directory.clone(), digest.clone());
                blocking(move || layout::blob(&directory, &digest, manifest::MANIFEST_LIMIT, "manifest")).await
            }
        }
    }

    async fn config(&self, blob: &Descriptor) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(repository) => repository.config(blob).await,
            Self::Layout(directory) => {
                let (directory, digest) = (directory.clone(), blob.digest.clone());
                blocking(move || layout::blob(&directory, &digest, manifest::CONFIG_LIMIT, "configuration")).await
            }
        }
    }

    fn origin(&self, store: &Inner, blob: &Digest) -> Origin {
        match self {
            Self::Registry(repository) => {
                Origin::Registry { repository: repository.clone(), partial: store.partial(blob) }
            }
            Self::Layout(directory) => Origin::File(layout::blob_path(directory, blob)),
        }
    }
}
