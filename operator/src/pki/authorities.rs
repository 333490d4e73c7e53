//! The issuers of the configuration, as the rest of the operator uses them.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use goliath_vault::{Connection, PlaceError, Session, VaultError};
use uuid::Uuid;

use super::{
    apply::{HostCredentials, VaultPki},
    cluster::{ClusterPki, RootCertificate},
    config::{IssuerConfig, LocalIssuerConfig},
    error::PkiError,
    host::HostLogin,
};
use crate::objects::{CertificateAuthority, HostName, IssuerName};

/// Makes authorities and the hosts' logins true, each at the issuer that its configuration names.
pub struct Authorities(BTreeMap<IssuerName, Issuer>);

enum Issuer {
    Vault(VaultPki),
    Local(LocalIssuerConfig),
}

/// What became of an authority.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthorityState {
    /// Where the issuer holds it; none where each host does.
    pub mount: Option<String>,
    /// The root; none where the operator is not told.
    pub root: Option<RootCertificate>,
}

/// Why an issuer cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("issuer `{issuer}` cannot keep its secret id")]
pub struct IssuersError {
    /// Which.
    pub issuer: IssuerName,
    /// Why not.
    pub source: PlaceError,
}

impl Authorities {
    /// Starts the tasks that log in; issuers may be away. Needs a Tokio runtime. Secret ids are kept below the runtime
    /// directory, which must be in memory.
    pub fn start(issuers: &BTreeMap<IssuerName, IssuerConfig>, runtime_directory: &Path) -> Result<Self, IssuersError> {
        let start = |name: &IssuerName, config: &IssuerConfig| {
            Ok(match config {
                IssuerConfig::Local(local) => Issuer::Local(local.clone()),
                IssuerConfig::Vault(vault) => {
                    let login = vault
                        .auth
                        .login(name.as_str(), runtime_directory)
                        .map_err(|source| IssuersError { issuer: name.clone(), source })?;
                    let connection = Arc::new(Connection::new(vault.endpoint()));
                    let session = Session::start(name.as_str(), login, connection);
                    Issuer::Vault(VaultPki::new(session, &vault.host_auth_mount))
                }
            })
        };
        let started = issuers.iter().map(|(name, config)| Ok((name.clone(), start(name, config)?)));
        Ok(Self(started.collect::<Result<_, _>>()?))
    }

    /// The issuers there are.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerName> {
        self.0.keys()
    }

    /// The issuers where hosts have logins.
    pub fn with_logins(&self) -> impl Iterator<Item = &IssuerName> {
        self.vaults().map(|(name, _)| name)
    }

    /// Makes an authority true: safe to repeat, and cheap where nothing differs.
    pub async fn ensure_cluster(&self, authority: &CertificateAuthority) -> Result<AuthorityState, PkiError> {
        match self.issuer(&authority.spec.issuer)? {
            Issuer::Vault(vault) => {
                let desired = ClusterPki { uid: uid(authority)?, spec: authority.spec.clone() };
                let root = vault.make_cluster(&desired).await?;
                Ok(AuthorityState { mount: Some(desired.mount()), root: Some(root) })
            }
            Issuer::Local(local) => Ok(AuthorityState { mount: None, root: read_root(local).await? }),
        }
    }

    /// Destroys an authority for ever, with all that it issued. Nothing to do is fine.
    pub async fn remove_cluster(&self, authority: &CertificateAuthority) -> Result<(), PkiError> {
        match self.issuer(&authority.spec.issuer)? {
            Issuer::Vault(vault) => vault.delete_cluster(&authority.spec.cluster, uid(authority)?).await,
            Issuer::Local(_) => Ok(()),
        }
    }

    /// Makes a host's login at an issuer true. What it grants counts at once, for the tokens that the host has too.
    pub async fn ensure_host(&self, issuer: &IssuerName, login: &HostLogin) -> Result<(), PkiError> {
        match self.issuer(issuer)? {
            Issuer::Vault(vault) => vault.make_host(login).await,
            Issuer::Local(_) => Ok(()),
        }
    }

    /// The first credentials of a host, from each issuer where it needs any. Those that an issuer gave are told here and
    /// nowhere else, also where another issuer failed. A host that has credentials gets none: see
    /// [`Authorities::rotate_host_credentials`].
    pub async fn issue_host_credentials(
        &self,
        host: &HostName,
        uid: Uuid,
        ttl: Duration,
    ) -> BTreeMap<IssuerName, Result<HostCredentials, PkiError>> {
        let mut credentials = BTreeMap::new();
        for (name, vault) in self.vaults() {
            credentials.insert(name.clone(), vault.issue_host_credentials(host, uid, ttl).await);
        }
        credentials
    }

    /// New credentials of a host, from each issuer where it needs any; the earlier ones are destroyed.
    pub async fn rotate_host_credentials(
        &self,
        host: &HostName,
        uid: Uuid,
        ttl: Duration,
    ) -> BTreeMap<IssuerName, Result<HostCredentials, PkiError>> {
        let mut credentials = BTreeMap::new();
        for (name, vault) in self.vaults() {
            credentials.insert(name.clone(), vault.rotate_host_credentials(host, uid, ttl).await);
        }
        credentials
    }

    /// Ends a host's logins: its tokens are worth nothing from then on. Every issuer is asked, also where another failed;
    /// nothing to do is fine.
    pub async fn forget_host(&self, host: &HostName, uid: Uuid) -> Result<(), PkiError> {
        let mut result = Ok(());
        for (_, vault) in self.vaults() {
            result = result.and(vault.forget_host(host, uid).await);
        }
        result
    }

    fn vaults(&self) -> impl Iterator<Item = (&IssuerName, &VaultPki)> {
        self.0.iter().filter_map(|(name, issuer)| match issuer {
            Issuer::Vault(vault) => Some((name, vault)),
            Issuer::Local(_) => None,
        })
    }

    fn issuer(&self, name: &IssuerName) -> Result<&Issuer, PkiError> {
        self.0.get(name).ok_or_else(|| PkiError::UnknownIssuer(name.clone()))
    }
}

/// What the mark in Vault names.
fn uid(authority: &CertificateAuthority) -> Result<Uuid, PkiError> {
    let uid = authority.metadata.uid.as_deref().unwrap_or_default();
    uid.parse().map_err(|_| PkiError::NoUid(uid.to_owned()))
}

async fn read_root(local: &LocalIssuerConfig) -> Result<Option<RootCertificate>, PkiError> {
    let Some(file) = &local.certificate else { return Ok(None) };
    let misconfigured = |detail: String| VaultError::Misconfigured { file: file.clone(), detail };
    let pem =
        tokio::fs::read_to_string(file).await.map_err(|reason| misconfigured(format!("cannot be read: {reason}")))?;
    if pem.contains("PRIVATE KEY") {
        return Err(
            misconfigured("holds a private key: keep it apart, the certificate is shown to people".to_owned()).into()
        );
    }
    let root = RootCertificate::read(pem).ok_or_else(|| misconfigured("holds no certificate in PEM".to_owned()))?;
    Ok(Some(root))
}
