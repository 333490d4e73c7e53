//! One task per guest owns all of its transitions; networks have siblings of it.

// The host that carries the steps out comes next.
#![allow(dead_code)]

mod board;
mod executor;
mod facts;
mod guest;
pub mod network;
mod plan;
mod session;
