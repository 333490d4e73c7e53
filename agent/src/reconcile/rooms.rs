//! What the steps of all guests call.

use crate::{
    accelerator::Accelerators, certs::Issuers, config::QemuConfig, image::ImageStore, ledger::Ledger,
    observed::Observed, qemu::Launcher, reconcile::NetworkReconciler,
};

/// The rooms that a guest's way leads through, and the two ends of it.
pub struct Rooms {
    /// Desired state.
    pub ledger: Ledger,
    /// Observed state.
    pub observed: Observed,
    /// Images by digest.
    pub images: ImageStore,
    /// Clusters' networks.
    pub networks: NetworkReconciler,
    /// Who issues certificates.
    pub issuers: Issuers,
    /// Starts QEMU.
    pub launcher: Launcher,
    /// What runs vCPUs here.
    pub accelerators: Accelerators,
    /// How QEMU and its helpers are run.
    pub qemu: QemuConfig,
}
