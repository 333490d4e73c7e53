//! One task per guest owns all of its transitions; networks have siblings of it.

mod board;
mod executor;
mod facts;
mod guest;
mod guests;
mod host;
pub mod network;
mod plan;
mod rooms;
mod session;

pub use guests::Guests;
pub use network::NetworkReconciler;
pub use rooms::Rooms;
