//! What the agent must remember of a guest besides its spec: on disk, since it survives a restart of the machine.

use std::{fs, io, path::PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    files,
    observed::Exit,
    spec::{Digest, Generation, ImageReference},
};

/// A guest's `facts.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Facts {
    /// What the spec's reference meant when it was first resolved: a tag that moves moves no guest.
    pub(super) image: Option<ResolvedImage>,
    /// The run that was begun last and whose end was not seen yet.
    pub(super) running: Option<Run>,
    /// The last end.
    pub(super) last_exit: Option<Exit>,
    /// The generation that ended then.
    pub(super) ended_generation: Option<Generation>,
    /// Starts after the first.
    pub(super) restart_count: u32,
    /// Whether it was ever started.
    pub(super) was_started: bool,
    /// In a row.
    pub(super) failures: u32,
}

/// A reference and what it meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResolvedImage {
    pub(super) reference: ImageReference,
    pub(super) digest: Digest,
}

/// A QEMU that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) generation: Generation,
    pub(super) started_at: Timestamp,
}

/// Where a guest's facts are kept.
#[derive(Debug, Clone)]
pub(super) struct FactsFile {
    path: PathBuf,
}

impl FactsFile {
    /// In the guest's state directory.
    pub(super) fn in_directory(directory: &std::path::Path) -> Self {
        Self { path: directory.join("facts.json") }
    }

    /// None were written, or they cannot be understood: the guest is then as if it had never run, which starts no second
    /// QEMU, since the one that may be there holds the guest's lock.
    pub(super) fn read(&self) -> Facts {
        match fs::read(&self.path) {
            Ok(content) => serde_json::from_slice(&content).unwrap_or_else(|reason| {
                tracing::error!(path = %self.path.display(), %reason, "unreadable facts of a guest; its history starts anew");
                Facts::default()
            }),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => Facts::default(),
            Err(reason) => {
                tracing::error!(path = %self.path.display(), %reason, "cannot read the facts of a guest; its history starts anew");
                Facts::default()
            }
        }
    }

    /// Writes them whole. A failure costs memory of the past and is told in the log: it stops no guest.
    pub(super) async fn write(&self, facts: &Facts) {
        let path = self.path.clone();
        let content = serde_json::to_vec_pretty(facts);
        let written = tokio::task::spawn_blocking(move || {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            files::write_whole(&path, &content?, 0o600)
        })
        .await;
        if let Ok(Err(reason)) = written {
            tracing::error!(path = %self.path.display(), %reason, "cannot write the facts of a guest: is the disk full?");
        }
    }
}
