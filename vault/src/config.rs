//! What the configurations of agent and operator say about Vault in the same words.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use serde::Deserialize;

use crate::{
    connection::Endpoint,
    secret_id::{PlaceError, SecretId},
    session::Login,
};

/// How to log in to Vault.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum VaultAuth {
    /// The secret id is a file's content: a response-wrapping token, good once. The file is removed once unwrapped; what
    /// it wrapped is kept in the runtime directory for root alone, so that the program can log in again.
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

/// The key of a configuration, and what is wrong with its value.
pub type Complaint = (&'static str, String);

impl Endpoint {
    /// What is wrong with it: keys are those of both configurations.
    pub fn complaints(&self, plain_http: bool) -> Vec<Complaint> {
        let mut complaints: Vec<_> = check_address(&self.address, plain_http)
            .err()
            .map(|complaint| ("address", complaint))
            .into_iter()
            .collect();
        if let Some(file) = &self.certificate_authorities {
            complaints.extend(absolute("certificate_authorities", file).err());
        }
        if !(Duration::from_secs(1)..=Duration::from_mins(5)).contains(&self.time_limit) {
            complaints.push(("time_limit_seconds", format!("{} must be 1 to 300", self.time_limit.as_secs())));
        }
        if self.namespace.as_ref().is_some_and(|namespace| mount_path("namespace", namespace).is_err()) {
            complaints.push(("namespace", "must be the path of a namespace".to_owned()));
        }
        complaints
    }
}

impl VaultAuth {
    /// The login; `name` tells apart where each keeps its secret id below the runtime directory.
    pub fn login(&self, name: &str, runtime_directory: &Path) -> Result<Login, PlaceError> {
        Ok(match self {
            Self::AppRole { mount, role_id, wrapped_secret_id_file } => Login::AppRole {
                mount: mount.clone(),
                role_id: role_id.clone(),
                secret_id: SecretId::new(mount, wrapped_secret_id_file, runtime_directory, name)?,
            },
            Self::Token { file } => Login::TokenFile(file.clone()),
        })
    }

    /// What is wrong with it beyond its types: each with the key it is about.
    pub fn complaints(&self) -> Vec<Complaint> {
        match self {
            Self::Token { file } => absolute("file", file).err().into_iter().collect(),
            Self::AppRole { mount, role_id, wrapped_secret_id_file } => {
                let mut complaints: Vec<_> =
                    absolute("wrapped_secret_id_file", wrapped_secret_id_file).err().into_iter().collect();
                if role_id.is_empty() || !role_id.chars().all(|character| character.is_ascii_graphic()) {
                    complaints.push(("role_id", "must be the AppRole's role id".to_owned()));
                }
                complaints.extend(mount_path("mount", mount).err());
                complaints
            }
        }
    }
}

/// Vault's address: tokens go there, so nobody may listen on the way.
fn check_address(address: &str, plain_http: bool) -> Result<(), String> {
    let address = Url::parse(address).map_err(|reason| format!("is not a URL: {reason}"))?;
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
        "http" if on_this_machine || plain_http => Ok(()),
        "http" => {
            Err("must be https, or set plain_http = true: the token would cross the network in the clear".to_owned())
        }
        other => Err(format!("has scheme {other}: must be https")),
    }
}

/// Vault's paths: segments of a few characters, none of which leads elsewhere.
pub fn mount_path(key: &'static str, path: &str) -> Result<(), Complaint> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let good = path.split('/').all(|segment| {
        !segment.is_empty() && segment.chars().all(allowed) && !segment.chars().all(|character| character == '.')
    });
    if good { Ok(()) } else { Err((key, format!("{path:?} is not where an engine can be mounted"))) }
}

/// Whoever starts the program may be anywhere.
pub fn absolute(key: &'static str, file: &Path) -> Result<(), Complaint> {
    if file.is_absolute() { Ok(()) } else { Err((key, format!("{} must be absolute", file.display()))) }
}
