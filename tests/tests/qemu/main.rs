//! The QEMU layer against the real QEMU: confined, alone with its uid, found again, ended by the contract.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test fails by a panic

mod boot;
mod console;
mod devices;
mod discovery;
mod host;
mod kvm;
mod launch;
mod medium;
mod qmp;
mod shutdown;
