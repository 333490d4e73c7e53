use std::{
    fmt, io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Who holds the certificate that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The subject's common name; empty where it has none.
    pub common_name: String,
    /// The subject's organisations.
    pub organizations: Vec<String>,
    /// Hex pairs with colons.
    pub serial_number: String,
    /// From where.
    pub address: IpAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { common_name, serial_number, address, .. } = self;
        write!(formatter, "{common_name:?} (certificate {serial_number}, from {address})")
    }
}

/// A connection whose client showed a good certificate.
#[derive(Debug)]
pub struct TlsConnection {
    stream: Box<TlsStream<TcpStream>>,
    peer: Peer,
    /// Its share of the listeners' bound on open connections.
    _permit: OwnedSemaphorePermit,
}

impl TlsConnection {
    pub(super) fn new(stream: TlsStream<TcpStream>, peer: Peer, permit: OwnedSemaphorePermit) -> Self {
        Self { stream: Box::new(stream), peer, _permit: permit }
    }

    /// Whose it is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
