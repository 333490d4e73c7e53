//! Makes OCI images, good ones and bad ones, in memory: as a layout or to be pushed.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image: its blobs, and the manifest or index at their head.
#[derive(Debug, Clone)]
pub struct OciImage {
    /// By digest. Manifests that an index names are not among them.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Those that an index names, by digest.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// What a tag names.
    pub head: Vec<u8>,
    /// Its type.
    pub head_type: &'static str,
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// A tar archive as it is.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// The layer's media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Packs an archive.
    pub fn pack(self, archive: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(archive.to_vec()),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(archive)?;
                Ok(encoder.finish()?)
            }
            Self::Zstd => Ok(zstd::encode_all(archive, 1)?),
        }
    }
}

/// A tar archive of regular files.
pub fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content)?;
    }
    Ok(builder.into_inner()?)
}

/// A tar archive of one entry of any kind, at a path that is not checked.
pub fn archive_of(kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let fields = header.as_mut_bytes();
    fields[..path.len()].copy_from_slice(path.as_bytes());
    fields[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content)?;
    Ok(builder.into_inner()?)
}

impl OciImage {
    /// A container image of one layer with these files.
    pub fn container(files: &[(&str, &[u8])], packing: Packing) -> Result<Self> {
        Self::of_layers(vec![(packing.media_type(), packing.pack(&archive(files)?)?)])
    }

    /// A container image of layers as they are.
    pub fn of_layers(layers: Vec<(&str, Vec<u8>)>) -> Result<Self> {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        Self::of_blobs((CONFIG, serde_json::to_vec(&config)?), layers)
    }

    /// Any image: a configuration and layers, each with its media type.
    pub fn of_blobs(config: (&str, Vec<u8>), layers: Vec<(&str, Vec<u8>)>) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        let mut keep = |(media_type, bytes): (&str, Vec<u8>)| {
            let descriptor = json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
            blobs.insert(digest(&bytes), bytes);
            descriptor
        };
        let config = keep(config);
        let layers: Vec<Value> = layers.into_iter().map(keep).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let head = serde_json::to_vec(&manifest)?;
        Ok(Self { blobs, manifests: BTreeMap::new(), head, head_type: MANIFEST })
    }

    /// An index of images for platforms like `linux/arm64`.
    pub fn index(images: &[(&str, Self)]) -> Result<Self> {
        let mut index = Self { blobs: BTreeMap::new(), manifests: BTreeMap::new(), head: Vec::new(), head_type: INDEX };
        let mut entries = Vec::new();
        for (platform, image) in images {
            let (os, architecture) = platform.split_once('/').context("a platform is like linux/amd64")?;
            entries.push(json!({
                "mediaType": image.head_type, "digest": image.digest(), "size": image.head.len(),
                "platform": {"os": os, "architecture": architecture},
            }));
            index.blobs.extend(image.blobs.clone());
            index.manifests.insert(image.digest(), image.head.clone());
        }
        index.head = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))?;
        Ok(index)
    }

    /// The same with a manifest that says something else.
    pub fn with_manifest(mut self, change: impl FnOnce(&mut Value)) -> Result<Self> {
        let mut manifest = serde_json::from_slice(&self.head)?;
        change(&mut manifest);
        self.head = serde_json::to_vec(&manifest)?;
        Ok(self)
    }

    /// Of the head.
    pub fn digest(&self) -> String {
        digest(&self.head)
    }

    /// The digest of the layer at a position.
    pub fn layer(&self, position: usize) -> Result<String> {
        let manifest: Value = serde_json::from_slice(&self.head)?;
        let digest = manifest["layers"][position]["digest"].as_str().context("there is no such layer")?;
        Ok(digest.to_owned())
    }

    /// Writes an OCI layout with the image under a tag; gives the reference.
    pub fn write_layout(&self, directory: &Path, tag: &str) -> Result<String> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let head = [(self.digest(), self.head.clone())];
        for (digest, bytes) in self.blobs.iter().chain(&self.manifests).chain(head.iter().map(|(d, b)| (d, b))) {
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes)?;
        }
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": self.head_type, "digest": self.digest(), "size": self.head.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        fs::write(directory.join("index.json"), serde_json::to_vec(&index)?)?;
        Ok(format!("oci-layout:{}:{tag}", directory.display()))
    }
}
