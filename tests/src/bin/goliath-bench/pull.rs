//! An image of 1 GiB from a registry on loopback, beside `skopeo copy`; and how much memory it takes, beside a small
//! one.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use goliath_lab::{
    large_image::{self, Content},
    measured_pull::pull,
    namespace::run,
    oci_image::Packing,
    program,
    registry::Registry,
};

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

pub(crate) async fn measure() -> Result<Vec<Figure>> {
    tokio::task::spawn_blocking(compare).await?
}

fn compare() -> Result<Vec<Figure>> {
    let directory = tempfile::Builder::new().prefix("goliath-bench.").tempdir()?;
    let registry = Registry::start()?;
    let push = |name: &str, size: u64| {
        let layout = directory.path().join(name);
        large_image::write_layout(&layout, "v1", size, Content::SYSTEM, Packing::Gzip)
            .context("cannot make an image")?;
        let reference = registry.push_layout(name, "v1", &layout)?;
        fs::remove_dir_all(&layout)?;
        anyhow::Ok(reference)
    };
    let (large, small) = (push("large", LARGE)?, push("small", SMALL)?);
    let small_peak = pull(&small, &registry, directory.path())?.peak_memory;
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let pulled = pull(&large, &registry, directory.path())?;
        ours.push(pulled.time);
        peak = peak.max(pulled.peak_memory);
        theirs.push(copy(&large, &directory.path().join("copy"))?);
    }
    Ok(vec![TIME.timed(&ours, &theirs), MEMORY.measured(in_mib(peak), in_mib(small_peak))])
}

#[allow(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^52")]
fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
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
