//! The per-host daemon of Goliath.
//!
//! A request walks api -> ledger -> reconcile -> {image, network, certs, volume, qemu} -> observed -> api; no arrow
//! goes back.

pub mod accelerator;
pub mod admission;
pub mod agent;
pub mod api;
pub mod certs;
pub mod config;
pub mod doctor;
pub mod files;
pub mod image;
pub mod ledger;
pub mod network;
pub mod observed;
pub mod qemu;
pub mod reconcile;
pub mod spec;
pub mod volume;

pub use goliath_server::{errors, notify};
