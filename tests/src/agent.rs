//! The real agent as a process in a host's namespace, and the ways to call it.

use std::{
    fs::{self, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use goliath_proto::agent::v1::{
    guest_service_client::GuestServiceClient, host_service_client::HostServiceClient,
    image_service_client::ImageServiceClient, inspect_service_client::InspectServiceClient,
    network_service_client::NetworkServiceClient,
};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    net::UnixDatagram,
    process::{Child, Command},
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity, Uri};

use crate::{pki::Identity, program, underlay};

/// An agent finds its guests again in well under a second; a machine with two busy processors is slower.
const START_LIMIT: Duration = Duration::from_secs(30);
/// The agent's drain is bounded; this is more.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where an agent's process gets what it needs.
#[derive(Debug, Clone)]
pub struct AgentFiles {
    /// Its network namespace.
    pub namespace: PathBuf,
    /// `agent.toml`.
    pub config: PathBuf,
    /// What it says.
    pub log: PathBuf,
    /// Where it says that it is ready, as to systemd.
    pub notify: PathBuf,
}

/// A running agent; dropping it kills it, as a crash would.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
}

impl AgentProcess {
    /// Starts the agent and returns at once: it may be killed at any moment of its start.
    pub fn spawn(files: &AgentFiles) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(&files.log)?;
        let child = Command::new(program::installed("nsenter")?)
            .arg(format!("--net={}", files.namespace.display()))
            .arg(program::agent()?)
            .args(["run", "--config"])
            .arg(&files.config)
            .env("NOTIFY_SOCKET", &files.notify)
            .env("GOLIATH_LOG", std::env::var("GOLIATH_LOG").unwrap_or_else(|_| "info,goliath_agent=debug".to_owned()))
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C on the terminal is for the lab alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the agent")?;
        Ok(Self { child })
    }

    /// Starts the agent and waits until it says that it is ready.
    pub async fn start(files: &AgentFiles) -> Result<Self> {
        let socket = bind_notify(&files.notify)?;
        let mut agent = Self::spawn(files)?;
        let outcome = tokio::select! {
            ready = tokio::time::timeout(START_LIMIT, until_ready(&socket)) => match ready {
                Ok(ready) => ready,
                Err(_) => bail!("the agent did not say that it is ready; its log is {}", files.log.display()),
            },
            status = agent.child.wait() => bail!("the agent ended ({}); its log is {}", status?, files.log.display()),
        };
        outcome.map(|()| agent)
    }

    /// Its number.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// SIGTERM, as systemd stops it, and waits for its end.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        }
        let ended = tokio::time::timeout(STOP_LIMIT, self.child.wait());
        Ok(ended.await.context("the agent did not end after SIGTERM")??)
    }
}

fn bind_notify(path: &Path) -> Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(UnixDatagram::bind(path)?)
}

async fn until_ready(socket: &UnixDatagram) -> Result<()> {
    let mut message = [0; 4096];
    loop {
        let length = socket.recv(&mut message).await?;
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
        if text.lines().any(|line| line == "READY=1") {
            return Ok(());
        }
    }
}

/// The agent's services over one connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Over the Unix socket, as root on the machine.
    pub async fn over_socket(path: PathBuf) -> Result<Self> {
        let shown = path.display().to_string();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is not looked up: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://agent.goliath");
        let channel = endpoint.connect_with_connector(connector).await;
        Ok(Self { channel: channel.with_context(|| format!("cannot reach the agent at {shown}"))? })
    }

    /// By mutual TLS from inside a namespace, as an operator elsewhere would; without an identity where none is given.
    pub async fn over_tls(
        namespace: &Path,
        address: SocketAddr,
        authority: &str,
        identity: Option<&Identity>,
    ) -> Result<Self> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        if let Some(identity) = identity {
            tls = tls.identity(TlsIdentity::from_pem(&identity.certificate, &identity.key));
        }
        let namespace = namespace.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let namespace = namespace.clone();
            async move { underlay::connect(&namespace, address).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        let channel = endpoint.connect_with_connector(connector).await;
        Ok(Self { channel: channel.with_context(|| format!("cannot reach the agent at {address}"))? })
    }

    /// Guests.
    pub fn guests(&self) -> GuestServiceClient<Channel> {
        GuestServiceClient::new(self.channel.clone())
    }

    /// Networks.
    pub fn networks(&self) -> NetworkServiceClient<Channel> {
        NetworkServiceClient::new(self.channel.clone())
    }

    /// The host itself.
    pub fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// Images.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Looks into guests.
    pub fn inspect(&self) -> InspectServiceClient<Channel> {
        InspectServiceClient::new(self.channel.clone())
    }

    /// The connection, for services that are not the agent's own.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}
