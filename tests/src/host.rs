//! A bare-metal machine, as far as the agent can tell: a network namespace with an address in the underlay, directories
//! of its own, and an agent.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::Mutex;

use crate::{
    agent::Client,
    daemon::{DaemonFiles, DaemonProcess},
    lab::Shared,
    namespace::Machine,
    pki::{Identity, Purpose},
    process::{self, Process},
    program,
    relay::Relay,
    scratch,
    vault::{TokenLife, Vault},
};

const API_PORT: u16 = 7443;

/// What a host shall be like; [`HostPlan::start`] makes it so.
#[derive(Debug)]
pub struct HostPlan {
    shared: Arc<Shared>,
    name: String,
    address: Ipv4Addr,
    pki: Option<PathBuf>,
    issuers: String,
    images: String,
    capacity: String,
    socket_group: String,
    reached: Vec<SocketAddr>,
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
    files: DaemonFiles,
    /// Who vouches for its agent, PEM.
    authority: String,
    /// Whom its agent takes for its operator.
    operator: Identity,
    agent: Mutex<Option<DaemonProcess>>,
    _relays: Vec<Relay>,
    _machine: Machine,
}

impl HostPlan {
    pub(crate) fn new(shared: Arc<Shared>, name: &str) -> Self {
        Self {
            address: shared.next_address(),
            shared,
            name: name.to_owned(),
            pki: None,
            issuers: String::new(),
            images: String::new(),
            capacity: "reserved_memory_mib = 256\nreserved_disk_mib = 64\nvcpu_ratio = 32.0\n".to_owned(),
            socket_group: "root".to_owned(),
            reached: Vec::new(),
        }
    }

    /// Its address in the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its API will answer.
    pub fn api_address(&self) -> SocketAddr {
        (self.address, API_PORT).into()
    }

    /// Takes the certificates of its API, and its operator's, from a directory that `goliath pki init` made.
    #[must_use]
    pub fn with_pki(mut self, directory: &Path) -> Self {
        self.pki = Some(directory.to_owned());
        self
    }

    /// Has members of a group call the agent on the machine, beside root.
    #[must_use]
    pub fn socket_group(mut self, group: &str) -> Self {
        group.clone_into(&mut self.socket_group);
        self
    }

    /// Has a service that listens on the lab's loopback answer at the same address on this host.
    #[must_use]
    pub fn reaching(mut self, service: SocketAddr) -> Self {
        self.reached.push(service);
        self
    }

    /// Has the agent log in to a Vault by an AppRole of its own, for these clusters; the issuer's name is `vault`.
    pub async fn trusting(self, vault: &Vault, clusters: &[&str]) -> Result<Self> {
        let role = vault.enable_app_role(&self.name, clusters, TokenLife::default()).await?;
        let token = vault.wrapped_secret_id(&role).await?;
        self.logging_in(vault, &role.role_id, &token)
    }

    /// Has the agent log in to a Vault with what it was given; the issuer's name is `vault`.
    pub fn logging_in(self, vault: &Vault, role_id: &str, wrapping_token: &str) -> Result<Self> {
        let token = self.shared.scratch.directory(&self.name)?.join("wrapped-secret-id");
        write_private(&token, wrapping_token)?;
        let mut settings = vault.settings();
        let _ = writeln!(
            settings,
            "auth = {{ method = \"approle\", role_id = \"{role_id}\", wrapped_secret_id_file = \"{}\" }}",
            token.display()
        );
        Ok(self.issuer("vault", &settings).reaching(vault.listens_on()))
    }

