//! The image store against a real registry, real layouts, and images that mean harm.

// Helpers of tests fail by a panic, as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod hostile;
mod memory;
mod proxy;
mod pulls;
mod shapes;
mod tokens;
mod upkeep;

use std::{
    error::Error as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use goliath_agent::{
    config::ImageConfig,
    image::{Image, ImageError, ImageStore},
    spec::ImageReference,
};
use goliath_lab::large_image::Noise;
use tempfile::TempDir;

const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// A store in a directory of its own.
struct Store {
    store: ImageStore,
    directory: TempDir,
}

impl Store {
    /// Limited to disks of 64 MiB, so that what is too large is quickly made.
    fn open(plain_http: &[&str]) -> Self {
        Self::open_with(&ImageConfig {
            plain_http: plain_http.iter().map(ToString::to_string).collect(),
            ..ImageConfig::default()
        })
    }

    fn open_with(config: &ImageConfig) -> Self {
        let directory = tempfile::Builder::new().prefix("goliath-images.").tempdir().unwrap();
        let store = open(config, directory.path());
        Self { store, directory }
    }

    async fn pull(&self, reference: &str) -> Result<Arc<Image>, Arc<ImageError>> {
        self.store.pull(&parse(reference)).finish().await
    }

    /// Pulls what must be refused, and sees that nothing is left of it. Gives the error with its causes.
    async fn refusal(&self, reference: &str) -> (String, Arc<ImageError>) {
        let before = self.files();
        let error = match self.pull(reference).await {
            Ok(image) => panic!("{reference} was taken: {image:?}"),
            Err(error) => error,
        };
        assert_eq!(self.files(), before, "something changed or is left after {error}");
        (chain(&error), error)
    }

    /// All that is in the store's directories.
    fn files(&self) -> Vec<PathBuf> {
        ["images", "partial", "staging"].iter().flat_map(|name| list(&self.directory.path().join(name))).collect()
    }

    fn partials(&self) -> Vec<PathBuf> {
        list(&self.directory.path().join("partial"))
    }
}

fn open(config: &ImageConfig, directory: &Path) -> ImageStore {
    let config = ImageConfig { max_disk_mib: 64, ..config.clone() };
    ImageStore::open(&config, directory, Path::new(QEMU_IMG)).unwrap()
}

fn parse(reference: &str) -> ImageReference {
    reference.parse().unwrap()
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn chain(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Bytes that do not compress, the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Noise::new(seed).fill(&mut bytes);
    bytes
}

/// A raw disk: some data at its beginning and end, and zeros between.
fn raw_disk(mib: usize) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    let data = noise(256 << 10, mib as u64);
    let end = disk.len() - data.len();
    disk[..data.len()].copy_from_slice(&data);
    disk[end..].copy_from_slice(&data);
    disk
}

/// What `qemu-img` makes of these arguments, in which `{}` stands for the file.
fn qemu_img(arguments: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let text = path.to_str().unwrap();
    let status = Command::new(QEMU_IMG)
        .args(arguments.iter().map(|argument| argument.replace("{}", text)))
        .current_dir(directory.path())
        .status()
        .expect("qemu-img cannot be run: install qemu-utils");
    assert!(status.success(), "qemu-img {arguments:?}: {status}");
    fs::read(path).unwrap()
}

fn qcow2_disk(mib: usize) -> Vec<u8> {
    qemu_img(&["create", "-q", "-f", "qcow2", "{}", &format!("{mib}M")])
}
