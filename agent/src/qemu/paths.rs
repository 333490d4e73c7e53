//! Where a guest's files are.

use std::path::{Path, PathBuf};

use super::arguments::Listener;
use crate::spec::GuestUid;

/// A Unix socket's path has this many bytes at most (`sockaddr_un`, without its closing zero).
const SOCKET_PATH_LIMIT: usize = 107;

/// Where one guest's files are: in the runtime directory what ends with the machine's uptime, in the state directory
/// what survives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPaths {
    runtime: PathBuf,
    state: PathBuf,
}

impl GuestPaths {
    /// Of a guest, under the agent's directories.
    pub fn new(runtime: &Path, state: &Path, uid: GuestUid) -> Self {
        Self { runtime: Self::all(runtime).join(uid.to_string()), state: Self::all(state).join(uid.to_string()) }
    }

    /// Under one of the agent's directories, where all guests' directories are.
    pub fn all(directory: &Path) -> PathBuf {
        directory.join("guests")
    }

    /// Whether sockets fit under a runtime directory: how many bytes it is too long.
    pub fn excess_length(runtime: &Path) -> Option<usize> {
        let longest = Self::all(runtime).as_os_str().len() + 1 + 36 + "/guest-agent.sock".len();
        longest.checked_sub(SOCKET_PATH_LIMIT).filter(|excess| *excess > 0)
    }

    /// Sockets, lock and record.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Logs; disks and seeds where the caller puts them.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Held by QEMU for as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("lock")
    }

    /// A [`super::ProcessRecord`] in JSON.
    pub fn process_record(&self) -> PathBuf {
        self.runtime.join("process.json")
    }

    /// What was seen of the guest's start.
    pub fn boot_record(&self) -> PathBuf {
        self.runtime.join("booted.json")
    }

    /// One of the sockets.
    pub fn socket(&self, listener: Listener) -> PathBuf {
        self.runtime.join(match listener {
            Listener::Qmp => "qmp.sock",
            Listener::Console => "console.sock",
            Listener::GuestAgent => "guest-agent.sock",
            Listener::Notify => "notify.sock",
        })
    }

    /// All that the guest wrote to its serial console; QEMU appends to it.
    pub fn console_log(&self) -> PathBuf {
        self.state.join("console.log")
    }

    /// What QEMU itself said.
    pub fn qemu_log(&self) -> PathBuf {
        self.state.join("qemu.log")
    }
}