    /// Has the agent fetch images from a registry of the underlay, given as `address:port`, without TLS.
    #[must_use]
    pub fn pulling_from(self, registry: &str) -> Self {
        self.images(&format!("plain_http = [\"{registry}\"]"))
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
        let machine = self.shared.underlay.plug(&self.name, self.address)?;
        let scratch = &self.shared.scratch;
        let directory = scratch.directory(&self.name)?;
        // On a tmpfs, as /run is.
        scratch.memory(&format!("{}/run", self.name))?;
        for part in ["state", "netns", "pki"] {
            scratch.directory(&format!("{}/{part}", self.name))?;
        }
        let files = DaemonFiles {
            program: program::agent()?,
            namespace: machine.path().to_owned(),
            config: directory.join("agent.toml"),
            log: directory.join("agent.log"),
            notify: directory.join("notify.sock"),
        };
        let own_pki = directory.join("pki");
        self.shared.issuer.write(&own_pki.join("issuer.crt"), &own_pki.join("issuer.key"))?;
        let pki = match &self.pki {
            Some(pki) => pki,
            None => self.write_pki(&own_pki)?,
        };
        let (authority, operator) = (fs::read_to_string(pki.join("ca.crt"))?, Identity::read(pki, "operator")?);
        fs::write(&files.config, self.config(&directory, pki)?)?;
        let mut relays = Vec::new();
        for service in &self.reached {
            relays.push(Relay::start(&files.namespace, *service)?);
        }
        let inner = Inner {
            shared: Arc::clone(&self.shared),
            name: self.name,
            address: self.address,
            directory,
            files,
            authority,
            operator,
            agent: Mutex::new(None),
            _relays: relays,
            _machine: machine,
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

    /// Fills a directory as `goliath pki init` would, from the lab's authority.
    fn write_pki<'p>(&self, directory: &'p Path) -> Result<&'p Path> {
        let identity = self.shared.authority.issue(&self.name, Purpose::Host(self.address.into()))?;
        identity.write(&directory.join("host.crt"), &directory.join("host.key"))?;
        self.shared.operator.write(&directory.join("operator.crt"), &directory.join("operator.key"))?;
        fs::write(directory.join("ca.crt"), self.shared.authority.certificate())?;
        Ok(directory)
    }

    fn config(&self, directory: &Path, pki: &Path) -> Result<String> {
        let Self { name, address, issuers, images, capacity, socket_group, .. } = self;
        let (directory, pki) = (directory.display(), pki.display());
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
socket_group = "{socket_group}"

[api.tcp]
listen = ["{address}:{API_PORT}"]
certificate = "{pki}/host.crt"
key = "{pki}/host.key"
client_ca = "{pki}/ca.crt"

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
        *agent = Some(DaemonProcess::start(&self.inner.files).await?);
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
        let Inner { shared, authority, operator, .. } = &*self.inner;
        Client::over_tls(shared.underlay.namespace(), self.api_address(), authority, Some(operator)).await
    }

    /// Its agent's process, while one runs.
    pub async fn agent_pid(&self) -> Option<u32> {
        self.inner.agent.lock().await.as_ref().and_then(DaemonProcess::pid)
    }

    /// Its processes that are not the agent: QEMU, virtiofsd and whatever else the agent started.
    pub async fn guest_processes(&self) -> Result<Vec<Process>> {
        let agent = self.agent_pid().await;
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

    /// Waits until its agent has removed the namespaces of all clusters.
    pub async fn until_no_networks(&self) -> Result<()> {
        let directory = self.cluster_namespaces();
        let waited = tokio::task::spawn_blocking(move || until_empty(&directory, Duration::from_secs(20)));
        waited.await?.with_context(|| format!("the agent of {} does not remove its networks", self.name()))
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

fn until_empty(directory: &Path, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let removals = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    removals.add_watch(directory, AddWatchFlags::IN_DELETE)?;
    loop {
        let left: Vec<PathBuf> = fs::read_dir(directory)?.flatten().map(|entry| entry.path()).collect();
        if left.is_empty() {
            return Ok(());
        }
        let seen = process::readable(removals.as_fd(), deadline)?;
        anyhow::ensure!(seen, "after {limit:?} these are left: {left:?}");
        // What was removed is seen in the directory itself.
        removals.read_events()?;
    }
}

pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
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
