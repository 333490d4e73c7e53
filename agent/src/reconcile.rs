//! One task per guest owns all of its transitions; networks have siblings of it.

mod board;
mod executor;
mod facts;
mod guest;
mod guests;
mod host;
pub mod network;
mod overhead;
mod plan;
mod rooms;
mod session;

pub use guests::Guests;
pub use network::NetworkReconciler;
pub use overhead::measure_overheads;
pub use rooms::Rooms;
