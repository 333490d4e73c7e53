//! HashiCorp Vault as the agent and the operator speak to it: calls with a time limit, each failure told apart, and a
//! login that lasts.

mod call;
mod config;
mod connection;
mod error;
mod memory;
mod secret_id;
mod session;

pub use call::Wrapped;
pub use config::{Complaint, VaultAuth, absolute, mount_path};
pub use connection::{Client, Connection, Endpoint};
pub use error::{CallError, VaultError};
pub use memory::{NotInMemory, require_memory};
pub use secret_id::{PlaceError, SecretId};
pub use session::{Login, Session, Token};
