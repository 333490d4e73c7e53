//! The one place where a descriptor enters tokio's poll set: tokio cannot check its promise by itself.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits on a descriptor becoming readable; it must be non-blocking to be read from. Must be called in a runtime.
pub(super) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is a valid descriptor for as long as it lives; the AsyncFd owns it, and we only ever borrow it
    // from there, so it is neither closed nor replaced before it leaves the poll set.
    #[allow(unsafe_code)]
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
