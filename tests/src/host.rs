//! A bare-metal machine, as far as the agent can tell: a network namespace with an address in the underlay, directories
//! of its own, and an agent.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;

use crate::{
    agent::{AgentFiles, AgentProcess, Client},
    lab::Shared,
    pki::Purpose,
    process::{self, Process},
    program, scratch,
};

const API_PORT: u16 = 7443;

/// What a host shall be like; [`HostPlan::start`] makes it so.
#[derive(Debug)]
pub struct HostPlan {
    shared: Arc<Shared>,
    name: String,
    issuers: String,
    images: String,
    capacity: String,
}

/// A host with an agent.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    name: String,
    address: Ipv4Addr,
    directory: PathBuf,
    files: AgentFiles,
    agent: Mutex<Option<AgentProcess>>,
}

impl HostPlan {
    pub(crate) fn new(shared: Arc<Shared>, name: &str) -> Self {
        Self {
            shared,
            name: name.to_owned(),
            issuers: String::new(),
            images: String::new(),
            capacity: "reserved_memory_mib = 256\nreserved_disk_mib = 64\nvcpu_ratio = 32.0\n".to_owned(),
        }
    }

    /// Adds an issuer beside `local`, which is always there; `settings` are lines of its section.
    #[must_use]
    pub fn issuer(mut self, name: &str, settings: &str) -> Self {
        // Writing to a String does not fail.
        let _ = write!(self.issuers, "\n[issuers.{name}]\n{settings}\n");
        self
    }

    /// Lines of the section `[images]`.
    #[must_use]
    pub fn images(mut self, settings: &str) -> Self {
        self.images.push_str(settings);
        self.images.push('\n');
        self
    }

    /// Lines of the section `[capacity]`, instead of the lab's.
    #[must_use]
    pub fn capacity(mut self, settings: &str) -> Self {
        settings.clone_into(&mut self.capacity);
        self
    }

    /// Makes the host, without an agent yet.
    pub fn plug_in(self) -> Result<Host> {
        let address = self.shared.next_address();
        let namespace = self.shared.underlay.plug(&self.name, address)?;
        let scratch = &self.shared.scratch;
        let directory = scratch.directory(&self.name)?;
        // On a tmpfs, as /run is.
        scratch.memory(&format!("{}/run", self.name))?;
        for part in ["state", "netns", "pki"] {
            scratch.directory(&format!("{}/{part}", self.name))?;
        }
        let files = AgentFiles {
            namespace,
            config: directory.join("agent.toml"),
            log: directory.join("agent.log"),
            notify: directory.join("notify.sock"),
        };
        let identity = self.shared.authority.issue(&self.name, Purpose::Host(address.into()))?;
        let pki = directory.join("pki");
        identity.write(&pki.join("host.crt"), &pki.join("host.key"))?;
        fs::write(pki.join("ca.crt"), self.shared.authority.certificate())?;
        self.shared.issuer.write(&pki.join("issuer.crt"), &pki.join("issuer.key"))?;
        fs::write(&files.config, self.config(&directory, address)?)?;
        let inner = Inner {
            shared: Arc::clone(&self.shared),
            name: self.name,
            address,
            directory,
            files,
            agent: Mutex::new(None),
        };
        let host = Host { inner: Arc::new(inner) };
        self.shared.remember_log(&host.inner.name, &host.inner.files.log);
        Ok(host)
    }

    /// Makes the host and starts its agent.
    pub async fn start(self) -> Result<Host> {
        let host = self.plug_in()?;
        host.start_agent().await?;
        Ok(host)
    }

    fn config(&self, directory: &Path, address: Ipv4Addr) -> Result<String> {
        let Self { name, issuers, images, capacity, .. } = self;
        let directory = directory.display();
        let (virtiofsd, user) = (program::virtiofsd()?, program::qemu_user()?);
        let (qemu, image_tool) = (program::installed("qemu-system-x86_64")?, program::installed("qemu-img")?);
        let nft = program::installed("nft")?;
        let (virtiofsd, qemu, image_tool, nft) =
            (virtiofsd.display(), qemu.display(), image_tool.display(), nft.display());
        Ok(format!(
            r#"name = "{name}"

[directories]
state = "{directory}/state"
runtime = "{directory}/run"

[api]
socket = "{directory}/run/agent.sock"
socket_group = "root"

[api.tcp]
listen = ["{address}:{API_PORT}"]
certificate = "{directory}/pki/host.crt"
key = "{directory}/pki/host.key"
client_ca = "{directory}/pki/ca.crt"

[capacity]
{capacity}
[qemu]
binary = "{qemu}"
image_tool = "{image_tool}"
virtiofsd = "{virtiofsd}"
user = "{user}"
allow_tcg = true

[images]
{images}
[network]
underlay_address = "{address}"
namespaces = "{directory}/netns"
nft = "{nft}"

[issuers.local]
kind = "local"
certificate = "{directory}/pki/issuer.crt"
key = "{directory}/pki/issuer.key"
{issuers}"#
        ))
    }
}

