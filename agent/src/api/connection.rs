//! A connection of either kind, with the caller it belongs to.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use goliath_server::tls::{Peer, TlsConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::Connected;

use super::Caller;

/// A connection whose caller is known.
#[derive(Debug)]
pub(super) struct Connection {
    io: Io,
    caller: Caller,
}

#[derive(Debug)]
enum Io {
    Tls(TlsConnection),
    /// With its share of the listener's bound on open connections.
    Unix(UnixStream, #[allow(dead_code, reason = "held as long as the connection")] OwnedSemaphorePermit),
}

impl Connection {
    /// Of a process on this machine.
    pub(super) fn local(stream: UnixStream, caller: Caller, permit: OwnedSemaphorePermit) -> Self {
        Self { io: Io::Unix(stream, permit), caller }
    }
}

impl From<TlsConnection> for Connection {
    fn from(connection: TlsConnection) -> Self {
        let Peer { common_name, serial_number, address, .. } = connection.peer().clone();
        Self { io: Io::Tls(connection), caller: Caller::Operator { common_name, serial_number, address } }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Unix(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Unix(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Io::Unix(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Unix(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Io::Unix(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
