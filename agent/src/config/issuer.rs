use std::path::PathBuf;

use serde::Deserialize;

/// One certificate issuer.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum IssuerConfig {
    /// HashiCorp Vault's PKI engine.
    Vault(VaultIssuerConfig),
    /// A certificate authority in files, for a single machine or a trial.
    Local(LocalIssuerConfig),
}

/// Vault's PKI engine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultIssuerConfig {
    /// `https://vault.example:8200`.
    pub address: String,
    /// PEM, of Vault's own certificate; none: the system's.
    pub certificate_authorities: Option<PathBuf>,
    /// Where a cluster's PKI is mounted; `{cluster}` stands for its name.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// How the agent logs in.
    pub auth: VaultAuth,
}

fn default_mount() -> String {
    "pki-{cluster}".to_owned()
}

/// How the agent logs in to Vault.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum VaultAuth {
    /// The secret id is a file's content: a response-wrapping token, good once. The file is removed once unwrapped; what
    /// it wrapped is kept in the runtime directory for root alone, so that the agent can log in again.
    AppRole {
        /// Where the method is mounted.
        #[serde(default = "default_approle_mount")]
        mount: String,
        /// Not a secret.
        role_id: String,
        /// Holds the wrapping token.
        wrapped_secret_id_file: PathBuf,
    },
    /// A file that something else keeps fresh.
    Token {
        /// Read again when it changes.
        file: PathBuf,
    },
}

fn default_approle_mount() -> String {
    "approle".to_owned()
}

/// A certificate authority in files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalIssuerConfig {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM; root's alone.
    pub key: PathBuf,
}
