//! The per-host daemon.

fn main() {}
