//! The certificate disk of a guest that runs: when its keeper has laid a new one, QEMU gets it.

use std::io;

use tokio::sync::watch;

use crate::{
    certs::{CertificateDisk, KeeperState},
    errors::with_causes,
    qemu::{CertificateMedium, Qmp, show_medium},
};

/// As QEMU takes it.
pub(super) fn medium(disk: &CertificateDisk) -> CertificateMedium {
    CertificateMedium { generation: disk.generation, path: disk.path.clone() }
}

/// Removes the images of earlier generations; no QEMU may show one of them.
pub(super) async fn remove_earlier(disk: &CertificateDisk) -> io::Result<()> {
    let disk = disk.clone();
    tokio::task::spawn_blocking(move || disk.remove_earlier()).await?
}

/// What was seen of the drive, if it is news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// The guest has older certificates than it shall have; why.
    Stale(String),
    /// It has the newest again.
    Mended,
}

/// Keeps a running QEMU's certificate drive as new as the keeper's disk.
#[derive(Debug)]
pub(super) struct CertificateDrive {
    keeper: watch::Receiver<KeeperState>,
    /// What the drive was seen to hold, with nothing older left behind.
    shown: Option<u64>,
    /// Set after a failure, until it is time to try again.
    failed: Option<String>,
}

impl CertificateDrive {
    pub(super) fn new(keeper: watch::Receiver<KeeperState>) -> Self {
        Self { keeper, shown: None, failed: None }
    }

    /// The disk that QEMU shall be given now.
    fn due(&self) -> Option<CertificateDisk> {
        if self.failed.is_some() {
            return None;
        }
        self.wanted()
    }

    fn wanted(&self) -> Option<CertificateDisk> {
        self.keeper.borrow().disk().filter(|disk| Some(disk.generation) != self.shown).cloned()
    }

    /// Gives QEMU the newest disk, if it has another. Dropping it loses nothing: what was done is asked of QEMU.
    pub(super) async fn refresh(&mut self, qmp: &Qmp) -> Option<News> {
        let disk = self.due()?;
        self.give(qmp, &disk).await
    }

    /// As [`Self::refresh`], after a failure too.
    pub(super) async fn retry(&mut self, qmp: &Qmp) -> Option<News> {
        let disk = self.wanted()?;
        self.give(qmp, &disk).await
    }

    async fn give(&mut self, qmp: &Qmp, disk: &CertificateDisk) -> Option<News> {
        let shown = match show_medium(qmp, &medium(disk)).await {
            // Not before QEMU was seen to have let go of them.
            Ok(()) => remove_earlier(disk).await.map_err(|reason| format!("earlier disks cannot be removed: {reason}")),
            Err(error) => Err(with_causes(&error)),
        };
        match shown {
            Ok(()) => {
                tracing::info!(generation = disk.generation, path = %disk.path.display(), "the guest has the newest certificate disk");
                self.shown = Some(disk.generation);
                self.failed.take().map(|_| News::Mended)
            }
            Err(reason) => {
                let known = self.failed.replace(reason.clone());
                (known.as_ref() != Some(&reason)).then_some(News::Stale(reason))
            }
        }
    }

    /// Ends when the keeper says something new. Dropping it loses nothing.
    pub(super) async fn changed(&mut self) {
        if self.keeper.changed().await.is_err() {
            // The keeper ended: there is nothing more to hear.
            std::future::pending::<()>().await;
        }
    }
}
