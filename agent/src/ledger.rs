//! Desired state on disk.
