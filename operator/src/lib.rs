//! The central program: declared clusters, scheduled onto hosts and kept so.

pub mod objects;
pub mod store;
