//! An image of 1 GiB from a registry on loopback, beside `skopeo copy`; and how much memory it takes, beside a small
//! one.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use goliath_agent::{config::ImageConfig, image::ImageStore};
use goliath_lab::{namespace::run, program, registry::Registry};
use sha2::{Digest as _, Sha256};

use crate::figure::{Figure, Plan};

const MIB: u64 = 1 << 20;
const LARGE: u64 = 1024 * MIB;
/// More than all buffers on the way hold.
const SMALL: u64 = 128 * MIB;
const ROUNDS: usize = 3;

const TIME: Plan = Plan {
    name: "pull of a layer of 1 GiB",
    unit: "ms",
    baseline_name: "skopeo copy",
    goal: Some(1.1),
    cost: "The agent also decompresses the layer, checks what comes out and lays the disk out sparsely; skopeo keeps \
           it packed.",
};
const MEMORY: Plan = Plan {
    name: "peak memory, layer of 1 GiB",
    unit: "MiB",
    baseline_name: "layer of 128 MiB",
    goal: Some(1.25),
    cost: "Something grows with the layer: a defect.",
};

/// One pull, in a process of its own.
#[derive(Debug, Args)]
pub(crate) struct Order {
    reference: String,
    /// Of the registry, which is spoken to without TLS
    registry: String,
    store: PathBuf,
}

pub(crate) async fn carry_out(order: &Order) -> Result<()> {
    let config = ImageConfig { plain_http: vec![order.registry.clone()], ..ImageConfig::default() };
    let store = ImageStore::open(&config, &order.store, &program::installed("qemu-img")?)?;
    store.pull(&order.reference.parse()?).finish().await?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a process without memory")?;
    println!("{}", peak.trim().trim_end_matches(" kB"));
    Ok(())
}

pub(crate) async fn measure() -> Result<Vec<Figure>> {
    tokio::task::spawn_blocking(compare).await?
}

fn compare() -> Result<Vec<Figure>> {
    let directory = tempfile::Builder::new().prefix("goliath-bench.").tempdir()?;
    let registry = Registry::start()?;
    let push = |name: &str, size: u64| {
        let layout = directory.path().join(name);
        write_layout(&layout, size).context("cannot make an image")?;
        let reference = registry.push_layout(name, "v1", &layout)?;
        fs::remove_dir_all(&layout)?;
        anyhow::Ok(reference)
    };
    let (large, small) = (push("large", LARGE)?, push("small", SMALL)?);
    let target = directory.path().join("target");
    let (_, small_peak) = pull(&small, &registry, &target)?;
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..ROUNDS {
        let (time, memory) = pull(&large, &registry, &target)?;
        ours.push(time);
        peak = peak.max(memory);
        theirs.push(copy(&large, &target)?);
    }
    Ok(vec![TIME.timed(&ours, &theirs), MEMORY.measured(peak, small_peak)])
}

/// The time, and the most memory that it took, in MiB.
fn pull(reference: &str, registry: &Registry, target: &Path) -> Result<(Duration, f64)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["pull-once", reference, registry.address()]).arg(target).stdin(Stdio::null());
    let begin = Instant::now();
    let peak = run(&mut command)?;
    let time = begin.elapsed();
    fs::remove_dir_all(target)?;
    let kib: f64 = peak.trim().parse()?;
    Ok((time, kib / 1024.0))
}

fn copy(reference: &str, target: &Path) -> Result<Duration> {
    let mut command = Command::new(program::installed("skopeo")?);
    command.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
    command.arg(format!("docker://{reference}")).arg(format!("oci:{}:v1", target.display()));
    let begin = Instant::now();
    run(&mut command)?;
    let time = begin.elapsed();
    fs::remove_dir_all(target)?;
    Ok(time)
}

/// Writes an image with one disk of this size, packed with gzip, without ever holding it in memory.
fn write_layout(layout: &Path, size: u64) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let keep = |bytes: &[u8]| {
        let digest = format!("{:x}", Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).map(|()| serde_json::json!(format!("sha256:{digest}")))
    };
    let packed = blobs.join("layer");
    let file = Hashed { file: io::BufWriter::new(fs::File::create(&packed)?), hash: Sha256::new(), length: 0 };
    let encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let mut archive = tar::Builder::new(encoder);
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, "disk/guest.raw", Disk { position: 0, size, state: 1 })?;
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    let layer = format!("{:x}", file.hash.finalize());
    fs::rename(&packed, blobs.join(&layer))?;

    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": keep(config)?, "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{layer}"), "size": file.length,
        }],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": keep(&manifest)?, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    ensure!(file.length > 0, "a layer of no bytes");
    Ok(())
}

/// A file whose hash is known when it is written.
struct Hashed<W> {
    file: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What a disk is like: of each 16 MiB one half does not compress, a quarter does, and a quarter is empty.
struct Disk {
    position: u64,
    size: u64,
    state: u64,
}

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..left).unwrap_or_default();
        for part in buffer.chunks_mut(8) {
            let word = match self.position % (16 * MIB) / (4 * MIB) {
                0 | 1 => self.noise(),
                2 => u64::from_le_bytes(*b"goliath\n") ^ (self.position >> 12),
                _ => 0,
            };
            part.copy_from_slice(word.to_le_bytes().get(..part.len()).unwrap_or_default());
            self.position += part.len() as u64;
        }
        Ok(left)
    }
}

impl Disk {
    fn noise(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_its_size_and_half_of_it_does_not_compress() {
        let mut disk = Vec::new();
        Disk { position: 0, size: 16 * MIB, state: 1 }.read_to_end(&mut disk).unwrap();
        assert_eq!(disk.len() as u64, 16 * MIB);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&disk).unwrap();
        let packed = packed.finish().unwrap().len() as u64;
        assert!((8 * MIB..10 * MIB).contains(&packed), "{packed}");
    }
}
