//! The operator's gRPC API, `goliath.operator.v1`: it reads, judges and writes objects; controllers do what follows.

mod access;
mod context;
mod errors;
mod events;
mod fleet;
mod judge;
mod manifest;
mod objects;
mod questions;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use access::{Role, Roles};
pub use judge::Rules;
pub use questions::{Credentials, Explain, Issue, Issued, Judge, Questions};
pub use server::{ServeError, Server};

use crate::{context::Caches, runtime::events::Events, store::Store};

/// What the API works with, as it is handed over.
#[derive(Debug)]
pub struct Parts<S: Store> {
    /// Where objects are.
    pub store: Arc<S>,
    /// What of them is near at hand.
    pub caches: Caches,
    /// What happened.
    pub events: Events,
    /// Questions to the rest of the operator.
    pub questions: Questions,
}
