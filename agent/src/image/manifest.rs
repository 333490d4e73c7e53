//! What a manifest says: pure, bounded, and without a look at the blobs.
//!
//! OCI image-spec 1.1 and Docker's schema 2, which agree in the fields that matter here.

use serde::Deserialize;

use super::ImageError;
use crate::spec::Digest;

/// The largest manifest or index that is read; the distribution specification asks registries for no more.
pub(super) const MANIFEST_LIMIT: u64 = 4 << 20;
/// The largest configuration that is read.
pub(super) const CONFIG_LIMIT: u64 = 1 << 20;
/// A kernel takes no longer command line (`COMMAND_LINE_SIZE` of x86).
pub(super) const COMMAND_LINE_LIMIT: u64 = 2048;
const LAYERS_LIMIT: usize = 128;

/// What a registry is asked for.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Where bytes are and what they are (OCI content descriptor).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Annotations,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    architecture: String,
    os: String,
}

/// Those that are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Annotations {
    /// A layout's tag.
    #[serde(default, rename = "org.opencontainers.image.ref.name")]
    pub(super) reference: Option<String>,
    /// ironcore: what the manifest is for.
    #[serde(default)]
    variant: Option<String>,
}

/// A manifest, or an index of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Contents),
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Contents {
    /// A container image: archives with a disk, a kernel or both in agreed places.
    Container { config: Descriptor, layers: Vec<Layer> },
    /// Each part is a blob of its own, told apart by its media type.
    Artifact { config: Descriptor, parts: Box<Parts> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) blob: Descriptor,
    pub(super) compression: Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) disk: Option<Descriptor>,
    pub(super) kernel: Option<Descriptor>,
    pub(super) initrd: Option<Descriptor>,
    pub(super) command_line: Option<Descriptor>,
}

impl Contents {
    /// The blobs that are downloaded to disk.
    pub(super) fn blobs(&self) -> Vec<&Descriptor> {
        match self {
            Self::Container { layers, .. } => layers.iter().map(|layer| &layer.blob).collect(),
            Self::Artifact { parts, .. } => {
                [&parts.disk, &parts.kernel, &parts.initrd].into_iter().filter_map(Option::as_ref).collect()
            }
        }
    }

    /// Bytes to download.
    pub(super) fn size(&self) -> u64 {
        self.blobs().iter().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, ImageError> {
    let raw: RawDocument = serde_json::from_slice(bytes)
        .map_err(|reason| ImageError::refused_because("its manifest is not one", reason))?;
    if raw.schema_version != 2 {
        return Err(ImageError::refused(format!(
            "its manifest has schema version {}: only 2 is read",
            raw.schema_version
        )));
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => Ok(Document::Index(manifests)),
        (None, Some(config), Some(layers)) => contents(config, layers).map(Document::Manifest),
        // Both at once could be read one way here and the other way elsewhere.
        _ => Err(ImageError::refused("its manifest is neither an image's (config, layers) nor an index (manifests)")),
    }
}

fn contents(config: Descriptor, layers: Vec<Descriptor>) -> Result<Contents, ImageError> {
    if layers.len() > LAYERS_LIMIT {
        return Err(ImageError::refused(format!("it has {} layers: {LAYERS_LIMIT} are the most", layers.len())));
    }
    if config.size > CONFIG_LIMIT {
        return Err(ImageError::refused(format!(
            "its configuration has {} bytes: {CONFIG_LIMIT} are the most",
            config.size
        )));
    }
    let artifact = std::iter::once(&config).chain(&layers).any(|blob| component(&blob.media_type).is_some());
    if artifact {
        return Ok(Contents::Artifact { config, parts: Box::new(parts(layers)?) });
    }
    let layers = layers.into_iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Contents::Container { config, layers })
}

fn layer(blob: Descriptor) -> Result<Layer, ImageError> {
    let compression = match blob.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Compression::Gzip
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Compression::Zstd
        }
        other => {
            return Err(ImageError::refused(format!(
                "its layer {} is a {other:?}: neither a tar archive (plain, gzip or zstd) nor a part of an ironcore \
                 image",
                blob.digest
            )));
        }
    };
    Ok(Layer { blob, compression })
}

