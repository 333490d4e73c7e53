//! The central program: declared clusters, scheduled onto hosts and kept so.

pub mod network;
pub mod objects;
pub mod placement;
pub mod store;
