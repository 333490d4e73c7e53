//! A real HashiCorp Vault of a test's own: on loopback, initialised, unsealed, gone with the test.

mod process;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::process::Process;

/// How a Vault is to be started.
#[derive(Debug, Clone)]
pub struct VaultOptions {
    /// With a certificate of its own; its authority is [`Vault::authorities`].
    pub tls: bool,
    /// Where it listens; the port is the kernel's choice.
    pub address: IpAddr,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self { tls: true, address: Ipv4Addr::LOCALHOST.into() }
    }
}

/// A Vault that runs. Its log and audit log are in [`Vault::directory`].
#[derive(Debug)]
pub struct Vault {
    process: Process,
    tls: bool,
    root_token: String,
    unseal_key: String,
    http: reqwest::Client,
    directory: TempDir,
}

/// A role of a cluster's PKI mount.
#[derive(Debug, Clone)]
pub struct PkiRole {
    /// Its name.
    pub name: String,
    /// What it writes into each certificate's subject.
    pub organizations: Vec<String>,
    /// The longest life it gives.
    pub max_ttl: Duration,
}

impl PkiRole {
    /// A role that allows every name, for an hour at most.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), organizations: Vec::new(), max_ttl: Duration::from_hours(1) }
    }

    /// With this organisation in the subject.
    #[must_use]
    pub fn organization(mut self, organization: &str) -> Self {
        self.organizations.push(organization.to_owned());
        self
    }
}

/// What a host logs in with.
#[derive(Debug, Clone)]
pub struct AppRole {
    /// Its name.
    pub name: String,
    /// Not a secret.
    pub role_id: String,
}

/// How long a host's tokens last.
#[derive(Debug, Clone, Copy)]
pub struct TokenLife {
    /// Until it has to be renewed.
    pub ttl: Duration,
    /// At the most.
    pub max_ttl: Duration,
}

impl Default for TokenLife {
    fn default() -> Self {
        Self { ttl: Duration::from_hours(1), max_ttl: Duration::from_hours(24) }
    }
}

