//! The supplementary groups of the process at the other end of a Unix socket, as the kernel noted them when it
//! connected. The user database would tell of other moments, and nothing of groups that a service manager adds.

use std::os::fd::{AsFd, AsRawFd as _};

use nix::{errno::Errno, libc, unistd::Gid};

/// `SO_PEERGROUPS`, which nix does not have.
#[allow(unsafe_code)]
pub(super) fn peer_groups(socket: impl AsFd) -> nix::Result<Vec<Gid>> {
    // Most processes have fewer; the kernel says how many there are when there are more.
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let held = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(held).map_err(|_| Errno::ERANGE)?;
        // SAFETY: the descriptor is open for as long as it is borrowed; `groups` is writable for `length` bytes, of
        // which the kernel fills no more and says how many; any bits are a valid gid_t.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let told = length as usize / size_of::<libc::gid_t>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(told);
                return Ok(groups.into_iter().map(Gid::from_raw).collect());
            }
            Err(Errno::ERANGE) if told > groups.len() => groups.resize(told, 0),
            Err(errno) => return Err(errno),
        }
    }
}
