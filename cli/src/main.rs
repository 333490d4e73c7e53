//! The command line for people who run and look into guests.

fn main() {}
