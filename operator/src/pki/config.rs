//! Issuers, as `operator.toml` has them.

use std::{path::PathBuf, time::Duration};

use goliath_vault::{Complaint, Endpoint, VaultAuth, absolute, mount_path};
use serde::Deserialize;

/// One issuer, under the name that clusters and the hosts' configurations use for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum IssuerConfig {
    /// HashiCorp Vault, which the operator keeps.
    Vault(VaultIssuerConfig),
    /// A certificate authority in files of each host; the operator has nothing to make.
    Local(LocalIssuerConfig),
}

/// Vault, as the operator reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultIssuerConfig {
    /// `https://vault.example:8200`.
    pub address: String,
    /// PEM, of Vault's own certificate; none: the system's.
    pub certificate_authorities: Option<PathBuf>,
    /// How the operator logs in.
    pub auth: VaultAuth,
    /// Where the AppRole is by which hosts log in.
    #[serde(default = "default_host_auth_mount")]
    pub host_auth_mount: String,
    /// Of Vault Enterprise; open-source Vault has none.
    pub namespace: Option<String>,
    /// How long Vault may take to answer, in seconds.
    #[serde(default = "default_time_limit")]
    pub time_limit_seconds: u64,
    /// Speak to Vault without TLS beyond this machine: tokens cross the network in the clear.
    #[serde(default)]
    pub plain_http: bool,
}

fn default_host_auth_mount() -> String {
    "approle".to_owned()
}

const fn default_time_limit() -> u64 {
    10
}

/// A certificate authority in files of each host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalIssuerConfig {
    /// PEM of the root, for people: the status of authorities shows it.
    pub certificate: Option<PathBuf>,
}

impl IssuerConfig {
    /// What is wrong with it beyond its types: each with the key it is about.
    pub fn complaints(&self) -> Vec<Complaint> {
        match self {
            Self::Vault(vault) => {
                let mut complaints = vault.endpoint().complaints(vault.plain_http);
                complaints.extend(vault.auth.complaints());
                complaints.extend(mount_path("host_auth_mount", &vault.host_auth_mount).err());
                complaints
            }
            Self::Local(local) => {
                let file = local.certificate.as_deref();
                file.and_then(|file| absolute("certificate", file).err()).into_iter().collect()
            }
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
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vault(more: &Value) -> Value {
        let mut config = json!({
            "kind": "vault",
            "address": "https://vault.example:8200",
            "auth": { "method": "token", "file": "/run/goliath-operator/token" },
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    #[test]
    fn what_would_be_written_is_accepted() {
        let app_role = json!({
            "method": "approle", "role_id": "operator", "wrapped_secret_id_file": "/run/goliath-credentials/secret-id",
        });
        for config in [
            vault(&json!({})),
            vault(&json!({ "auth": app_role, "host_auth_mount": "hosts/approle" })),
            json!({ "kind": "local" }),
            json!({ "kind": "local", "certificate": "/etc/goliath/ca.crt" }),
        ] {
            let read: IssuerConfig = serde_json::from_value(config).unwrap();
            assert_eq!(read.complaints(), []);
        }
    }

    #[test]
    fn what_cannot_work_or_is_not_safe_is_refused() {
        for (config, key) in [
            (vault(&json!({ "address": "http://vault.example:8200" })), "address"),
            (vault(&json!({ "auth": { "method": "token", "file": "token" } })), "file"),
            (vault(&json!({ "host_auth_mount": "../approle" })), "host_auth_mount"),
            (vault(&json!({ "time_limit_seconds": 0 })), "time_limit_seconds"),
            (vault(&json!({ "certificate_authorities": "ca.crt" })), "certificate_authorities"),
            (json!({ "kind": "local", "certificate": "ca.crt" }), "certificate"),
        ] {
            let read: IssuerConfig = serde_json::from_value(config.clone()).unwrap();
            let keys: Vec<_> = read.complaints().into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, [key], "{config}");
        }
        for unknown in
            [vault(&json!({ "mount": "pki" })), json!({ "kind": "acme" }), json!({ "kind": "local", "key": "" })]
        {
            assert!(serde_json::from_value::<IssuerConfig>(unknown.clone()).is_err(), "{unknown}");
        }
    }
}
