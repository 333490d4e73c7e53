//! What must be known of a run of QEMU as long as it lasts: in the runtime directory, so that the agent that comes next
//! knows it, and the next start of the machine does not.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::executor::Stopping;
use crate::{files, spec::GuestSpec};

/// A guest's `session.json`, written before QEMU is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// What QEMU was started with; what is desired now may be newer.
    pub(super) spec: GuestSpec,
    /// The shutdown that was begun.
    pub(super) stopping: Option<Stopping>,
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub(super) struct SessionFile {
    path: PathBuf,
}

impl SessionFile {
    /// In the guest's runtime directory.
    pub(super) fn in_directory(directory: &std::path::Path) -> Self {
        Self { path: directory.join("session.json") }
    }

    pub(super) fn read(&self) -> io::Result<Session> {
        Ok(serde_json::from_slice(&fs::read(&self.path)?)?)
    }

    /// Writes it whole. It is on a tmpfs, so this does not wait for a disk.
    pub(super) fn write(&self, session: &Session) -> io::Result<()> {
        // The spec carries the seed: root's alone.
        files::write_whole(&self.path, &serde_json::to_vec(session)?, 0o600)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        files::remove(&self.path)
    }
}