impl Host {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its address in the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.inner.address
    }

    /// Where its agent answers the operator.
    pub fn api_address(&self) -> SocketAddr {
        (self.inner.address, API_PORT).into()
    }

    /// Its agent's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.inner.directory.join("run/agent.sock")
    }

    /// Everything of the host is below it.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Path {
        &self.inner.files.namespace
    }

    /// Where its agent binds the namespace of a cluster.
    pub fn cluster_namespaces(&self) -> PathBuf {
        self.inner.directory.join("netns")
    }

    /// Its agent's configuration file.
    pub fn config(&self) -> &Path {
        &self.inner.files.config
    }

    /// What its agents have said so far.
    pub fn agent_log(&self) -> Result<String> {
        fs::read_to_string(&self.inner.files.log).context("cannot read the agent's log")
    }

    /// Starts the agent and waits until it is ready.
    pub async fn start_agent(&self) -> Result<()> {
        let mut agent = self.inner.agent.lock().await;
        anyhow::ensure!(agent.is_none(), "the agent of {} runs already", self.name());
        *agent = Some(AgentProcess::start(&self.inner.files).await?);
        Ok(())
    }

    /// Kills the agent with SIGKILL.
    pub async fn kill_agent(&self) -> Result<()> {
        match self.inner.agent.lock().await.take() {
            Some(agent) => agent.kill().await,
            None => anyhow::bail!("no agent runs on {}", self.name()),
        }
    }

    /// Stops the agent as systemd would; it must end well.
    pub async fn stop_agent(&self) -> Result<()> {
        match self.inner.agent.lock().await.take() {
            Some(agent) => {
                let status = agent.stop().await?;
                anyhow::ensure!(status.success(), "the agent of {} ended with {status}", self.name());
                Ok(())
            }
            None => anyhow::bail!("no agent runs on {}", self.name()),
        }
    }

    /// Its agent, over the Unix socket.
    pub async fn client(&self) -> Result<Client> {
        Client::over_socket(self.socket()).await
    }

    /// Its agent, over mutual TLS, from another machine of the underlay.
    pub async fn operator(&self) -> Result<Client> {
        let shared = &self.inner.shared;
        let from = shared.underlay.namespace();
        Client::over_tls(from, self.api_address(), shared.authority.certificate(), Some(&shared.operator)).await
    }

    /// Its processes that are not the agent: QEMU, virtiofsd and whatever else the agent started.
    pub async fn guest_processes(&self) -> Result<Vec<Process>> {
        let agent = self.inner.agent.lock().await.as_ref().and_then(AgentProcess::pid);
        let mut processes = process::running_in(&self.inner.directory)?;
        processes.retain(|process| Some(process.pid.cast_unsigned()) != agent);
        Ok(processes)
    }

    /// The processes of one guest that are QEMU.
    pub async fn qemus_of(&self, uid: &str) -> Result<Vec<Process>> {
        let mut processes = self.guest_processes().await?;
        processes.retain(|process| process.command.contains("qemu-system") && process.command.contains(uid));
        Ok(processes)
    }

    /// Every trace of a guest's uid: files, directories, processes, mounts. The agent's log is not one.
    pub async fn traces_of(&self, uid: &str) -> Result<Vec<String>> {
        let mut traces = Vec::new();
        for root in ["state", "run", "netns"] {
            files_named(&self.inner.directory.join(root), uid, &mut traces)?;
        }
        for process in self.guest_processes().await? {
            if process.command.contains(uid) {
                traces.push(format!("process {}: {}", process.pid, process.command));
            }
        }
        for mount in scratch::mounts_below(&self.inner.directory)? {
            if mount.to_string_lossy().contains(uid) {
                traces.push(format!("mount {}", mount.display()));
            }
        }
        Ok(traces)
    }
}

fn files_named(directory: &Path, part: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(part) {
            found.push(format!("file {}", entry.path().display()));
        } else if entry.file_type()?.is_dir() {
            files_named(&entry.path(), part, found)?;
        }
    }
    Ok(())
}
