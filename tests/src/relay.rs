//! A service of the lab's loopback, at the same address inside a host's namespace: so that the name in its certificate and
//! in references to it is the same everywhere.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::namespace::inside;

/// Ends with its value.
#[derive(Debug)]
pub(crate) struct Relay(JoinHandle<()>);

impl Relay {
    pub(crate) fn start(namespace: &Path, service: SocketAddr) -> Result<Self> {
        let bound = inside(namespace, || Ok(std::net::TcpListener::bind(service)?));
        let listener = bound.with_context(|| format!("cannot listen at {service} in {}", namespace.display()))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        Ok(Self(tokio::spawn(accept(listener, service))))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, service: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // A service that is away closes the connection, as it would without the relay.
            if let Ok(mut to) = TcpStream::connect(service).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}
