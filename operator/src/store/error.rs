use std::{fmt, sync::Arc};

use super::ResourceVersion;
use crate::objects::Kind;

/// Why a store did not do what it was asked. Nothing was changed, unless the store is [`StoreError::Unavailable`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{kind} {name} was not found")]
    NotFound {
        /// Asked for.
        kind: Kind,
        /// Asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{kind} {name} already exists")]
    AlreadyExists {
        /// Of both.
        kind: Kind,
        /// Of both.
        name: String,
    },
    /// The object is not what the caller took it for: read it again.
    #[error("{kind} {name} was not changed: {reason}")]
    Conflict {
        /// Of the object.
        kind: Kind,
        /// Of the object.
        name: String,
        /// What differs.
        reason: String,
    },
    /// The object cannot be written like this, whenever it is tried.
    #[error("{kind} {name} is not valid: {}", Problems(problems))]
    Invalid {
        /// Of the object.
        kind: Kind,
        /// Of the object; may be empty.
        name: String,
        /// All that is wrong.
        problems: Vec<FieldProblem>,
    },
    /// The changes after this version are no longer known: list again, and watch from there.
    #[error("changes since resource version {0} are no longer known: list again and watch from there")]
    Expired(ResourceVersion),
    /// What is stored is not what this program's types allow.
    #[error("{kind} {name} is stored in a form that this version cannot read")]
    Unreadable {
        /// Of the object.
        kind: Kind,
        /// Of the object.
        name: String,
        /// The first difference.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The store has failed or was closed; whether a write in progress is kept is known when it is opened again.
    #[error("the store is not available")]
    Unavailable(#[source] Unavailable),
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// From the top, with dots: `metadata.finalizers[0]`.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

struct Problems<'a>(&'a [FieldProblem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FieldProblem { path, message }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{path} {message}")?;
        }
        Ok(())
    }
}

/// Why a store can do nothing any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    /// It was closed.
    #[error("it was closed")]
    Closed,
    /// It does not answer.
    #[error("it did not answer in time")]
    Slow,
    /// Its file could not be read or written.
    #[error("its file cannot be used; free the disk or replace it, then restart the operator")]
    Storage(#[source] Arc<redb::Error>),
}

impl StoreError {
    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    /// Whether reading again and trying again can help.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the object itself is refused.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid { .. })
    }

    /// Whether to list again.
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Expired(_))
    }

    /// It did not answer in time.
    pub(crate) fn slow() -> Self {
        Self::Unavailable(Unavailable::Slow)
    }

    pub(super) fn closed() -> Self {
        Self::Unavailable(Unavailable::Closed)
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        Self::Unavailable(Unavailable::Storage(Arc::new(error)))
    }
}

impl From<Arc<redb::Error>> for StoreError {
    fn from(error: Arc<redb::Error>) -> Self {
        Self::Unavailable(Unavailable::Storage(error))
    }
}
