//! `make bench`: what the agent costs, each figure beside the floor or the peer that is measured in the same run.

mod bare;
mod crowd;
mod figure;
mod fleet;
mod idle;
mod libvirt;
mod peers;
mod pull;
mod report;
mod stage;
mod start;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{figure::Figure, stage::Stage};

/// Measures the agent against bare QEMU, libvirt, bridge and skopeo. Needs root; leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "goliath-bench", version)]
struct Arguments {
    /// What to measure; everything if not given
    #[arg(value_enum)]
    subjects: Vec<Subject>,
    /// Where the figures are written
    #[arg(long, default_value = "target/bench.json", value_name = "FILE")]
    output: PathBuf,
}

/// One part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// 10,000 entries of peers against bridge and ip
    Peers,
    /// An image of 1 GiB against skopeo
    Pull,
    /// Apply to running against bare QEMU and libvirt
    Start,
    /// 32 guests at once against 32 bare QEMUs
    Crowd,
    /// The agent's memory and processor time with 50 guests
    Idle,
    /// The operator with 1,000 and 10,000 simulated hosts
    Fleet,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::select! {
        // Dropping what is under way ends and removes what was started for it.
        outcome = bench(&arguments) => outcome,
        outcome = interrupted() => outcome,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("goliath-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("told to end"),
    }
}

async fn bench(arguments: &Arguments) -> Result<()> {
    goliath_lab::program::require_root()?;
    let all = Subject::value_variants();
    let subjects = if arguments.subjects.is_empty() { all } else { &arguments.subjects };
    let figures = measure(subjects).await?;
    report::write(&figures, &arguments.output)?;
    println!("{}", report::table(&figures));
    println!("written to {}", arguments.output.display());
    Ok(())
}

async fn measure(subjects: &[Subject]) -> Result<Vec<Figure>> {
    let wants = |subject| subjects.contains(&subject);
    let mut figures = Vec::new();
    if wants(Subject::Start) || wants(Subject::Crowd) || wants(Subject::Idle) {
        let stage = Stage::set_up().await?;
        let measured = guests(&stage, &wants).await;
        figures.extend(measured.with_context(|| stage.agent_log_end())?);
    }
    if wants(Subject::Peers) {
        report::progress("10,000 entries of peers, against bridge and ip");
        figures.push(peers::measure().await?);
    }
    if wants(Subject::Pull) {
        report::progress("an image of 1 GiB, against skopeo");
        figures.extend(pull::measure().await?);
    }
    if wants(Subject::Fleet) {
        figures.extend(fleet::measure().await?);
    }
    Ok(figures)
}

async fn guests(stage: &Stage, wants: &impl Fn(Subject) -> bool) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    // First, while the agent has held no guest yet.
    if wants(Subject::Idle) {
        report::progress("the agent alone, then with 50 paused guests");
        figures.extend(idle::measure(stage).await?);
    }
    if wants(Subject::Start) {
        report::progress("one guest, against bare QEMU and libvirt");
        figures.extend(start::measure(stage).await?);
    }
    if wants(Subject::Crowd) {
        report::progress("32 guests at once, against bare QEMU");
        figures.push(crowd::measure(stage).await?);
    }
    Ok(figures)
}