impl Vault {
    /// The program: the `vault` on the PATH, or one that is built once; an error where neither can be had.
    pub async fn program() -> Result<&'static Path> {
        process::program().await
    }

    /// Starts one, initialises and unseals it, and has it write an audit log.
    pub async fn start(options: VaultOptions) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("goliath-vault-").tempdir()?;
        let mut http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).tls_backend_rustls();
        if options.tls {
            let authority = process::write_certificates(directory.path(), options.address)?;
            http = http.tls_certs_only([reqwest::Certificate::from_pem(authority.as_bytes())?]);
        } else {
            http = http.tls_certs_only([]);
        }
        let process = Process::start(directory.path(), options.address, 0, options.tls).await?;
        let mut vault = Self {
            process,
            tls: options.tls,
            root_token: String::new(),
            unseal_key: String::new(),
            http: http.build()?,
            directory,
        };
        let made = vault.call(Method::PUT, "sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await?;
        vault.root_token = text(&made, "/root_token")?;
        vault.unseal_key = text(&made, "/keys/0")?;
        vault.unseal().await?;
        let options = json!({"type": "file", "options": {"file_path": vault.audit_log()}});
        vault.call(Method::PUT, "sys/audit/file", options).await?;
        Ok(vault)
    }

    /// `https://127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.process.listens_on())
    }

    /// The same, without the scheme.
    pub fn listens_on(&self) -> SocketAddr {
        self.process.listens_on()
    }

    /// How the section of an issuer begins, for agents and operators.
    pub fn settings(&self) -> String {
        let authorities = self.authorities().map(|file| format!("certificate_authorities = \"{}\"\n", file.display()));
        format!("kind = \"vault\"\naddress = \"{}\"\n{}", self.address(), authorities.unwrap_or_default())
    }

    /// A token that may do what a policy says, for an operator. AppRole is there afterwards, which is not his to enable.
    pub async fn operated_by(&self, policy: &str) -> Result<String> {
        self.call(Method::POST, "sys/auth/approle", json!({"type": "approle"})).await?;
        self.call(Method::PUT, "sys/policies/acl/operator", json!({"policy": policy})).await?;
        let token = json!({"policies": ["operator"], "period": "1h", "no_parent": true});
        text(&self.call(Method::POST, "auth/token/create", token).await?, "/auth/client_token")
    }

    /// The clusters that have a PKI.
    pub async fn clusters(&self) -> Result<Vec<String>> {
        let mounts = self.call(Method::GET, "sys/mounts", Value::Null).await?;
        let names = mounts.pointer("/data").and_then(Value::as_object).context("Vault tells of no mounts")?.keys();
        Ok(names.filter_map(|name| name.strip_prefix("pki-")?.strip_suffix('/')).map(str::to_owned).collect())
    }

    /// The PEM file of its own certificate's authority; none without TLS.
    pub fn authorities(&self) -> Option<PathBuf> {
        self.tls.then(|| self.directory.path().join("ca.crt"))
    }

    /// May do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// Its storage, certificates and logs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes the PKI of a cluster: mount `pki-<cluster>` with a root CA.
    pub async fn enable_pki(&self, cluster: &str) -> Result<()> {
        let mount = json!({"type": "pki", "config": {"max_lease_ttl": "87600h"}});
        self.call(Method::POST, &format!("sys/mounts/pki-{cluster}"), mount).await?;
        let root =
            json!({"common_name": format!("{cluster} root CA"), "ttl": "87600h", "key_type": "ec", "key_bits": 256});
        self.call(Method::POST, &format!("pki-{cluster}/root/generate/internal"), root).await?;
        Ok(())
    }

    /// Adds a role to a cluster's PKI, or changes it.
    pub async fn write_role(&self, cluster: &str, role: &PkiRole) -> Result<()> {
        let settings = json!({
            "allow_any_name": true,
            "enforce_hostnames": false,
            "cn_validations": "disabled",
            "allow_ip_sans": true,
            "use_csr_common_name": false,
            "use_csr_sans": false,
            "key_type": "ec",
            "key_bits": 256,
            "organization": role.organizations,
            "max_ttl": format!("{}s", role.max_ttl.as_secs()),
        });
        self.call(Method::POST, &format!("pki-{cluster}/roles/{}", role.name), settings).await?;
        Ok(())
    }

    /// Makes the AppRole of a host that may have certificates signed for these clusters and nothing else.
    pub async fn enable_app_role(&self, host: &str, clusters: &[&str], life: TokenLife) -> Result<AppRole> {
        let mounted = self.call(Method::GET, "sys/auth", Value::Null).await?;
        if mounted.get("approle/").is_none() {
            self.call(Method::POST, "sys/auth/approle", json!({"type": "approle"})).await?;
        }
        let grants: Vec<String> = clusters
            .iter()
            .map(|cluster| format!("path \"pki-{cluster}/sign/*\" {{ capabilities = [\"update\"] }}"))
            .collect();
        let policy = grants.join("\n");
        self.call(Method::PUT, &format!("sys/policies/acl/goliath-{host}"), json!({"policy": policy})).await?;
        let role = json!({
            "token_policies": [format!("goliath-{host}")],
            "token_ttl": format!("{}s", life.ttl.as_secs()),
            "token_max_ttl": format!("{}s", life.max_ttl.as_secs()),
            "secret_id_ttl": "0",
            "secret_id_num_uses": 0,
        });
        self.call(Method::POST, &format!("auth/approle/role/{host}"), role).await?;
        let id = self.call(Method::GET, &format!("auth/approle/role/{host}/role-id"), Value::Null).await?;
        Ok(AppRole { name: host.to_owned(), role_id: text(&id, "/data/role_id")? })
    }

    /// A response-wrapping token for a new secret id of a host.
    pub async fn wrapped_secret_id(&self, role: &AppRole) -> Result<String> {
        self.wrapped(Method::POST, &format!("auth/approle/role/{}/secret-id", role.name)).await
    }

    /// A wrapping token for any answer.
    pub async fn wrapped(&self, method: Method, path: &str) -> Result<String> {
        let request = self.request(method, path).header("X-Vault-Token", &self.root_token);
        let request = request.header("X-Vault-Wrap-TTL", "300s");
        text(&answer(path, request).await?, "/wrap_info/token")
    }

    /// Uses a wrapping token up.
    pub async fn unwrap(&self, wrapping_token: &str) -> Result<Value> {
        let path = "sys/wrapping/unwrap";
        answer(path, self.request(Method::POST, path).header("X-Vault-Token", wrapping_token)).await
    }

    /// A token with a host's policy.
    pub async fn token(&self, host: &str, life: TokenLife) -> Result<String> {
        let settings = json!({
            "policies": [format!("goliath-{host}")],
            "ttl": format!("{}s", life.ttl.as_secs()),
            "explicit_max_ttl": format!("{}s", life.max_ttl.as_secs()),
        });
        text(&self.call(Method::POST, "auth/token/create", settings).await?, "/auth/client_token")
    }

    /// Revokes a token.
    pub async fn revoke_token(&self, token: &str) -> Result<()> {
        self.call(Method::POST, "auth/token/revoke", json!({"token": token})).await.map(drop)
    }

    /// Revokes every token that an AppRole login gave.
    pub async fn revoke_logins(&self) -> Result<()> {
        self.call(Method::PUT, "sys/leases/revoke-prefix/auth/approle/login", json!({"sync": true})).await.map(drop)
    }

    /// Destroys every secret id of a host.
    pub async fn destroy_secret_ids(&self, role: &AppRole) -> Result<()> {
        let path = format!("auth/approle/role/{}/secret-id", role.name);
        let list = Method::from_bytes(b"LIST")?;
        let found = self.call(list, &path, Value::Null).await?;
        for accessor in found.pointer("/data/keys").and_then(Value::as_array).into_iter().flatten() {
            let destroy = format!("auth/approle/role/{}/secret-id-accessor/destroy", role.name);
            self.call(Method::POST, &destroy, json!({"secret_id_accessor": accessor})).await?;
        }
        Ok(())
    }

    /// Seals it: it answers, and does nothing.
    pub async fn seal(&self) -> Result<()> {
        self.call(Method::PUT, "sys/seal", Value::Null).await.map(drop)
    }

    /// Unseals it.
    pub async fn unseal(&self) -> Result<()> {
        let state = self.call(Method::PUT, "sys/unseal", json!({"key": self.unseal_key})).await?;
        if state.get("sealed") == Some(&Value::Bool(false)) { Ok(()) } else { bail!("Vault stays sealed: {state}") }
    }

    /// Stops its process in its tracks: connections are taken and never answered.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGCONT)
    }

    /// Ends its process: nothing listens. [`Vault::restart`] brings it back with what it stored.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.stop().await
    }

    /// Starts it again where it was, unsealed.
    pub async fn restart(&mut self) -> Result<()> {
        let address = self.process.listens_on();
        self.process.stop().await?;
        self.process = Process::start(self.directory.path(), address.ip(), address.port(), self.tls).await?;
        self.unseal().await
    }

    /// The PEM of a cluster's root.
    pub async fn root_certificate(&self, cluster: &str) -> Result<String> {
        let found = self.call(Method::GET, &format!("pki-{cluster}/cert/ca"), Value::Null).await?;
        text(&found, "/data/certificate")
    }

    /// Serial numbers of all that a cluster's PKI issued, its root among them.
    pub async fn serial_numbers(&self, cluster: &str) -> Result<Vec<String>> {
        let found = self.call(Method::from_bytes(b"LIST")?, &format!("pki-{cluster}/certs"), Value::Null).await?;
        let keys = found.pointer("/data/keys").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// How many requests to a path were let through, by the audit log.
    pub fn count_requests(&self, path: &str) -> Result<usize> {
        let log = std::fs::read_to_string(self.audit_log())?;
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(entries
            .filter(|entry| {
                entry.get("type").is_some_and(|kind| kind == "response")
                    && entry.get("error").is_none()
                    && entry.pointer("/request/path").is_some_and(|requested| requested == path)
            })
            .count())
    }

    fn audit_log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/v1/{path}", self.address()))
    }

    /// Calls Vault as root, and goes away after some time without waiting for the answer.
    pub async fn give_up(&self, method: Method, path: &str, after: Duration) {
        let request = self.request(method, path).header("X-Vault-Token", &self.root_token);
        let _ = tokio::time::timeout(after, request.send()).await;
    }

    /// Calls Vault as root.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let mut request = self.request(method, path).header("X-Vault-Token", &self.root_token);
        if !body.is_null() {
            request = request.json(&body);
        }
        answer(path, request).await
    }
}

async fn answer(path: &str, request: reqwest::RequestBuilder) -> Result<Value> {
    let response = request.send().await.with_context(|| format!("ask Vault for {path}"))?;
    let status = response.status();
    let body = response.text().await.with_context(|| format!("read Vault's answer for {path}"))?;
    if !status.is_success() {
        bail!("Vault answered {path} with {status}: {}", body.trim());
    }
    if body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&body)?) }
}

fn text(answer: &Value, pointer: &str) -> Result<String> {
    answer
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("Vault's answer has no {pointer}"))
}
