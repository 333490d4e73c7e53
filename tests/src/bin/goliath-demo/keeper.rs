//! `--keep`: the demo runs in a process of its own, which stays, with the registry, Vault and the agents as its children;
//! ours ends as soon as everything was shown.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::stage::IssuerChoice;

/// Starts the keeper and waits until it has shown everything, or has failed.
pub(crate) fn start(issuer: IssuerChoice) -> ExitCode {
    match start_and_wait(issuer) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("goliath-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_and_wait(issuer: IssuerChoice) -> Result<ExitCode> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut keeper = Command::new(std::env::current_exe()?)
        .args(["--keeper", "--issuer"])
        .arg(issuer.to_possible_value().context("an issuer without a name")?.get_name())
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .context("no keeper")?;
    // One byte when it has settled; the end of the stream when it ended instead.
    let settled = ours.read_exact(&mut [0]).is_ok();
    if settled {
        return Ok(ExitCode::SUCCESS);
    }
    let status = keeper.wait()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lets go of the terminal and of the process that started us.
pub(crate) fn settle() -> Result<()> {
    let mut starter = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    nix::unistd::setsid().context("cannot leave the terminal")?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    nix::unistd::dup2_stdout(&nothing)?;
    nix::unistd::dup2_stderr(&nothing)?;
    Ok(starter.write_all(b"k")?)
}
