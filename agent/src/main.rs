//! `goliath-agent`: telemetry, crypto, configuration, the agent, signals, a bounded drain; nothing else.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use goliath_agent::{agent::Agent, config::Config, notify, qemu::launch};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is under way when the agent is told to end may take so long to finish.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
#[command(name = "goliath-agent", version, about = "Starts, keeps and shows the QEMU guests of this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run(Configured),
    /// Validate the configuration and end: every error at once, each with its line
    Check(Configured),
    /// Become one guest's QEMU; the agent runs this, and tells it how on an open file
    #[command(hide = true)]
    Launch,
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration file
    #[arg(long, default_value = "/etc/goliath/agent.toml", value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(Configured { config }) => run(&config),
        Command::Check(Configured { config }) => Config::read(&config).map(drop).map_err(Into::into),
        // Without a runtime or telemetry: this becomes QEMU within milliseconds.
        Command::Launch => return launch::main(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("goliath-agent: {}", goliath_agent::errors::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(config: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(config)?;
    let filter = EnvFilter::try_from_env("GOLIATH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err("another TLS provider was installed before: this is a defect of the build".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut agent = Agent::start(config).await?;
        if let Err(reason) = notify::ready() {
            tracing::warn!(%reason, "could not tell that the agent is ready");
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            failed = agent.failed() => return Err(failed.into()),
        }
        tracing::info!("ending; the guests go on");
        agent.drain(DRAIN).await;
        Ok(())
    });
    // Work that blocks (a pull that unpacks, say) is abandoned: every step of it is safe to repeat.
    runtime.shutdown_background();
    ended
}
