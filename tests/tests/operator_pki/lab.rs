//! A Vault, an operator's token for it, and agents.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use goliath_agent::{
    certs::{IssueError, IssuedCertificate, Issuer as _, VaultIssuer},
    config::{VaultAuth, VaultIssuerConfig},
    spec::CertificateRequest,
};
use goliath_lab::vault::{Vault, VaultOptions};
use goliath_operator::{
    objects::{self, ClusterSpec, GuestRole},
    pki::{
        self, ClusterPki, Grant, HostCredentials, HostLogin, IssuerConfig, OPERATOR_POLICY, VaultPki,
        kubernetes::{self, GuestIdentity},
    },
};
use goliath_vault::{Connection, Login, Session};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const WRAP: Duration = Duration::from_mins(5);

/// A Vault with AppRole, and an operator that may do what its policy says.
pub(crate) struct Lab {
    pub(crate) pki: VaultPki,
    pub(crate) vault: Vault,
    token: TempDir,
}

impl Lab {
    pub(crate) async fn start() -> Result<Self> {
        let vault = Vault::start(VaultOptions::default()).await?;
        let directory = tempfile::Builder::new().prefix("goliath-operator-").tempdir()?;
        let file = directory.path().join("token");
        fs::write(&file, vault.operated_by(OPERATOR_POLICY).await?)?;
        let config = issuer_config(&vault, &file, 10);
        let connection = Arc::new(Connection::new(config.endpoint()));
        let session = Session::start("operator", Login::TokenFile(file), connection);
        Ok(Self { pki: VaultPki::new(session, &config.host_auth_mount), vault, token: directory })
    }

    /// What an operator's configuration says of it.
    pub(crate) fn issuer(&self, time_limit_seconds: u64) -> IssuerConfig {
        IssuerConfig::Vault(issuer_config(&self.vault, &self.token.path().join("token"), time_limit_seconds))
    }

    /// All requests that changed something in Vault, as far as it let them through.
    pub(crate) fn writes(&self) -> Vec<String> {
        let log = fs::read_to_string(self.vault.directory().join("audit.log")).unwrap();
        let text = |entry: &Value, pointer: &str| entry.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        log.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|entry| text(entry, "/type").as_deref() == Some("response"))
            .filter_map(|entry| Some((text(&entry, "/request/operation")?, text(&entry, "/request/path")?)))
            .filter(|(operation, _)| !["read", "list"].contains(&operation.as_str()))
            .map(|(operation, path)| format!("{operation} {path}"))
            .collect()
    }

    /// The agent of a host that gets its first credentials.
    pub(crate) async fn agent_of(&self, login: &HostLogin) -> Result<Agent> {
        self.pki.make_host(login).await?;
        self.agent(&self.pki.issue_host_credentials(&login.host, login.uid, WRAP).await?)
    }

    /// The names of the CAs in a cluster's mount.
    pub(crate) async fn issuers(&self, cluster: &str) -> Result<Vec<String>> {
        let list = Method::from_bytes(b"LIST")?;
        let found = self.vault.call(list, &format!("pki-{cluster}/issuers"), Value::Null).await?;
        let issuers = found.pointer("/data/key_info").and_then(Value::as_object).unwrap();
        let name = |issuer: &Value| issuer.pointer("/issuer_name").and_then(Value::as_str).unwrap().to_owned();
        Ok(issuers.values().map(name).collect())
    }

    /// All that bears a name of Goliath's.
    pub(crate) async fn left_in_vault(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for (path, pointer) in [
            ("sys/mounts", "/data"),
            ("sys/policies/acl", "/data/keys"),
            ("identity/entity/name", "/data/keys"),
            ("auth/approle/role", "/data/keys"),
        ] {
            let method = if path == "sys/mounts" { Method::GET } else { Method::from_bytes(b"LIST")? };
            // Nothing to list is not found.
            let found = self.vault.call(method, path, Value::Null).await.unwrap_or_default();
            let names: Vec<String> = match found.pointer(pointer) {
                Some(Value::Object(mounts)) => mounts.keys().cloned().collect(),
                Some(keys) => serde_json::from_value(keys.clone())?,
                None => Vec::new(),
            };
            let ours = names.into_iter().filter(|name| name.starts_with("pki-") || name.starts_with("goliath-"));
            left.extend(ours.map(|name| format!("{path}/{name}")));
        }
        Ok(left)
    }

    /// Somebody who has the credentials of a host, and asks Vault for whatever he likes.
    pub(crate) async fn intruder_on(&self, login: &HostLogin) -> Result<Session> {
        self.pki.make_host(login).await?;
        let credentials = self.pki.issue_host_credentials(&login.host, login.uid, WRAP).await?;
        let secret = self.vault.unwrap(credentials.wrapping_token.reveal()).await?;
        let secret_id = secret.pointer("/data/secret_id").unwrap();
        let body = json!({"role_id": credentials.role_id, "secret_id": secret_id});
        let given = self.vault.call(Method::POST, "auth/approle/login", body).await?;
        let file = self.token.path().join("intruder");
        fs::write(&file, given.pointer("/auth/client_token").and_then(Value::as_str).unwrap())?;
        let endpoint = issuer_config(&self.vault, &file, 10).endpoint();
        Ok(Session::start("intruder", Login::TokenFile(file), Arc::new(Connection::new(endpoint))))
    }

    /// An agent with these credentials.
    pub(crate) fn agent(&self, credentials: &HostCredentials) -> Result<Agent> {
        let memory = tempfile::Builder::new().prefix("goliath-host-").tempdir_in("/dev/shm")?;
        let file = memory.path().join("secret-id.wrapped");
        fs::write(&file, credentials.wrapping_token.reveal())?;
        let config = VaultIssuerConfig {
            address: self.vault.address(),
            certificate_authorities: self.vault.authorities(),
            mount: "pki-{cluster}".to_owned(),
            auth: VaultAuth::AppRole {
                mount: credentials.auth_mount.clone(),
                role_id: credentials.role_id.clone(),
                wrapped_secret_id_file: file,
            },
            namespace: None,
            time_limit_seconds: 10,
            plain_http: false,
        };
        let issuer = VaultIssuer::new(&"vault".parse().unwrap(), &config, memory.path())?;
        Ok(Agent { issuer, _memory: memory })
    }
}

