//! The machines' own network: a namespace for each host, and a switch that joins them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;

use crate::namespace::{self, Machine, inside};

/// The switch. Processes that all hosts shall reach (a registry, Vault) run in its namespace.
#[derive(Debug)]
pub struct Underlay {
    prefix: String,
    switch: Machine,
}

impl Underlay {
    /// The switch's own address, which is the hosts' way out.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

    /// Makes the switch; every name begins with `prefix`.
    pub fn new(prefix: &str) -> Result<Self> {
        let switch = Machine::named(format!("{prefix}-underlay"))?;
        switch.run("ip link add switch type bridge")?;
        switch.run(&format!("ip address add {}/24 dev switch", Self::ADDRESS))?;
        switch.run("ip link set switch up")?;
        Ok(Self { prefix: prefix.to_owned(), switch })
    }

    /// The switch, as a machine.
    pub fn switch(&self) -> &Machine {
        &self.switch
    }

    /// Where its namespace is bound.
    pub fn namespace(&self) -> &Path {
        self.switch.path()
    }

    /// Makes a host and plugs it in: its end of the cable is `eth0`, the switch's `to-<host>`.
    pub fn plug(&self, host: &str, address: Ipv4Addr) -> Result<Machine> {
        let machine = Machine::named(format!("{}-{host}", self.prefix))?;
        let port = format!("to-{host}");
        namespace::connect((&machine, "eth0"), (&self.switch, &port))?;
        self.switch.run(&format!("ip link set {port} master switch"))?;
        machine.run(&format!("ip address add {address}/24 dev eth0"))?;
        machine.run(&format!("ip route add default via {}", Self::ADDRESS))?;
        Ok(machine)
    }
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
