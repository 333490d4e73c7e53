//! `make demo`: two hosts, two clusters, four guests, and what they are for, proved one thing after the other.

mod client;
mod keeper;
mod manifests;
mod report;
mod scenes;
mod stage;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    report::Report,
    stage::{IssuerChoice, Stage},
};

/// The name of the lab that `--keep` leaves: by it `clean` finds it again. Any other demo has a name of its own.
const NAME: &str = "demo";

/// Shows Goliath at work: two hosts, two clusters, four guests.
#[derive(Debug, Parser)]
#[command(name = "goliath-demo", version)]
struct Arguments {
    /// Leave everything running at the end, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Stay at the end; the process that started this one waits at our standard input
    #[arg(long, hide = true, conflicts_with = "keep")]
    keeper: bool,
    /// Who issues the guests' certificates
    #[arg(long, value_enum, default_value_t = IssuerChoice::Auto)]
    issuer: IssuerChoice,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove what `--keep` left running
    Clean,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments {
        Arguments { command: Some(Command::Clean), .. } => clean(),
        Arguments { keep: true, issuer, .. } => return keeper::start(issuer),
        Arguments { keeper, issuer, .. } => perform(keeper, issuer),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("goliath-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> Result<()> {
    goliath_lab::program::require_root()?;
    if goliath_lab::scratch::remove_named(NAME)? {
        println!("The demo is gone.");
    } else {
        println!("There is no demo to remove.");
    }
    Ok(())
}

#[tokio::main]
async fn perform(keep: bool, issuer: IssuerChoice) -> Result<()> {
    goliath_lab::program::require_root()?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut report = Report::new();
    let lab = if keep {
        let here = std::env::current_exe()?;
        anyhow::ensure!(
            !goliath_lab::scratch::is_up(NAME)?,
            "one is up already: remove it with {} clean",
            here.display()
        );
        goliath_lab::Lab::named(NAME)?
    } else {
        goliath_lab::Lab::new()?
    };
    let shown = tokio::select! {
        shown = show(&lab, &mut report, keep, issuer) => shown,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    let stage = match shown {
        Ok(stage) => stage,
        Err(error) => {
            eprintln!("{}", lab.log_ends());
            return Err(error);
        }
    };
    if keep {
        stage.guide()?;
        keeper::settle()?;
        terminate.recv().await;
        return Ok(());
    }
    let directory = lab.directory().to_owned();
    drop((stage, lab));
    anyhow::ensure!(!directory.exists(), "{} is left", directory.display());
    report.proved("left behind", "no process, no mount, no namespace, no file");
    report.table();
    Ok(())
}

async fn show(lab: &goliath_lab::Lab, report: &mut Report, keep: bool, issuer: IssuerChoice) -> Result<Stage> {
    let stage = Stage::set_up(lab, issuer, report).await?;
    scenes::boot(&stage, report).await?;
    scenes::networks(&stage, report).await?;
    scenes::certificates(&stage, report).await?;
    scenes::kill_an_agent(&stage, report).await?;
    scenes::look(&stage, report)?;
    if keep {
        report.table();
    } else {
        scenes::delete(&stage, report).await?;
    }
    Ok(stage)
}
