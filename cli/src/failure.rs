//! Why a command did not do what it was asked to: what a person reads, and what a script gets as exit code.

use std::{error::Error, fmt::Write as _, io};

use crate::{
    connection::{ConfigError, ConnectError},
    guest_reference::ReferenceError,
    manifest::ManifestError,
    refusal::Refusal,
    style::{Style, Tone},
    verbs::{apply::WaitError, pki::PkiError},
};

/// The exit codes of `goliath`. Clap ends with 2 by itself when the command line is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    Error = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unreachable = 5,
    TimedOut = 6,
    NotPermitted = 7,
    /// Of `doctor`: guests will run, but not as well as they could.
    Warnings = 8,
}

/// Shown at the end of `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  an error that no other code names; of `doctor`: something fails
  2  the command line or the client's configuration is wrong
  3  what was asked for is not there
  4  refused: the manifest is wrong, or it cannot be done in this state
  5  the agent, or the operator, cannot be reached or does not answer
  6  --timeout passed while waiting
  7  not permitted
  8  of `doctor`: warnings, and nothing fails";

/// Everything that can end a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Wait(#[from] WaitError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Some of several things were done and some not; each was told of.
    #[error("{failed} of {total} were not applied")]
    Partly { failed: usize, total: usize, code: ExitCode },
    /// Somebody else ended it before it was done.
    #[error("{0} was broken off")]
    BrokenOff(String),
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    #[error("cannot {0}")]
    Terminal(&'static str, #[source] io::Error),
    /// The output says it all: the verdict of `doctor`.
    #[error("")]
    Verdict(ExitCode),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Manifest(ManifestError::Unreadable { .. }) | Self::Output(_) | Self::Terminal(..) => ExitCode::Error,
            Self::Manifest(_) => ExitCode::Refused,
            Self::Config(_) => ExitCode::Usage,
            Self::BrokenOff(_) => ExitCode::Unreachable,
            Self::Connect(error) => error.exit_code(),
            Self::Refusal(refusal) => refusal.exit_code(),
            Self::Reference(error) => error.exit_code(),
            Self::Wait(error) => error.exit_code(),
            Self::Pki(error) => error.exit_code(),
            Self::Partly { code, .. } | Self::Verdict(code) => *code,
        }
    }

    /// What to do about it, where that is known.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect(error) => Some(error.hint()),
            Self::Refusal(refusal) => refusal.hint(),
            Self::Reference(error) => Some(error.hint()),
            Self::Wait(error) => Some(error.hint()),
            Self::Pki(error) => error.hint(),
            _ => None,
        }
    }

    /// The reader of our output went away, as `head` does: nothing went wrong.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What a person reads: the error, what caused it, what to do. Empty where the output said it already.
    pub(crate) fn report(&self, style: Style) -> String {
        if matches!(self, Self::Verdict(_)) {
            return String::new();
        }
        // Writing to a String does not fail.
        let mut text = format!("{} {self}\n", style.paint(Tone::Bad, "error:"));
        let mut cause = self.source();
        while let Some(error) = cause {
            let _ = writeln!(text, "  because: {error}");
            cause = error.source();
        }
        if let Some(hint) = self.hint() {
            let _ = writeln!(text, "{} {hint}", style.paint(Tone::Note, "hint:"));
        }
        text
    }
}
