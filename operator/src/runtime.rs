//! What every controller is built on: caches that follow the store, queues of keys to look at, workers that reconcile
//! them, writes that happen only where something differs.
//!
//! ```text
//! store ──watch──► Cache ──changes──► Queue ──claims──► Controller::reconcile ──write──► store
//! ```
//!
//! Controllers are level-triggered: a key says which object to look at, never what happened to it. Whatever is missed or
//! told twice is made good by the next look.

mod cache;
mod controller;
pub mod events;
mod index;
mod queue;
mod tasks;
pub mod write;

pub use cache::{Cache, Change, Changes};
pub(crate) use controller::Chain;
pub use controller::{Controller, Next, ReconcileError, enqueue, run};
pub use index::{CertificateBy, GuestBy, Indexed};
pub use queue::{Backoff, Claim, Key, Queue};
pub use tasks::{StillRunning, Tasks};
