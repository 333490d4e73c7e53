//! The way in from elsewhere: TLS 1.3 with client certificates, over TCP.
//!
//! Whoever reaches the port can open connections, so everything before the client's certificate was seen is bounded: in
//! time, in number, and in number for each address, so that a slow or hostile one keeps nobody else out.

mod connection;
mod credentials;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use connection::{Peer, TlsConnection};
pub use credentials::CredentialsError;
use credentials::CurrentConfig;

/// From the connection's begin to the end of its handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Handshakes at one time, from everywhere.
const HANDSHAKES: usize = 256;
/// Handshakes at one time, from one address.
const HANDSHAKES_OF_ONE_ADDRESS: usize = 32;
/// Open connections of all clients.
const CONNECTIONS: usize = 1024;
/// After the kernel had no file descriptor or memory left for a connection.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Mutual TLS. The three files are read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpConfig {
    /// Addresses of the machine's own network.
    pub listen: Vec<SocketAddr>,
    /// Our certificate and chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who may vouch for a client, PEM.
    pub client_ca: PathBuf,
}

/// Why nobody can be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A TCP address.
    #[error("cannot listen on {address}: is it this machine's, and free?")]
    Address {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave no inotify.
    #[error("cannot watch the TLS files for changes")]
    Watch(#[source] io::Error),
}

/// Listens on every address of the configuration.
#[derive(Debug)]
pub struct TlsListeners {
    listeners: Vec<TcpListener>,
    config: CurrentConfig,
}

impl TlsListeners {
    /// Takes the addresses and starts to follow the files. Files that are no good now are waited for: what a daemon does
    /// is needed more than who asks it about that.
    pub async fn bind(tcp: &TcpConfig) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        for address in &tcp.listen {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|source| ListenError::Address { address: *address, source })?;
            listeners.push(listener);
        }
        let config = credentials::follow(tcp.clone()).map_err(ListenError::Watch)?;
        Ok(Self { listeners, config })
    }

    /// The addresses as taken: a port of 0 was chosen by the kernel.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Hands over connections whose client showed a good certificate, until the receiver is gone.
    pub fn spawn<C: From<TlsConnection> + Send + 'static>(self, connections: &mpsc::Sender<C>) {
        let bounds = Arc::new(Bounds {
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            by_address: Mutex::default(),
        });
        for listener in self.listeners {
            tokio::spawn(accept(listener, self.config.clone(), Arc::clone(&bounds), connections.clone()));
        }
    }
}

async fn accept<C: From<TlsConnection> + Send + 'static>(
    listener: TcpListener,
    config: CurrentConfig,
    bounds: Arc<Bounds>,
    connections: mpsc::Sender<C>,
) {
    // Dropped with this task, and with it the handshakes under way.
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = connections.closed() => return,
            Some(_) = handshakes.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(reason = %error, "cannot accept connections");
                time::sleep(ACCEPT_BACK_OFF).await;
                continue;
            }
        };
        let Some(slot) = bounds.slot(peer.ip()) else {
            tracing::debug!(%peer, "closed a connection at once: too many are open or in their handshake");
            continue;
        };
        let Some(config) = config.borrow().clone() else {
            tracing::debug!(%peer, "closed a connection at once: the TLS files are no good");
            continue;
        };
        let connections = connections.clone();
        handshakes.spawn(async move {
            match time::timeout(HANDSHAKE_TIME, handshake(stream, peer, TlsAcceptor::from(config))).await {
                Ok(Ok((stream, peer))) => {
                    let connection = TlsConnection::new(stream, peer, slot.into_connection());
                    // Fails when the server is gone, and the connection with it.
                    let _ = connections.send(connection.into()).await;
                }
                Ok(Err(error)) => tracing::info!(%peer, reason = %error, "refused a TLS connection"),
                Err(_) => tracing::info!(%peer, limit = ?HANDSHAKE_TIME, "closed a connection: its handshake was slow"),
            }
        });
    }
}

/// What went wrong with the connection and not with the listener: accept(2) passes it on.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let (_, session) = stream.get_ref();
    // The verifier let nobody through without one.
    let certificate = session.peer_certificates().and_then(|chain| chain.first()).ok_or(io::ErrorKind::InvalidData)?;
    let peer = holder(certificate, peer.ip())?;
    Ok((stream, peer))
}

fn holder(certificate: &CertificateDer<'_>, address: IpAddr) -> io::Result<Peer> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).map_err(io::Error::other)?;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().find_map(|name| name.as_str().ok());
    let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok());
    Ok(Peer {
        common_name: common_name.unwrap_or_default().to_owned(),
        organizations: organizations.map(str::to_owned).collect(),
        serial_number: certificate.raw_serial_as_string(),
        address,
    })
}

struct Bounds {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Bounds {
    /// Room for one more handshake from this address, and for the connection it becomes.
    fn slot(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned().ok()?;
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_insert(0);
        if *count >= HANDSHAKES_OF_ONE_ADDRESS {
            return None;
        }
        *count += 1;
        let of_address = OfAddress { bounds: Arc::clone(self), address };
        Some(Slot { connection, _handshake: handshake, _of_address: of_address })
    }
}

struct Slot {
    connection: OwnedSemaphorePermit,
    _handshake: OwnedSemaphorePermit,
    _of_address: OfAddress,
}

impl Slot {
    /// The handshake is over.
    fn into_connection(self) -> OwnedSemaphorePermit {
        self.connection
    }
}

struct OfAddress {
    bounds: Arc<Bounds>,
    address: IpAddr,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut by_address = self.bounds.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}
