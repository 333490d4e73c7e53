//! A real registry on loopback: Debian's `docker-registry`, with its storage in a temporary directory.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Client, StatusCode, header};
use tempfile::TempDir;

use crate::{
    oci_image::{MANIFEST, OciImage},
    program,
};

/// The user of a registry with a password.
pub const USER: &str = "lab";
/// Their password.
pub const PASSWORD: &str = "correct horse";
/// The above by bcrypt, at its lowest cost.
const HTPASSWD: &str = "lab:$2y$04$5vw.roIzHe1CDMvQx0IQfuwin3pNMw.Uo7yUd3KIq8xQjtksTlvv2\n";

/// Ends with its value.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    directory: TempDir,
    address: String,
    scheme: &'static str,
    with_password: bool,
    token: Option<String>,
    namespace: Option<PathBuf>,
    client: Client,
}

/// What a registry asks of its callers.
#[derive(Debug, Default)]
pub struct RegistryOptions<'a> {
    /// [`USER`] and [`PASSWORD`].
    pub with_password: bool,
    /// Files with a certificate and its key.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// A token service that it sends its callers to.
    pub token_service: Option<TokenService<'a>>,
    /// Where it runs, if not in our own network namespace, and on which of its addresses it listens. Then
    /// [`Registry::push_layout`] is the way to fill it.
    pub namespace: Option<(&'a Path, IpAddr)>,
}

/// Whose tokens a registry takes.
#[derive(Debug)]
pub struct TokenService<'a> {
    /// Its URL.
    pub realm: &'a str,
    /// What it calls itself, and the registry.
    pub name: &'a str,
    /// The file of the certificate that its tokens are signed with.
    pub certificate: &'a Path,
}

impl Registry {
    /// One that everyone may use, by plain HTTP.
    pub fn start() -> Result<Self> {
        Self::start_with(&RegistryOptions::default())
    }

    /// Returns when it listens.
    pub fn start_with(options: &RegistryOptions<'_>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("goliath-registry.").tempdir()?;
        let file = directory.path().join("config.yml");
        fs::write(&file, configuration(directory.path(), options)?)?;
        let namespace = options.namespace.map(|(path, _)| path.to_owned());
        let mut process = command(namespace.as_deref(), "docker-registry")?
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = process.stderr.take().context("docker-registry has no log")?;
        let mut registry = Self {
            process,
            directory,
            address: String::new(),
            scheme: if options.tls.is_some() { "https" } else { "http" },
            with_password: options.with_password,
            token: None,
            namespace,
            client: Client::builder().danger_accept_invalid_certs(true).no_proxy().build()?,
        };
        let mut lines = BufReader::new(log).lines();
        let mut said = Vec::new();
        for line in lines.by_ref() {
            let line = line?;
            if let Some((_, rest)) = line.split_once("listening on ") {
                rest.split([',', '"']).next().unwrap_or_default().clone_into(&mut registry.address);
                break;
            }
            said.push(line);
        }
        ensure!(!registry.address.is_empty(), "docker-registry did not start:\n{}", said.join("\n"));
        // A log that nobody reads would block it.
        thread::spawn(move || lines.for_each(drop));
        Ok(registry)
    }

    /// Pushes with a token.
    #[must_use]
    pub fn with_token(mut self, token: String) -> Self {
        self.token = Some(token);
        self
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `docker-registry`'s process, for measurements.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where it keeps a blob: to be damaged.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.path().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Pushes an image; gives its reference by tag.
    pub async fn push(&self, repository: &str, tag: &str, image: &OciImage) -> Result<String> {
        for (digest, bytes) in &image.blobs {
            self.push_blob(repository, digest, bytes.clone()).await?;
        }
        for (digest, bytes) in &image.manifests {
            self.push_manifest(repository, digest, MANIFEST, bytes.clone()).await?;
        }
        self.push_manifest(repository, tag, image.head_type, image.head.clone()).await?;
        Ok(format!("{}/{repository}:{tag}", self.address))
    }

    /// Pushes what an OCI layout has under a tag; gives its reference.
    pub fn push_layout(&self, repository: &str, tag: &str, layout: &Path) -> Result<String> {
        let reference = format!("{}/{repository}:{tag}", self.address);
        let mut skopeo = command(self.namespace.as_deref(), "skopeo")?;
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"]);
        if self.with_password {
            skopeo.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        skopeo.arg(format!("oci:{}:{tag}", layout.display())).arg(format!("docker://{reference}"));
        let output = skopeo.output()?;
        ensure!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(reference)
    }

    async fn push_blob(&self, repository: &str, digest: &str, bytes: Vec<u8>) -> Result<()> {
        let url = format!("{}://{}/v2/{repository}/blobs/uploads/", self.scheme, self.address);
        let begun = self.authorized(self.client.post(url)).send().await?;
        ensure!(begun.status() == StatusCode::ACCEPTED, "an upload cannot begin: {}", begun.status());
        let location = begun.headers().get(header::LOCATION).context("an upload has no location")?.to_str()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let upload = self.client.put(format!("{location}{separator}digest={digest}")).body(bytes);
        let ended = self.authorized(upload).send().await?;
        ensure!(ended.status() == StatusCode::CREATED, "blob {digest} is not taken: {}", ended.text().await?);
        Ok(())
    }

    async fn push_manifest(&self, repository: &str, name: &str, kind: &str, bytes: Vec<u8>) -> Result<()> {
        let url = format!("{}://{}/v2/{repository}/manifests/{name}", self.scheme, self.address);
        let request = self.client.put(url).header(header::CONTENT_TYPE, kind).body(bytes);
        let answer = self.authorized(request).send().await?;
        if answer.status() != StatusCode::CREATED {
            bail!("manifest {name} is not taken: {}", answer.text().await?);
        }
        Ok(())
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None if self.with_password => request.basic_auth(USER, Some(PASSWORD)),
            None => request,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program in a network namespace; `nsenter` becomes it, so it is the process that is ended.
fn command(namespace: Option<&Path>, name: &str) -> Result<Command> {
    let program = program::installed(name)?;
    let Some(namespace) = namespace else { return Ok(Command::new(program)) };
    let mut command = Command::new(program::installed("nsenter")?);
    command.arg(format!("--net={}", namespace.display())).arg(program);
    Ok(command)
}

/// The port is the kernel's choice; the log tells it.
fn configuration(directory: &Path, options: &RegistryOptions<'_>) -> Result<String> {
    let address = options.namespace.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |(_, address)| address);
    let mut http = serde_json::json!({"addr": SocketAddr::new(address, 0)});
    if let Some((certificate, key)) = options.tls {
        http["tls"] = serde_json::json!({"certificate": certificate, "key": key});
    }
    let mut configuration = serde_json::json!({
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": true}},
        "storage": {"filesystem": {"rootdirectory": directory}, "delete": {"enabled": true}},
        "http": http,
    });
    if options.with_password {
        let file = directory.join("htpasswd");
        fs::write(&file, HTPASSWD)?;
        configuration["auth"] = serde_json::json!({"htpasswd": {"realm": "lab", "path": file}});
    }
    if let Some(TokenService { realm, name, certificate }) = &options.token_service {
        let token = serde_json::json!({
            "realm": realm, "service": name, "issuer": name, "rootcertbundle": certificate
        });
        configuration["auth"] = serde_json::json!({"token": token});
    }
    // JSON is YAML, but for the version, which must not be taken for text.
    Ok(serde_json::to_string(&configuration)?.replace("\"version\":\"0.1\"", "\"version\":0.1"))
}
