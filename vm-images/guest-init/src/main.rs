//! PID 1 of the tiny image.

fn main() {}
