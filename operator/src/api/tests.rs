//! The API over gRPC, with the embedded store behind it; the callers' certificates are made up.

mod apply;
mod fleet;
mod read;
mod served;
