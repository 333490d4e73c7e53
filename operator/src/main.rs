//! `goliath-operator`: telemetry, crypto, configuration, the operator, signals, a bounded drain; nothing else.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use goliath_operator::{
    agents::{Limits, Tls, TlsFiles},
    config::{AgentsConfig, Config},
    objects,
    operator::{Operator, Settings},
};
use goliath_server::{errors::with_causes, notify};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is under way when the operator is told to end may take so long to finish.
const DRAIN: Duration = Duration::from_secs(10);

type Ended = Result<(), Box<dyn std::error::Error>>;

/// Keeps clusters of virtual machines on many hosts as they are declared.
#[derive(Parser)]
#[command(name = "goliath-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator
    Run(Configured),
    /// Validate the configuration and end: every error at once, each with its line
    Check(Configured),
    /// Print the custom resource definitions of all kinds, for `kubectl apply -f -`
    Crds,
}

#[derive(Args)]
struct Configured {
    /// The configuration file
    #[arg(long, default_value = "/etc/goliath/operator.toml", value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(Configured { config }) => run(&config),
        Command::Check(Configured { config }) => Config::read(&config).map(drop).map_err(Into::into),
        Command::Crds => print_definitions(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("goliath-operator: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Path) -> Ended {
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
        let AgentsConfig { certificate, key, ca } = config.agents.clone();
        let agents = Tls::new(TlsFiles { certificate, key, agent_ca: ca }, Limits::default());
        let operator = Operator::start(config, Arc::new(agents), Settings::default()).await?;
        for address in operator.addresses() {
            tracing::info!(%address, "serves");
        }
        if let Err(reason) = notify::ready() {
            tracing::warn!(%reason, "could not tell that the operator is ready");
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            failed = operator.failed() => return Err(failed.into()),
        }
        tracing::info!("ending; what runs goes on");
        operator.drain(DRAIN).await?;
        Ok(())
    });
    // Work that blocks is abandoned: every step of it is safe to repeat.
    runtime.shutdown_background();
    ended
}

fn print_definitions() -> Ended {
    let documents = objects::definitions().iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
    let separator = |document: &String| format!("---\n{document}");
    let text: String = documents.iter().map(separator).collect();
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough, such as `head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
