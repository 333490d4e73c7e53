//! The machines' own network: a namespace for each host, and a switch that joins them.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use crate::namespace::{inside, run};

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
        ip(&["netns", "add", &name])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &name, "address", "add", &format!("{}/24", Self::ADDRESS), "dev", "switch"])?;
        ip(&["-n", &name, "link", "set", "switch", "up"])?;
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
        ip(&["netns", "add", &name])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&[
            "-n", &switch, "link", "add", &port, "master", "switch", "up", "type", "veth", "peer", "name", "eth0",
            "netns", &name,
        ])?;
        ip(&["-n", &name, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "route", "add", "default", "via", &Self::ADDRESS.to_string()])?;
        Ok(Path::new(BOUND).join(name))
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments)).map(drop)
}

/// Removes every namespace whose name begins with `prefix`.
pub(crate) fn remove_namespaces(prefix: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(BOUND) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{prefix}-")) {
            ip(&["netns", "delete", &name])?;
        }
    }
    Ok(())
}

/// Connects from inside a namespace; the connection stays there.
pub async fn connect(namespace: &Path, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    const LIMIT: Duration = Duration::from_secs(5);
    let namespace = namespace.to_owned();
    let connect = move || Ok(std::net::TcpStream::connect_timeout(&address, LIMIT)?);
    let connected = tokio::task::spawn_blocking(move || inside(&namespace, connect)).await.map_err(io::Error::other)?;
    let stream = connected.map_err(io::Error::other)?;
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}
