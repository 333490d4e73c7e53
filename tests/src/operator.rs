//! The real operator as a process, on the machine that all hosts of a lab are plugged into, and people who call it.

mod objects;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use goliath_proto::operator::v1::{AddHostRequest, HostCredential, fleet_service_client::FleetServiceClient};
use serde_json::json;
use tokio::sync::Mutex;
use tonic::transport::Channel;

use crate::{
    Lab,
    agent::Client,
    daemon::{DaemonFiles, DaemonProcess},
    host::write_private,
    lab::Shared,
    pki::{Authority, Identity, Purpose},
    program,
    relay::Relay,
    underlay::Underlay,
    vault::Vault,
};

pub use objects::{Objects, is_true, text};

const PORT: u16 = 7444;

/// An operator of a lab.
#[derive(Debug)]
pub struct Operator {
    shared: Arc<Shared>,
    directory: PathBuf,
    files: DaemonFiles,
    process: Mutex<Option<DaemonProcess>>,
    _relays: Vec<Relay>,
}

/// What a command line said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// On the standard output.
    pub out: String,
    /// On the standard error.
    pub err: String,
}

impl Said {
    /// The same, if it ended with this code.
    pub fn ends_with(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "it ended with {:?}, not {code}:\n{}{}", self.code, self.out, self.err);
        Ok(self)
    }
}

impl Operator {
    /// Starts one with these sections in its configuration beside the needed ones, and waits until it is ready.
    pub async fn start(lab: &Lab, sections: &str) -> Result<Self> {
        Self::start_reaching(lab, sections, &[]).await
    }

    /// Starts one that keeps a Vault for its clusters; the issuer's name is `vault`.
    pub async fn keeping(lab: &Lab, vault: &Vault, policy: &str) -> Result<Self> {
        let file = lab.directory().join("vault-token");
        write_private(&file, &vault.operated_by(policy).await?)?;
        let auth = format!("auth = {{ method = \"token\", file = \"{}\" }}\n", file.display());
        let issuer = format!("[issuers.vault]\n{}{auth}", vault.settings());
        Self::start_reaching(lab, &issuer, &[vault.listens_on()]).await
    }

    async fn start_reaching(lab: &Lab, sections: &str, services: &[SocketAddr]) -> Result<Self> {
        let shared = Arc::clone(lab.shared());
        let directory = shared.scratch.directory("operator")?;
        // On a tmpfs, as /run is.
        shared.scratch.memory("operator/run")?;
        let files = DaemonFiles {
            program: program::operator()?,
            namespace: shared.underlay.namespace().to_owned(),
            config: directory.join("operator.toml"),
            log: directory.join("operator.log"),
            notify: directory.join("notify.sock"),
        };
        shared.remember_log("operator", &files.log);
        let authority = &shared.authority;
        fs::write(directory.join("ca.crt"), authority.certificate())?;
        let server = authority.issue("operator.example", Purpose::Host(Underlay::ADDRESS.into()))?;
        server.write(&directory.join("server.crt"), &directory.join("server.key"))?;
        shared.operator.write(&directory.join("operator.crt"), &directory.join("operator.key"))?;
        fs::write(&files.config, config(&directory, sections))?;
        let relay = |service: &SocketAddr| Relay::start(&files.namespace, *service);
        let relays = services.iter().map(relay).collect::<Result<_>>()?;
        let operator = Self { shared, directory, files, process: Mutex::new(None), _relays: relays };
        for role in ["viewer", "operator", "administrator"] {
            let organization = match role {
                "viewer" => "goliath:viewers",
                "operator" => "goliath:operators",
                _ => "goliath:administrators",
            };
            operator.person(role, &operator.shared.authority, Purpose::Member(organization))?;
        }
        operator.start_again().await?;
        Ok(operator)
    }

    /// Starts it after it was killed or stopped.
    pub async fn start_again(&self) -> Result<()> {
        let mut process = self.process.lock().await;
        ensure!(process.is_none(), "the operator runs already");
        *process = Some(DaemonProcess::start(&self.files).await?);
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&self) -> Result<()> {
        self.process.lock().await.take().context("no operator runs")?.kill().await
    }

    /// Stops it as systemd would; it must end well.
    pub async fn stop(&self) -> Result<()> {
        let status = self.process.lock().await.take().context("no operator runs")?.stop().await?;
        ensure!(status.success(), "the operator ended with {status}");
        Ok(())
    }

    /// Adds a host, each in a zone of its own; gives what its agent logs in with.
    pub async fn add_host(&self, name: &str, address: SocketAddr) -> Result<Vec<HostCredential>> {
        let spec = json!({ "address": address, "zone": name });
        let host =
            json!({ "apiVersion": "goliath.dev/v1alpha1", "kind": "Host", "metadata": { "name": name }, "spec": spec });
        let request = AddHostRequest { manifest: host.to_string(), dry_run: false };
        let response =
            FleetServiceClient::new(self.channel("administrator").await?).add_host(request).await?.into_inner();
        ensure!(response.failures.is_empty(), "{:?}", response.failures);
        Ok(response.credentials)
    }

    /// A connection of one of the persons.
    async fn channel(&self, person: &str) -> Result<Channel> {
        let identity = Identity::read(&self.directory, &format!("person-{person}"))?;
        let authority = self.shared.authority.certificate();
        Ok(Client::over_tls(&self.files.namespace, self.address(), authority, Some(&identity)).await?.channel())
    }

    /// Where its API is.
    pub fn address(&self) -> SocketAddr {
        (Underlay::ADDRESS, PORT).into()
    }

    /// A place for manifests and the like.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a certificate for somebody, by whom the operator trusts or by others.
    pub fn person(&self, name: &str, authority: &Authority, purpose: Purpose) -> Result<()> {
        let file = |extension: &str| self.directory.join(format!("person-{name}.{extension}"));
        authority.issue(name, purpose)?.write(&file("crt"), &file("key"))
    }

    /// Runs `goliath` as one of the persons: `viewer`, `operator`, `administrator`, or one that was made.
    pub fn goliath(&self, person: &str, arguments: &[&str]) -> Result<Said> {
        let file = |name: String| self.directory.join(name);
        let output = Command::new(program::installed("nsenter")?)
            .arg(format!("--net={}", self.files.namespace.display()))
            .arg(program::command_line()?)
            .arg("--operator")
            .arg(format!("https://{}", self.address()))
            .arg("--ca")
            .arg(file("ca.crt".to_owned()))
            .arg("--cert")
            .arg(file(format!("person-{person}.crt")))
            .arg("--key")
            .arg(file(format!("person-{person}.key")))
            .args(arguments)
            .current_dir(&self.directory)
            .env_remove("GOLIATH_AGENT")
            .env_remove("GOLIATH_OPERATOR")
            .env("NO_COLOR", "1")
            .output()
            .context("cannot run goliath")?;
        Ok(Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Writes a manifest beside the operator.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn config(directory: &Path, sections: &str) -> String {
    let at = |name: &str| directory.join(name).display().to_string();
    format!(
        "\
[directories]
state = {:?}
runtime = {:?}

[api]
listen = [\"{}:{PORT}\"]
certificate = {:?}
key = {:?}
client_ca = {:?}

[agents]
certificate = {:?}
key = {:?}
ca = {:?}

{sections}",
        at("state"),
        at("run"),
        Underlay::ADDRESS,
        at("server.crt"),
        at("server.key"),
        at("ca.crt"),
        at("operator.crt"),
        at("operator.key"),
        at("ca.crt"),
    )
}
