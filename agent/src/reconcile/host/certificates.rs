//! A guest's certificates, as its task and the API see them: one keeper while the guest has a volume.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    certs::{CertificateKeeper, Issuers, KeeperConfig, KeeperState},
    reconcile::{board::Board, executor::Failure},
    spec::{CertificateVolume, GuestSpec},
};

/// Where a guest's certificates are, all in the guest's runtime directory.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// What virtiofsd shows.
    pub(super) directory: PathBuf,
    /// Disk images of it.
    pub(super) images: PathBuf,
}

impl Places {
    pub(super) fn in_directory(runtime: &Path) -> Self {
        Self { directory: runtime.join("certificates"), images: runtime.join("certificate-disks") }
    }
}

/// Holds the keeper, if there is one, and writes what it says on the guest's board.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    keeper: Arc<CertificateKeeper>,
    teller: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.teller.abort();
    }
}

impl Certificates {
    /// Starts to keep what the spec asks for, if it is not kept yet, and takes over what changed. Whether it is on a disk
    /// too is `volume`'s word: a QEMU that runs may have been started with another one than the spec's.
    pub(super) async fn keep(
        &self,
        spec: &GuestSpec,
        volume: CertificateVolume,
        places: &Places,
        issuers: &Issuers,
        board: &Arc<Board>,
    ) -> Arc<CertificateKeeper> {
        let on_disk = volume == CertificateVolume::Disk;
        let (keeper, known) = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some(Kept { keeper, .. }) => (Arc::clone(keeper), true),
                None => {
                    let config = KeeperConfig {
                        uid: spec.uid,
                        cluster: spec.cluster.clone(),
                        directory: places.directory.clone(),
                        images: places.images.clone(),
                        on_disk,
                        requests: spec.certificates.clone(),
                        issuers: issuers.clone(),
                    };
                    let keeper = Arc::new(CertificateKeeper::start(config));
                    let teller = tokio::spawn(tell(keeper.state(), Arc::clone(board)));
                    *kept = Some(Kept { keeper: Arc::clone(&keeper), teller });
                    (keeper, false)
                }
            }
        };
        if known {
            keeper.update(spec.certificates.clone()).await;
            keeper.lay_on_disk(on_disk).await;
        }
        keeper
    }

    /// The keeper, while there is one.
    pub(super) fn keeper(&self) -> Option<Arc<CertificateKeeper>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map(|kept| Arc::clone(&kept.keeper))
    }

    /// Ends the keeping; the files stay.
    pub(super) fn leave(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Waits until the volume holds everything that the guest needs to start, on a disk too if that is what it gets.
pub(super) async fn all_there(keeper: &CertificateKeeper, volume: CertificateVolume) -> Result<KeeperState, Failure> {
    let mut state = keeper.state();
    let on_disk = volume == CertificateVolume::Disk;
    // The keeper may not have come yet to what it was told last.
    let there = state.wait_for(|state| state.all_present() && state.disk().is_some() == on_disk).await;
    match there {
        Ok(state) => Ok(state.clone()),
        Err(_) => Err(Failure::new("CertificatesReady", "KeeperEnded", "the task that keeps its certificates ended")),
    }
}

async fn tell(mut state: watch::Receiver<KeeperState>, board: Arc<Board>) {
    loop {
        let (ready, reason, message) = state.borrow_and_update().condition();
        if ready {
            board.is("CertificatesReady", reason, message);
        } else {
            board.is_not("CertificatesReady", reason, message);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}
