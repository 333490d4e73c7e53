//! What both daemons, agent and operator, are built with: configuration files that are validated whole, mutual TLS whose
//! files are read again when they change, gRPC errors with `google.rpc` details, and calls that get a bounded time to end.

pub mod config;
pub mod errors;
pub mod file_watch;
pub mod notify;
mod serve;
pub mod status;
pub mod tls;
pub mod violations;

pub use serve::{LARGEST_REQUEST, ServeError, WAITING_CONNECTIONS, serve};
