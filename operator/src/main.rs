//! The operator's program.

use std::io::Write as _;

use clap::{Parser, Subcommand};
use goliath_operator::objects;

/// Keeps clusters of virtual machines on many hosts as they are declared.
#[derive(Parser)]
#[command(name = "goliath-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definitions of all kinds, for `kubectl apply -f -`.
    Crds,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().command {
        Command::Crds => {
            let documents =
                objects::definitions().iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
            let separator = |document: &String| format!("---\n{document}");
            let text: String = documents.iter().map(separator).collect();
            match std::io::stdout().write_all(text.as_bytes()) {
                // A reader that has seen enough, such as `head`.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                result => Ok(result?),
            }
        }
    }
}
