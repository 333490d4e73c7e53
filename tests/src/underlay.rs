//! The machines' own network: a namespace for each host, and a switch that joins them.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};

const BOUND: &str = "/run/netns";

/// The switch. Processes that all hosts shall reach (a registry, Vault) run in its namespace.
#[derive(Debug)]
pub struct Underlay {
    prefix: String,
    namespace: PathBuf,
}

impl Underlay {
    /// The switch's own address.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

    /// Makes the switch; every name begins with `prefix`.
    pub fn new(prefix: &str) -> Result<Self> {
        let name = format!("{prefix}-underlay");
        run(&["ip", "netns", "add", &name])?;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        run(&["ip", "-n", &name, "link", "add", "switch", "type", "bridge"])?;
        run(&["ip", "-n", &name, "address", "add", &format!("{}/24", Self::ADDRESS), "dev", "switch"])?;
        run(&["ip", "-n", &name, "link", "set", "switch", "up"])?;
        Ok(Self { prefix: prefix.to_owned(), namespace: Path::new(BOUND).join(name) })
    }

    /// Where its namespace is bound.
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// Makes a host's namespace and plugs it in.
    pub fn plug(&self, host: &str, address: Ipv4Addr) -> Result<PathBuf> {
        let (name, switch) = (format!("{}-{host}", self.prefix), format!("{}-underlay", self.prefix));
        let port = format!("to-{host}");
        run(&["ip", "netns", "add", &name])?;
        run(&["ip", "-n", &name, "link", "set", "lo", "up"])?;
        run(&[
            "ip", "-n", &switch, "link", "add", &port, "master", "switch", "up", "type", "veth", "peer", "name",
            "eth0", "netns", &name,
        ])?;
        run(&["ip", "-n", &name, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        run(&["ip", "-n", &name, "link", "set", "eth0", "up"])?;
        run(&["ip", "-n", &name, "route", "add", "default", "via", &Self::ADDRESS.to_string()])?;
        Ok(Path::new(BOUND).join(name))
    }
}

/// Removes every namespace whose name begins with `prefix`.
pub(crate) fn remove_namespaces(prefix: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(BOUND) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{prefix}-")) {
            run(&["ip", "netns", "delete", &name])?;
        }
    }
    Ok(())
}

/// Runs a command; an error has what it said.
pub fn run(command: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = command else { return Ok(String::new()) };
    let program = crate::program::installed(program)?;
    let output = Command::new(program).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "`{}` failed: {}",
        command.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Does something in a network namespace, on a thread of its own that ends with it.
pub async fn inside<T, F>(namespace: &Path, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let bound = File::open(namespace).with_context(|| format!("there is no namespace at {}", namespace.display()))?;
    let (done, result) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let outcome = setns(bound, CloneFlags::CLONE_NEWNET).map(|()| work());
        // Nobody waits any more.
        let _ = done.send(outcome);
    });
    Ok(result.await.context("the thread inside the namespace panicked")??)
}

/// Connects from inside a namespace; the connection stays there.
pub async fn connect(namespace: &Path, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    const LIMIT: Duration = Duration::from_secs(5);
    let connected = inside(namespace, move || std::net::TcpStream::connect_timeout(&address, LIMIT));
    let stream = connected.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}
