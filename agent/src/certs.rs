//! Certificates: issued for guests, renewed while they run, laid into a volume.
//!
//! ```text
//!  CertificateRequest -> Issuer (Vault, or a local CA) -> CertificateKeeper -> Volume -> virtiofs or a disk -> guest
//! ```
//!
//! One [`CertificateKeeper`] a guest owns the guest's certificate directory. Keys are made here and stay in memory: an
//! issuer sees a signing request, the directory is on a tmpfs, and nothing else holds a key.

mod check;
mod disk;
mod issuer;
mod keeper;
mod key;
mod local;
mod schedule;
mod vault;
mod virtiofs;
mod volume;

pub use disk::CertificateDisk;
pub use goliath_vault::{NotInMemory, require_memory};
pub use issuer::{IssueError, IssuedCertificate, Issuer, IssuerHealth, Issuers, IssuersError};
pub use keeper::{
    CertificateInfo, CertificateKeeper, CertificateState, DiskState, Failure, KeeperConfig, KeeperState, RotateError,
    Warning,
};
pub use key::PrivateKey;
pub use local::LocalIssuer;
pub use schedule::{Lifetime, Urgency, next_attempt, next_renewal};
pub use vault::VaultIssuer;
pub use virtiofs::{Virtiofsd, VirtiofsdConfig, VirtiofsdError};
pub use volume::VolumeError;
