//! What can go wrong with an image, and what kind of wrong it is.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::spec::{ByteSize, Digest, GuestUid};

/// Where an error comes from.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an image cannot be had, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry, the layout or the store does not have it.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for, and where.
        what: String,
    },
    /// The registry wants other credentials.
    #[error("{registry} refuses access to {what}: {reason}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the registry said, and what to do.
        reason: String,
    },
    /// The source is away, slow or broken; later it may work.
    #[error("{what}")]
    Unavailable {
        /// What was tried, and of whom.
        what: String,
        /// Why it failed.
        #[source]
        source: Option<Cause>,
    },
    /// The content is invalid or hostile. Trying again gives the same.
    #[error("the image is refused: {what}")]
    Refused {
        /// What is wrong with it, and what would be right.
        what: String,
        /// The finding behind it.
        #[source]
        source: Option<Cause>,
    },
    /// Guests hold leases on it.
    #[error("image {digest} is used by {}", join(guests))]
    InUse {
        /// The image.
        digest: Digest,
        /// Who uses it.
        guests: Vec<GuestUid>,
    },
    /// It does not fit.
    #[error("{what} needs {needed}, and {available} are free in {}", directory.display())]
    NotEnoughSpace {
        /// What was to be stored.
        what: String,
        /// How much it takes at the least.
        needed: ByteSize,
        /// What is left.
        available: ByteSize,
        /// Where.
        directory: PathBuf,
    },
    /// The host's configuration does not work.
    #[error("{what}")]
    Misconfigured {
        /// Which part of it, and what to do.
        what: String,
        /// Why it does not work.
        #[source]
        source: Option<Cause>,
    },
    /// Reading or writing on this machine failed.
    #[error("cannot {action} {}", path.display())]
    Storage {
        /// What was done: "write".
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Nobody waits for it any more.
    #[error("the download was given up because nobody waits for it any more")]
    Cancelled,
}

/// What kind of failure it is, for those who choose a status code or whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageErrorKind {
    /// It is not there.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The source is away; later it may work.
    Unavailable,
    /// Invalid or hostile content: the same again will be refused again.
    Refused,
    /// Guests use it.
    InUse,
    /// The disk is full, or would be.
    NoSpace,
    /// The host's configuration does not work.
    Misconfigured,
    /// Reading or writing on this machine failed.
    Storage,
    /// Nobody waited for it.
    Cancelled,
}

impl ImageError {
    /// What kind of failure it is.
    pub fn kind(&self) -> ImageErrorKind {
        match self {
            Self::NotFound { .. } => ImageErrorKind::NotFound,
            Self::Unauthorized { .. } => ImageErrorKind::Unauthorized,
            Self::Unavailable { .. } => ImageErrorKind::Unavailable,
            Self::Refused { .. } => ImageErrorKind::Refused,
            Self::InUse { .. } => ImageErrorKind::InUse,
            Self::NotEnoughSpace { .. } => ImageErrorKind::NoSpace,
            Self::Misconfigured { .. } => ImageErrorKind::Misconfigured,
            Self::Storage { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageErrorKind::NoSpace,
                _ => ImageErrorKind::Storage,
            },
            Self::Cancelled => ImageErrorKind::Cancelled,
        }
    }

    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), source: None }
    }

    pub(super) fn refused_because(what: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self::Refused { what: what.into(), source: Some(cause.into()) }
    }

    pub(super) fn unavailable(what: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(cause.into()) }
    }

    /// For `map_err`: what was done to which path.
    pub(super) fn storage(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Storage { action, path, source }
    }

    /// A thread of ours ended without a result: it panicked, or the process is ending.
    pub(super) fn lost_thread(cause: impl Into<Cause>) -> Self {
        Self::unavailable("the work on the image ended without a result", cause)
    }
}

fn join(guests: &[GuestUid]) -> String {
    let mut names: Vec<String> = guests.iter().take(8).map(|uid| format!("guest {uid}")).collect();
    if guests.len() > names.len() {
        names.push(format!("{} more", guests.len() - names.len()));
    }
    names.join(", ")
}
