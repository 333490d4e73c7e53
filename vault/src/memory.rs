//! Whether a directory is in memory.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::sys::statfs;

/// From `linux/magic.h`.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Why secrets cannot be kept in a directory.
#[derive(Debug, thiserror::Error)]
pub enum NotInMemory {
    /// The directory is on a disk.
    #[error(
        "{} is not on a tmpfs, and keys must not reach a disk: mount a tmpfs there, or name another `directories.runtime`",
        .0.display()
    )]
    OnDisk(PathBuf),
    /// It could not be asked.
    #[error("{} cannot be looked at", .path.display())]
    Unknown {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Refuses a directory that is not on a tmpfs or ramfs.
pub fn require_memory(path: &Path) -> Result<(), NotInMemory> {
    let kind = statfs::statfs(path)
        .map_err(|reason| NotInMemory::Unknown { path: path.to_owned(), source: reason.into() })?
        .filesystem_type();
    if kind == statfs::TMPFS_MAGIC || kind.0 == RAMFS_MAGIC {
        Ok(())
    } else {
        Err(NotInMemory::OnDisk(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_memory_and_proc_is_not() {
        require_memory(Path::new("/dev/shm")).unwrap();
        let refusal = require_memory(Path::new("/proc")).unwrap_err().to_string();
        assert!(refusal.starts_with("/proc is not on a tmpfs"), "{refusal}");
        assert!(matches!(require_memory(Path::new("/no/such/directory")), Err(NotInMemory::Unknown { .. })));
    }
}
