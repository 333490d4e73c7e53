//! Makes Vault true: a PKI mount with a root CA, roles and policies for each cluster, and a login for each host that may
//! use exactly the policies of the guests that run there.
//!
//! [`Authorities`] is what controllers and API use. Behind it [`ClusterPki`] and [`HostLogin`] say what Vault shall hold,
//! [`VaultPki`] reads what it holds, [`ClusterPki::changes`] and [`HostLogin::changes`] compare the two and yield
//! [`Change`]s. Each change is safe to repeat and leaves a state from which the comparison goes on, so whoever was killed
//! in between just begins again.
//!
//! ```text
//!  pki-acme/                      mount, "owned-by=goliath cluster=acme uid=…"
//!    issuer root                  made once, never replaced; its key never leaves Vault
//!    roles/etcd, kubelet, …       who may be named, and what Vault writes into the subject
//!  policy goliath-pki-acme.master update on pki-acme/sign/<role>, for the roles that masters use; .worker likewise
//!  entity goliath-host-1          policies: goliath-pki-<cluster>.<role> of the guests that run there
//!    alias                        the AppRole's role id, so that each login counts as this entity
//!  AppRole goliath-host-1         no policies of its own
//! ```
//!
//! Policies of an entity count at once for tokens that were given before: a guest that comes to a host, or leaves it,
//! changes what the agent may do without a new login.
//!
//! Everything carries a mark with the uid of the object that it is for. What is in the way and has no mark, or another's,
//! is a [`Conflict`], and stays as it is.

mod apply;
mod authorities;
mod change;
mod cluster;
mod config;
mod error;
mod host;
pub mod kubernetes;
mod mark;
mod observe;
mod role;
#[cfg(test)]
mod tests;

pub use apply::{HostCredentials, OPERATOR_POLICY, VaultPki, WrappingToken};
pub use authorities::{Authorities, AuthorityState, IssuersError};
pub use change::Change;
pub use cluster::{ClusterPki, ObservedCluster, RootCertificate};
pub use config::{IssuerConfig, LocalIssuerConfig, VaultIssuerConfig};
pub use error::{Conflict, PkiError};
pub use host::{Grant, HostLogin, ObservedHost};
pub use mark::{Mark, Owner};
pub use role::RoleSettings;
