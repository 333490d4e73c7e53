//! `goliath completion`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{arguments::Arguments, failure::Failure, output::print};

/// Prints a script that lets a shell complete commands and options
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(goliath completion bash)
  goliath completion zsh > ~/.zfunc/_goliath
  goliath completion fish > ~/.config/fish/completions/goliath.fish")]
pub(crate) struct CompletionArguments {
    shell: Shell,
}

pub(super) fn run(arguments: &CompletionArguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "goliath", &mut script);
    print(&String::from_utf8_lossy(&script))
}
