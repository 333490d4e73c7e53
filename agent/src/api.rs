//! The agent's gRPC API: an RPC converts, checks, writes desired state and returns. It never waits for QEMU.

mod caller;
mod connection;
mod context;
mod errors;
mod guests;
mod host;
mod images;
mod inspect;
mod networks;
mod parse;
mod render;
mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

pub use caller::Caller;
pub use context::{AgainstNetwork, Parts, Questions};
use context::{Context, caller};
use goliath_server::tls::ListenError;
pub use server::{ServeError, Server};

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The operator's way in.
    #[error(transparent)]
    Tcp(#[from] ListenError),
    /// The Unix socket.
    #[error("cannot listen on the socket {}", path.display())]
    Socket {
        /// As configured.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent's.
    #[error("another agent answers on the socket {}: stop it, or give this one a socket of its own", path.display())]
    InUse {
        /// As configured.
        path: PathBuf,
    },
    /// The socket's group.
    #[error(
        "there is no group {group:?}: make it with `groupadd --system {group}`, or name another as api.socket_group"
    )]
    NoGroup {
        /// As configured.
        group: String,
    },
}
