//! A guest's certificates, as its task and the API see them: one keeper while the guest has a volume.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    certs::{CertificateKeeper, Issuers, KeeperConfig, KeeperState},
    reconcile::{board::Board, executor::Failure},
    spec::GuestSpec,
};

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
    /// Starts to keep what the spec asks for, if it is not kept yet, and takes over what changed.
    pub(super) async fn keep(
        &self,
        spec: &GuestSpec,
        directory: std::path::PathBuf,
        issuers: &Issuers,
        board: &Arc<Board>,
    ) -> Arc<CertificateKeeper> {
        let (keeper, known) = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some(Kept { keeper, .. }) => (Arc::clone(keeper), true),
                None => {
                    let config = KeeperConfig {
                        uid: spec.uid,
                        cluster: spec.cluster.clone(),
                        directory,
                        requests: spec.certificates.clone(),
                        issuers: issuers.clone(),
                        disk: None,
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

/// Waits until the volume holds everything that the guest needs to start.
pub(super) async fn all_there(keeper: &CertificateKeeper) -> Result<(), Failure> {
    let mut state = keeper.state();
    let there = state.wait_for(KeeperState::all_present).await;
    match there {
        Ok(_) => Ok(()),
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
