//! An image pulled by a process of its own, so that its memory is that of the pull.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use goliath_agent::{config::ImageConfig, image::ImageStore};

use crate::{namespace::run, program, registry::Registry};

/// What a pull took.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredPull {
    /// From the start of the process to its end.
    pub time: Duration,
    /// The most memory that was resident, in bytes.
    pub peak_memory: u64,
}

/// Pulls an image into an empty store below `directory`, which is removed again.
pub fn pull(reference: &str, registry: &Registry, directory: &Path) -> Result<MeasuredPull> {
    let store = directory.join("store");
    let mut command = Command::new(program::pull_once()?);
    command.args([reference, registry.address()]).arg(&store).stdin(Stdio::null());
    let begin = Instant::now();
    let peak = run(&mut command)?;
    let time = begin.elapsed();
    fs::remove_dir_all(&store)?;
    Ok(MeasuredPull { time, peak_memory: peak.trim().parse()? })
}

/// Pulls one image into an empty store, and prints the most memory that took, in bytes.
#[derive(Debug, Parser)]
#[command(name = "pull-once", version)]
pub struct Order {
    reference: String,
    /// Of the registry, which is spoken to without TLS
    registry: String,
    store: PathBuf,
}

impl Order {
    /// What the process of a pull does.
    pub async fn carry_out(self) -> Result<()> {
        let config = ImageConfig { plain_http: vec![self.registry], ..ImageConfig::default() };
        let store = ImageStore::open(&config, &self.store, &program::installed("qemu-img")?)?;
        store.pull(&self.reference.parse()?).finish().await?;
        println!("{}", peak_memory()?);
        Ok(())
    }
}

/// The high-water mark of this process's resident memory, in bytes.
fn peak_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a process without memory")?;
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
