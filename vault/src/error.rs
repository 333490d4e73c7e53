//! Why Vault did not do what it should.

use std::{path::PathBuf, time::Duration};

/// What stands between us and Vault, whatever was asked for: a sentence each, fit for a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Vault is there and sealed.
    #[error("Vault at {address} is sealed: unseal it")]
    Sealed {
        /// Vault's.
        address: String,
    },
    /// Vault is there and was never initialised.
    #[error("Vault at {address} is not initialised")]
    Uninitialized {
        /// Vault's.
        address: String,
    },
    /// No answer in time.
    #[error("Vault at {address} did not answer within {}", seconds(.limit))]
    Slow {
        /// Vault's.
        address: String,
        /// What it was given.
        limit: Duration,
    },
    /// Vault turns requests away for now.
    #[error("Vault at {address} has too much to do: {detail}")]
    Busy {
        /// Vault's.
        address: String,
        /// Its words.
        detail: String,
    },
    /// Nothing answers.
    #[error("Vault at {address} cannot be reached: {detail}")]
    Unreachable {
        /// Vault's.
        address: String,
        /// What the connection said.
        detail: String,
    },
    /// No login.
    #[error("no login to Vault at {address}: {detail}")]
    Login {
        /// Vault's.
        address: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The wrapping token was spent by another: somebody may hold the secret id.
    #[error(
        "SECURITY: the wrapping token in {} was already used, or is older than its life: if it was not you, somebody \
         else holds this host's secret id, so destroy it in Vault, find out who, and deliver a new one", .file.display()
    )]
    WrappingTokenSpent {
        /// Holds the token.
        file: PathBuf,
    },
    /// The wrapping token wraps something else than a secret id of this mount.
    #[error(
        "SECURITY: the wrapping token in {} was made by {creation_path}, not as a secret id: it was not unwrapped; find \
         out who put it there", .file.display()
    )]
    WrappingTokenForged {
        /// Holds the token.
        file: PathBuf,
        /// What Vault says made it.
        creation_path: String,
    },
    /// Files of the configuration do not serve.
    #[error("{}: {detail}", .file.display())]
    Misconfigured {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// What nobody expected.
    #[error("{path}: {detail}")]
    Unexpected {
        /// Of what.
        path: String,
        /// What was seen.
        detail: String,
    },
}

impl VaultError {
    /// One word in CamelCase, for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Sealed { .. } => "VaultSealed",
            Self::Uninitialized { .. } => "VaultUninitialized",
            Self::Slow { .. } => "VaultSlow",
            Self::Busy { .. } => "VaultBusy",
            Self::Unreachable { .. } => "VaultUnreachable",
            Self::Login { .. } => "VaultLoginFailed",
            Self::WrappingTokenSpent { .. } => "WrappingTokenSpent",
            Self::WrappingTokenForged { .. } => "WrappingTokenForged",
            Self::Misconfigured { .. } => "IssuerMisconfigured",
            Self::Unexpected { .. } => "IssuerFailed",
        }
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{:.3}", duration.as_secs_f64()).trim_end_matches('0').trim_end_matches('.').to_owned() + " s"
}

/// Why a call did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Vault understood and said no.
    #[error("Vault answered with status {code}: {}", .errors.join("; "))]
    Refused {
        /// The status of HTTP.
        code: u16,
        /// Vault's words.
        errors: Vec<String>,
    },
    /// It has nothing to do with the request.
    #[error(transparent)]
    Vault(#[from] VaultError),
}
