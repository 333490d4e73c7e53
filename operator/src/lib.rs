//! The central program: declared clusters, scheduled onto hosts and kept so.

pub mod agents;
pub mod api;
pub mod config;
pub mod context;
pub mod controllers;
pub mod network;
pub mod objects;
pub mod operator;
pub mod pki;
pub mod placement;
pub mod render;
pub mod runtime;
pub mod store;
pub mod validate;
