//! What can go wrong, told apart by what an engineer does about it.

use goliath_vault::{CallError, VaultError};

use super::mark::{Mark, Owner};
use crate::objects::{HostName, IssuerName};

/// Something that is in the way and not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// It has no mark.
    #[error(
        "Vault has {what} that Goliath did not make: remove or rename it, or choose another name for {} {}", .wanted.kind,
        .wanted.name
    )]
    Unowned {
        /// Such as `the mount pki-acme`.
        what: String,
        /// For whom it is needed.
        wanted: Owner,
    },
    /// It is another object's.
    #[error(
        "Vault has {what} for another owner ({found}), not for {wanted}: forget or delete that one first, or choose \
         another name"
    )]
    Another {
        /// Such as `the mount pki-acme`.
        what: String,
        /// For whom it is needed.
        wanted: Owner,
        /// Whose it is.
        found: String,
    },
}

/// Refuses what is there and not of this owner.
pub(super) fn require(mark: &Mark, wanted: &Owner, what: impl FnOnce() -> String) -> Result<(), Conflict> {
    match mark {
        mark if mark.is_of(wanted) => Ok(()),
        Mark::None => Err(Conflict::Unowned { what: what(), wanted: wanted.clone() }),
        Mark::Ours(found) => Err(Conflict::Another { what: what(), wanted: wanted.clone(), found: found.clone() }),
    }
}

/// Why Vault is not as it should be: a sentence each, fit for a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Sealed, slow, away, or no login: wait, or mend Vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The operator's policy does not allow it: compare it with the documentation.
    #[error("Vault does not allow the operator to use {path}: its token needs the policy that the documentation shows")]
    Forbidden {
        /// What was asked for.
        path: String,
    },
    /// Something is in the way: somebody has to decide.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// No AppRole: an administrator enables it, the operator has no right to.
    #[error("Vault has no AppRole at auth/{mount}: enable it with `vault auth enable -path={mount} approle`")]
    NoAppRole {
        /// Where it should be.
        mount: String,
    },
    /// A removal that Vault gave up half-way. It waits for ever in another one, and with it all that is asked of it: seen
    /// with Vault 1.21.
    #[error(
        "Vault was interrupted while it removed {mount}, and may stop altogether if it is asked again: restart it, or seal \
         and unseal it, then run `vault secrets disable {mount}`"
    )]
    Interrupted {
        /// What is half there.
        mount: String,
    },
    /// A host has credentials already; nobody is told them twice.
    #[error("host {0} has credentials already: rotate them to get new ones")]
    AlreadyIssued(HostName),
    /// The configuration has no such issuer.
    #[error("the operator's configuration has no issuer `{0}`: add it there, or name another")]
    UnknownIssuer(IssuerName),
    /// The store gave an object no uid to mark things with.
    #[error("the object's uid is {0:?}, which is no UUID: nothing can be marked with it")]
    NoUid(String),
    /// Vault says no to what was asked for.
    #[error("Vault refuses {path} with status {code}: {detail}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The status of HTTP.
        code: u16,
        /// Its words.
        detail: String,
    },
}

impl PkiError {
    /// One word in CamelCase, for a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Vault(error) => error.reason(),
            Self::Forbidden { .. } => "VaultForbidden",
            Self::Conflict(_) => "VaultConflict",
            Self::NoAppRole { .. } => "VaultAppRoleMissing",
            Self::Interrupted { .. } => "VaultInterrupted",
            Self::AlreadyIssued(_) => "CredentialsAlreadyIssued",
            Self::UnknownIssuer(_) => "UnknownIssuer",
            Self::NoUid(_) => "InvalidUid",
            Self::Refused { .. } => "VaultRefused",
        }
    }

    /// Whether it is the issuer that cannot be used now, for this object as for every other.
    pub fn is_of_issuer(&self) -> bool {
        matches!(self, Self::Vault(error) if !matches!(error, VaultError::Unexpected { .. }))
    }

    pub(super) fn of_call(path: &str, error: CallError) -> Self {
        match error {
            CallError::Vault(error) => Self::Vault(error),
            CallError::Refused { code: 403, .. } => Self::Forbidden { path: path.to_owned() },
            CallError::Refused { code, errors } => {
                Self::Refused { path: path.to_owned(), code, detail: errors.join("; ") }
            }
        }
    }
}