/// `kernel` of `application/vnd.ironcore.image.kernel`; also of the older forms
/// `application/vnd.ironcore.image.vmlinuz.v1alpha1.vmlinuz` and `application/vnd.onmetal.…`.
fn component(media_type: &str) -> Option<&str> {
    let rest = media_type
        .strip_prefix("application/vnd.ironcore.image.")
        .or_else(|| media_type.strip_prefix("application/vnd.onmetal.image."))?;
    Some(rest.split_once(".v1alpha1").map_or(rest, |(name, _)| name))
}

fn parts(layers: Vec<Descriptor>) -> Result<Parts, ImageError> {
    let mut parts = Parts::default();
    for blob in layers {
        let name = component(&blob.media_type);
        let part = match name {
            Some("rootfs" | "disk.img") => &mut parts.disk,
            Some("vmlinuz" | "kernel") => &mut parts.kernel,
            Some("initramfs") => &mut parts.initrd,
            Some("cmdline") => &mut parts.command_line,
            // For machines that boot over the network; a guest has its disk.
            Some("squashfs" | "uki" | "iso") => continue,
            _ => {
                return Err(ImageError::refused(format!(
                    "its layer {} is a {:?}, which no ironcore image has",
                    blob.digest, blob.media_type
                )));
            }
        };
        if part.is_some() {
            return Err(ImageError::refused(format!("it has two layers of type {:?}", blob.media_type)));
        }
        *part = Some(blob);
    }
    if let Some(blob) = parts.command_line.as_ref().filter(|blob| blob.size > COMMAND_LINE_LIMIT) {
        return Err(ImageError::refused(format!(
            "its kernel command line has {} bytes: {COMMAND_LINE_LIMIT} are the most",
            blob.size
        )));
    }
    Ok(parts)
}

/// Which manifest of an index is for this kind of machine: linux/amd64, and of several the one for virtual machines.
pub(super) fn for_this_platform(manifests: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let fitting: Vec<&Descriptor> = manifests
        .iter()
        .filter(|entry| {
            entry.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == "amd64")
        })
        .collect();
    let for_guests = |entry: &&&Descriptor| entry.annotations.variant.as_deref() == Some("virtualization");
    if let Some(entry) = fitting.iter().find(for_guests).or_else(|| fitting.first()) {
        return Ok(entry);
    }
    match manifests {
        [only] if only.platform.is_none() => Ok(only),
        _ => {
            let offered: Vec<String> = manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            Err(ImageError::refused(format!("it is for {:?}: linux/amd64 is needed", offered.join(", "))))
        }
    }
}

/// A container image's configuration, as far as it matters: built for another processor it could only fail later.
pub(super) fn check_platform(config: &[u8]) -> Result<(), ImageError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        os: String,
    }
    let Config { architecture, os } = serde_json::from_slice(config)
        .map_err(|reason| ImageError::refused_because("its configuration cannot be read", reason))?;
    let fits = |value: &str, wanted| value.is_empty() || value == wanted;
    if fits(&architecture, "amd64") && fits(&os, "linux") {
        Ok(())
    } else {
        Err(ImageError::refused(format!("it is for {os}/{architecture}: linux/amd64 is needed")))
    }
}

/// The command line in an ironcore image's configuration.
pub(super) fn configured_command_line(config: &[u8]) -> Result<Option<String>, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        #[serde(default)]
        command_line: Option<String>,
    }
    let config: Config = serde_json::from_slice(config)
        .map_err(|reason| ImageError::refused_because("its configuration cannot be read", reason))?;
    config.command_line.map(|text| command_line(text.as_bytes())).transpose().map(Option::flatten)
}

/// A kernel command line: one line of printable text; empty is none.
pub(super) fn command_line(bytes: &[u8]) -> Result<Option<String>, ImageError> {
    let wrong = |what: &str| ImageError::refused(format!("its kernel command line {what}"));
    if bytes.len() as u64 > COMMAND_LINE_LIMIT {
        return Err(wrong(&format!("has {} bytes: {COMMAND_LINE_LIMIT} are the most", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?.trim();
    if text.contains(char::is_control) {
        return Err(wrong("has control characters: it must be one line of text"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests;
