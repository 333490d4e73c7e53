//! Who issues certificates: the seam between a guest's keeper and Vault or a local CA.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use goliath_vault::{PlaceError, VaultError};
use jiff::Timestamp;

use super::{
    check,
    key::{NewKey, PrivateKey},
    local::LocalIssuer,
    vault::VaultIssuer,
};
use crate::{
    config::IssuerConfig,
    spec::{CertificateRequest, ClusterName, IssuerName},
};

/// Issues certificates for the guests of a host.
pub trait Issuer: Send + Sync {
    /// Makes a key and has a certificate issued for it: exactly what was asked for, or an error. It takes a bounded
    /// time, and may be dropped at any point.
    fn issue<'a>(
        &'a self,
        cluster: &'a ClusterName,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedCertificate, IssueError>>;

    /// Whether it could issue now, as far as can be told without doing it.
    fn health(&self) -> BoxFuture<'_, IssuerHealth>;
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// PEM: the certificate and those between it and the root.
    pub certificate_chain: String,
    /// Its key.
    pub private_key: PrivateKey,
    /// PEM: the roots.
    pub authorities: String,
}

/// What was seen of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerHealth {
    /// Whether it could issue.
    pub ready: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl IssuerHealth {
    pub(super) fn ready(message: impl Into<String>) -> Self {
        Self { ready: true, reason: "Ready", message: message.into() }
    }
}

impl From<&IssueError> for IssuerHealth {
    fn from(error: &IssueError) -> Self {
        Self { ready: false, reason: error.reason(), message: error.to_string() }
    }
}

/// Why a certificate was not issued: a sentence each, fit for a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Vault is not there for us.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The agent's policy does not allow it.
    #[error("Vault does not allow this host to use {path}: its policy lacks `update` there")]
    Forbidden {
        /// What was asked for.
        path: String,
    },
    /// The mount or the role is not there.
    #[error("Vault has no {path}: {detail}")]
    NotFound {
        /// What was asked for.
        path: String,
        /// Vault's words.
        detail: String,
    },
    /// The issuer does not issue that.
    #[error("{path} refuses this certificate: {detail}")]
    Refused {
        /// Who refuses.
        path: String,
        /// Its words.
        detail: String,
    },
    /// What came is not what was asked for; it was thrown away.
    #[error("{path} issued another certificate than was asked for, which was thrown away: {}", .differences.join("; "))]
    NotAsAsked {
        /// Who issued it.
        path: String,
        /// Each a clause.
        differences: Vec<String>,
    },
    /// Files of the configuration do not serve.
    #[error("{}: {detail}", .file.display())]
    Misconfigured {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The configuration has no such issuer.
    #[error("this host has no issuer `{0}`: add [issuers.{0}] to its configuration, or name another in the spec")]
    UnknownIssuer(IssuerName),
    /// What nobody expected.
    #[error("{path}: {detail}")]
    Unexpected {
        /// Of what.
        path: String,
        /// What was seen.
        detail: String,
    },
}

impl IssueError {
    /// One word in CamelCase, for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Vault(error) => error.reason(),
            Self::Forbidden { .. } => "VaultForbidden",
            Self::NotFound { .. } => "IssuerNotFound",
            Self::Refused { .. } => "IssuerRefused",
            Self::NotAsAsked { .. } => "CertificateNotAsAsked",
            Self::Misconfigured { .. } => "IssuerMisconfigured",
            Self::UnknownIssuer(_) => "UnknownIssuer",
            Self::Unexpected { .. } => "IssuerFailed",
        }
    }
}

/// Why a host's issuers cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// A secret id has no place.
    #[error("issuer `{issuer}` cannot keep its secret id")]
    SecretId {
        /// Whose.
        issuer: IssuerName,
        /// Why not.
        source: PlaceError,
    },
}

/// The issuers of a host's configuration.
#[derive(Clone, Default)]
pub struct Issuers(Arc<BTreeMap<IssuerName, Arc<dyn Issuer>>>);

impl Issuers {
    /// Sets up what is configured. Nothing is asked of an issuer yet, so one that is away keeps nobody from starting.
    /// Must be called within a Tokio runtime: a Vault's session has a task of its own.
    pub fn from_config(
        configured: &BTreeMap<IssuerName, IssuerConfig>,
        runtime_directory: &Path,
    ) -> Result<Self, IssuersError> {
        let mut issuers: BTreeMap<IssuerName, Arc<dyn Issuer>> = BTreeMap::new();
        for (name, config) in configured {
            let issuer: Arc<dyn Issuer> = match config {
                IssuerConfig::Vault(config) => Arc::new(VaultIssuer::new(name, config, runtime_directory)?),
                IssuerConfig::Local(config) => Arc::new(LocalIssuer::new(config)),
            };
            issuers.insert(name.clone(), issuer);
        }
        Ok(Self(Arc::new(issuers)))
    }

    /// Issuers made elsewhere.
    pub fn new(issuers: impl IntoIterator<Item = (IssuerName, Arc<dyn Issuer>)>) -> Self {
        Self(Arc::new(issuers.into_iter().collect()))
    }

    /// One of them.
    pub fn get(&self, name: &IssuerName) -> Option<Arc<dyn Issuer>> {
        self.0.get(name).cloned()
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &IssuerName> {
        self.0.keys()
    }

    /// Has a certificate issued by the issuer that the request names.
    pub(super) async fn issue(
        &self,
        cluster: &ClusterName,
        request: &CertificateRequest,
    ) -> Result<IssuedCertificate, IssueError> {
        match self.get(&request.issuer) {
            Some(issuer) => issuer.issue(cluster, request).await,
            None => Err(IssueError::UnknownIssuer(request.issuer.clone())),
        }
    }
}

/// Takes what an issuer answered, if it is what was asked for and belongs to our key.
pub(super) fn accept(
    path: &str,
    request: &CertificateRequest,
    key: NewKey,
    certificate_chain: String,
    authorities: String,
) -> Result<IssuedCertificate, IssueError> {
    let leaf = check::leaf(&certificate_chain)
        .map_err(|reason| IssueError::Unexpected { path: path.to_owned(), detail: format!("the answer {reason}") })?;
    let mut differences = check::differences(request, &leaf);
    if leaf.public_key != key.public_key() {
        differences.push("it is for another key".to_owned());
    }
    if leaf.lifetime.not_after <= Timestamp::now() {
        differences.push(format!("it was over at {}: are the clocks right?", leaf.lifetime.not_after));
    }
    if !differences.is_empty() {
        return Err(IssueError::NotAsAsked { path: path.to_owned(), differences });
    }
    Ok(IssuedCertificate { certificate_chain, private_key: key.into_private_key(), authorities })
}
