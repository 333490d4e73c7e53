//! Images with one large layer, written without ever holding it in memory.

use std::{
    fs,
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use anyhow::Result;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::oci_image::{OciImage, Packing};

const MIB: u64 = 1 << 20;

/// What a disk holds in each 16 MiB; the rest is empty.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// MiB that do not compress.
    pub noise: u64,
    /// MiB that compress well.
    pub text: u64,
}

impl Content {
    /// As the disk of a system: half of it does not compress, and a quarter is empty.
    pub const SYSTEM: Self = Self { noise: 8, text: 4 };
    /// Quickly made and unpacked, and yet a packed layer of some size.
    pub const SPARSE: Self = Self { noise: 2, text: 0 };
}

/// Writes an OCI layout of an image with one raw disk of this size, under a tag.
pub fn write_layout(layout: &Path, tag: &str, size: u64, content: Content, packing: Packing) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let packed = blobs.join("layer");
    let file = Hashed { file: BufWriter::new(fs::File::create(&packed)?), hash: Sha256::new(), length: 0 };
    let disk = Disk { position: 0, size, content, noise: Noise::new(1) };
    let mut file = match packing {
        Packing::Plain => append(file, disk)?,
        Packing::Gzip => append(flate2::write::GzEncoder::new(file, flate2::Compression::fast()), disk)?.finish()?,
        Packing::Zstd => append(zstd::Encoder::new(file, 1)?, disk)?.finish()?,
    };
    file.flush()?;
    let layer = format!("{:x}", file.hash.finalize());
    fs::rename(&packed, blobs.join(&layer))?;
    let image = OciImage::of_layers(Vec::new())?.with_manifest(|manifest| {
        let digest = format!("sha256:{layer}");
        manifest["layers"] = json!([{"mediaType": packing.media_type(), "digest": digest, "size": file.length}]);
    })?;
    image.write_layout(layout, tag).map(drop)
}

fn append<W: Write>(writer: W, disk: Disk) -> Result<W> {
    let mut archive = tar::Builder::new(writer);
    let mut header = tar::Header::new_gnu();
    header.set_size(disk.size);
    header.set_mode(0o644);
    archive.append_data(&mut header, "disk/guest.raw", disk)?;
    Ok(archive.into_inner()?)
}

/// A file whose hash is known when it is written.
struct Hashed<W> {
    file: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Disk {
    position: u64,
    size: u64,
    content: Content,
    noise: Noise,
}

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.size - self.position).min(MIB - self.position % MIB);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        match self.position / MIB % 16 {
            mib if mib < self.content.noise => self.noise.fill(part),
            mib if mib < self.content.noise + self.content.text => {
                let word = u64::from_le_bytes(*b"goliath\n") ^ (self.position >> 12);
                repeat(part, || word);
            }
            _ => part.fill(0),
        }
        self.position += length as u64;
        Ok(length)
    }
}

/// Bytes that do not compress, the same for the same seed.
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    /// Any seed will do.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        repeat(bytes, || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        });
    }
}

fn repeat(bytes: &mut [u8], mut word: impl FnMut() -> u64) {
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(word().to_le_bytes().get(..part.len()).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_its_size_and_compresses_as_it_should() {
        for (content, least) in [(Content::SYSTEM, 8 * MIB), (Content::SPARSE, 2 * MIB)] {
            let mut bytes = Vec::new();
            let mut disk = Disk { position: 0, size: 16 * MIB, content, noise: Noise::new(1) };
            disk.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, 16 * MIB);
            let packed = Packing::Gzip.pack(&bytes).unwrap().len() as u64;
            assert!((least..least + MIB).contains(&packed), "{content:?}: {packed}");
        }
    }
}
