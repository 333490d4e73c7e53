//! The lab's programs.

fn main() {}
