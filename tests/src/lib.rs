//! The lab: network namespaces as hosts, the real agent, real QEMU, a real registry, a real Vault.
//!
//! Tests, the demo and the bench are written with it. It needs root, and leaves nothing behind.

pub mod bare_guest;