fn issuer_config(vault: &Vault, token: &Path, time_limit_seconds: u64) -> pki::VaultIssuerConfig {
    pki::VaultIssuerConfig {
        address: vault.address(),
        certificate_authorities: vault.authorities(),
        auth: VaultAuth::Token { file: token.to_owned() },
        host_auth_mount: "approle".to_owned(),
        namespace: None,
        time_limit_seconds,
        plain_http: false,
    }
}

pub(crate) struct Agent {
    issuer: VaultIssuer,
    _memory: TempDir,
}

impl Agent {
    pub(crate) async fn has_signed(
        &self,
        cluster: &str,
        request: &CertificateRequest,
    ) -> Result<IssuedCertificate, IssueError> {
        self.issuer.issue(&cluster.parse().unwrap(), request).await
    }

    /// Vault itself says no.
    pub(crate) async fn is_refused(&self, cluster: &str, request: &CertificateRequest) {
        let refusal = self.has_signed(cluster, request).await.unwrap_err();
        let path = format!("pki-{cluster}/sign/{}", request.role);
        assert_eq!(refusal, IssueError::Forbidden { path });
    }
}

/// What `worker-0` of any cluster asks for: clusters have the same names inside.
pub(crate) fn kubelet() -> CertificateRequest {
    requests("x", GuestRole::Worker, "worker-0").remove(0)
}

/// Clusters differ in their domains only.
pub(crate) fn spec(name: &str) -> ClusterSpec {
    let machine = json!({ "vcpus": 2, "memory": "2GiB" });
    serde_json::from_value(json!({
        "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
        "network": { "cidr": "10.7.0.0/24" },
        "masters": { "replicas": 1, "machine": machine, "image": "a:b" },
        "workers": [{ "name": "worker", "replicas": 3, "machine": machine, "image": "a:b" }],
        "pki": { "allowedDomains": [format!("{name}.example")] }
    }))
    .unwrap()
}

pub(crate) fn cluster(name: &str) -> ClusterPki {
    ClusterPki { uid: uid(name), spec: kubernetes::authority(&name.parse().unwrap(), &spec(name)).unwrap() }
}

/// What a guest of a cluster asks for, as its agent reads it.
pub(crate) fn requests(cluster: &str, role: GuestRole, hostname: &str) -> Vec<CertificateRequest> {
    let hostname = hostname.parse().unwrap();
    let (address, gateway_address) = ("10.7.0.10".parse().unwrap(), "10.7.0.1".parse().unwrap());
    let guest = GuestIdentity { role, hostname: &hostname, address, gateway_address };
    let texts = |names: Vec<String>| names.into_iter().collect::<BTreeSet<_>>();
    let asked = |request: objects::CertificateRequest| CertificateRequest {
        name: request.name.as_str().parse().unwrap(),
        issuer: request.issuer.as_str().parse().unwrap(),
        role: request.role.unwrap_or(request.name).to_string(),
        common_name: request.common_name.to_string(),
        dns_names: texts(request.dns_names.iter().map(ToString::to_string).collect()),
        ip_addresses: request.ip_addresses.into_iter().collect(),
        organizations: texts(request.organizations.iter().map(ToString::to_string).collect()),
        ttl: request.ttl.as_duration(),
    };
    kubernetes::certificates(&spec(cluster), &guest).unwrap().into_iter().map(asked).collect()
}

/// A host that runs such guests: `x/worker`.
pub(crate) fn host(name: &str, guests: &[&str]) -> HostLogin {
    let grant = |guest: &&str| {
        let (cluster, role) = guest.split_once('/').unwrap();
        let role = if role == "master" { GuestRole::Master } else { GuestRole::Worker };
        Grant { cluster: cluster.parse().unwrap(), role }
    };
    HostLogin { host: name.parse().unwrap(), uid: uid(name), grants: guests.iter().map(grant).collect() }
}

pub(crate) fn uid(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}
