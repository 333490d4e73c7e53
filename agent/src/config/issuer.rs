use std::{net::IpAddr, path::PathBuf};

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

impl IssuerConfig {
    /// What is wrong with it beyond its types: each with the key it is about.
    pub(super) fn complaints(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Vault(vault) => vault.complaints(),
            Self::Local(local) => {
                relative([("certificate", Some(&local.certificate)), ("key", Some(&local.key))]).collect()
            }
        }
    }
}

impl VaultIssuerConfig {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        let login = match &self.auth {
            VaultAuth::AppRole { wrapped_secret_id_file, .. } => ("wrapped_secret_id_file", wrapped_secret_id_file),
            VaultAuth::Token { file } => ("file", file),
        };
        let mut complaints: Vec<_> =
            relative([("certificate_authorities", self.certificate_authorities.as_ref()), (login.0, Some(login.1))])
                .collect();
        if let Err(complaint) = self.check_address() {
            complaints.push(("address", complaint));
        }
        if !self.mount.contains("{cluster}") {
            complaints.push((
                "mount",
                format!(
                    "{:?} must contain {{cluster}}, or one cluster's guests get another's certificates",
                    self.mount
                ),
            ));
        }
        let mut mounts = vec![("mount", self.mount.replace("{cluster}", "cluster"))];
        if let VaultAuth::AppRole { mount, role_id, .. } = &self.auth {
            mounts.push(("mount", mount.clone()));
            if role_id.is_empty() || !role_id.chars().all(|character| character.is_ascii_graphic()) {
                complaints.push(("role_id", "must be the AppRole's role id".to_owned()));
            }
        }
        for (key, mount) in mounts {
            if !is_mount_path(&mount) {
                complaints.push((key, format!("{mount:?} is not where an engine can be mounted")));
            }
        }
        if !(1..=300).contains(&self.time_limit_seconds) {
            complaints.push(("time_limit_seconds", format!("{} must be 1 to 300", self.time_limit_seconds)));
        }
        if self.namespace.as_ref().is_some_and(|namespace| !is_mount_path(namespace)) {
            complaints.push(("namespace", "must be the path of a namespace".to_owned()));
        }
        complaints
    }

    fn check_address(&self) -> Result<(), String> {
        let address = reqwest::Url::parse(&self.address).map_err(|reason| format!("is not a URL: {reason}"))?;
        let host = address.host_str().unwrap_or_default();
        if !address.username().is_empty() || address.password().is_some() {
            return Err("must hold no user and no password".to_owned());
        }
        if address.path() != "/" || address.query().is_some() || address.fragment().is_some() {
            return Err("must be a scheme, a host and a port, such as https://vault.example:8200".to_owned());
        }
        let on_this_machine = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match address.scheme() {
            "https" => Ok(()),
            "http" if on_this_machine || self.plain_http => Ok(()),
            "http" => Err("must be https, or set plain_http = true: the agent's token would cross the network in the \
                           clear"
                .to_owned()),
            other => Err(format!("has scheme {other}: must be https")),
        }
    }
}

/// Vault's paths: segments of a few characters, none of which leads elsewhere.
fn is_mount_path(path: &str) -> bool {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    path.split('/').all(|segment| {
        !segment.is_empty() && segment.chars().all(allowed) && !segment.chars().all(|character| character == '.')
    })
}

fn relative<'a>(
    files: impl IntoIterator<Item = (&'static str, Option<&'a PathBuf>)>,
) -> impl Iterator<Item = (&'static str, String)> {
    files.into_iter().filter_map(|(key, file)| {
        let file = file.filter(|file| !file.is_absolute())?;
        Some((key, format!("{} must be absolute", file.display())))
    })
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
