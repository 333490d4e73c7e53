//! The lab: network namespaces as hosts, the real agent, real QEMU, a real registry, a real Vault.
//!
//! Tests, the demo and the bench are written with it. It needs root, and leaves nothing behind.
//!
//! ```no_run
//! goliath_lab::run(async |lab| {
//!     let (a, b) = (lab.host("a").start().await?, lab.host("b").start().await?);
//!     let blue = lab.cluster("blue").over(&[&a, &b]).await?;
//!     let master = blue.guest("master-0").on(&a).apply().await?;
//!     let worker = blue.guest("worker-0").on(&b).apply().await?;
//!     master.until_booted().await?;
//!     worker.until_booted().await?;
//!     assert!(master.pings(worker.address()).await?);
//!     Ok(())
//! });
//! ```

pub mod agent;
pub mod bare_guest;
pub mod cluster;
pub mod console;
pub mod daemon;
pub mod guest;
pub mod host;
pub mod https;
mod lab;
pub mod large_image;
pub mod measured_pull;
pub mod namespace;
pub mod oci_image;
pub mod operator;
pub mod pki;
pub mod process;
pub mod program;
pub mod registry;
mod relay;
pub mod scratch;
pub mod underlay;
pub mod vault;

pub use cluster::Cluster;
pub use guest::Guest;
pub use host::Host;
pub use lab::{Lab, run};
