//! Tells that something changed in a network namespace: devices, addresses, routes, neighbours, rules.

use std::io;

use rtnetlink::{
    MulticastGroup,
    sys::{
        AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket,
        protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
    },
};

/// nftables' multicast group of nfnetlink.
const NFTABLES_GROUP: u32 = 7;

/// Which part of a namespace changed, whoever changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// Devices, addresses, routes, neighbours, forwarding entries, or per-device settings.
    pub links: bool,
    /// nftables.
    pub rules: bool,
}

/// Listens to one namespace.
pub struct Monitor {
    links: TokioSocket,
    rules: TokioSocket,
}

impl Monitor {
    /// Listens to the calling thread's namespace, from now on.
    pub fn open() -> io::Result<Self> {
        let links = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Netconf,
        ];
        Ok(Self {
            links: listen(NETLINK_ROUTE, links.into_iter().map(|group| group as u32))?,
            rules: listen(NETLINK_NETFILTER, [NFTABLES_GROUP])?,
        })
    }

    /// Waits for a change. Cancelling loses none: what was read is only part of what changed.
    pub async fn changed(&mut self) -> io::Result<Changed> {
        tokio::select! {
            read = next(&self.links) => read.map(|()| Changed { links: true, rules: false }),
            read = next(&self.rules) => read.map(|()| Changed { links: false, rules: true }),
        }
    }
}

fn listen(protocol: isize, groups: impl IntoIterator<Item = u32>) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

/// Waits for the next message and reads all that came with it. What exactly changed does not matter: the caller looks.
async fn next(socket: &TokioSocket) -> io::Result<()> {
    let mut buffer = [0; 512];
    match socket.recv(&mut &mut buffer[..]).await {
        Err(reason) if !is_overrun(&reason) => return Err(reason),
        _ => {}
    }
    drain(socket.socket_ref())
}

fn drain(socket: &Socket) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Ok(_) => {}
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted || is_overrun(&reason) => {}
            Err(reason) => return Err(reason),
        }
    }
}

/// More changed than fits the socket's buffer.
fn is_overrun(reason: &io::Error) -> bool {
    reason.raw_os_error() == Some(nix::libc::ENOBUFS)
}
