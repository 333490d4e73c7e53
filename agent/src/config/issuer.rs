use std::{path::PathBuf, time::Duration};

pub use goliath_vault::VaultAuth;
use goliath_vault::{Complaint, Endpoint, absolute, mount_path};
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
    /// Of Vault Enterprise; open-source Vault has none.
    pub namespace: Option<String>,
    /// How long Vault may take to answer, in seconds.
    #[serde(default = "default_time_limit")]
    pub time_limit_seconds: u64,
    /// Speak to Vault without TLS beyond this machine: tokens cross the network in the clear.
    #[serde(default)]
    pub plain_http: bool,
}

fn default_mount() -> String {
    "pki-{cluster}".to_owned()
}

fn default_time_limit() -> u64 {
    10
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

impl IssuerConfig {
    /// What is wrong with it beyond its types: each with the key it is about.
    pub(super) fn complaints(&self) -> Vec<Complaint> {
        match self {
            Self::Vault(vault) => vault.complaints(),
            Self::Local(local) => [absolute("certificate", &local.certificate), absolute("key", &local.key)]
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        }
    }
}

impl VaultIssuerConfig {
    /// Where it is.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.address.clone(),
            certificate_authorities: self.certificate_authorities.clone(),
            namespace: self.namespace.clone(),
            time_limit: Duration::from_secs(self.time_limit_seconds),
        }
    }

    fn complaints(&self) -> Vec<Complaint> {
        let mut complaints = self.endpoint().complaints(self.plain_http);
        complaints.extend(self.auth.complaints());
        if !self.mount.contains("{cluster}") {
            complaints.push((
                "mount",
                format!(
                    "{:?} must contain {{cluster}}, or one cluster's guests get another's certificates",
                    self.mount
                ),
            ));
        }
        complaints.extend(mount_path("mount", &self.mount.replace("{cluster}", "cluster")).err());
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str) -> Vec<String> {
        let config: IssuerConfig = toml::from_str(text).unwrap();
        config.complaints().into_iter().map(|(key, complaint)| format!("{key}: {complaint}")).collect()
    }

    fn vault(address: &str, more: &str) -> String {
        format!(
            "kind = \"vault\"\naddress = \"{address}\"\n{more}\n[auth]\nmethod = \"approle\"\nrole_id = \"id\"\n\
             wrapped_secret_id_file = \"/etc/goliath/secret-id.wrapped\"\n"
        )
    }

    #[test]
    fn what_an_operator_would_write_is_accepted() {
        assert_eq!(complaints(&vault("https://vault.example:8200", "")), Vec::<String>::new());
        assert_eq!(complaints(&vault("http://127.0.0.1:8200", "")), Vec::<String>::new());
        assert_eq!(complaints(&vault("http://[::1]:8200", "")), Vec::<String>::new());
        assert_eq!(complaints(&vault("http://10.0.0.1:8200", "plain_http = true")), Vec::<String>::new());
        assert_eq!(
            complaints("kind = \"local\"\ncertificate = \"/etc/goliath/ca.crt\"\nkey = \"/etc/goliath/ca.key\"\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_cannot_work_or_is_not_safe_is_refused() {
        let table = [
            (vault("vault.example", ""), "address: is not a URL"),
            (vault("http://vault.example:8200", ""), "address: must be https"),
            (vault("ftp://vault.example", ""), "address: has scheme ftp"),
            (vault("https://vault.example:8200/v1", ""), "address: must be a scheme, a host and a port"),
            (vault("https://root:hunter2@vault.example", ""), "address: must hold no user"),
            (vault("https://vault.example", "mount = \"pki\""), "mount: \"pki\" must contain {cluster}"),
            (vault("https://vault.example", "mount = \"../{cluster}\""), "mount: \"../cluster\" is not where"),
            (vault("https://vault.example", "time_limit_seconds = 0"), "time_limit_seconds: 0 must be 1 to 300"),
            (vault("https://vault.example", "certificate_authorities = \"ca.crt\""), "certificate_authorities: ca.crt"),
            (
                "kind = \"local\"\ncertificate = \"ca.crt\"\nkey = \"/ca.key\"\n".to_owned(),
                "certificate: ca.crt must be",
            ),
        ];
        for (text, complaint) in table {
            let found = complaints(&text);
            assert!(found.len() == 1 && found.iter().all(|found| found.starts_with(complaint)), "{text}: {found:?}");
        }
    }
}
