//! Kernel settings of a network namespace, under `/proc/sys/net`: a thread sees those of the namespace it is in.

use std::{fmt, fs, io, path::Path};

/// A setting, by its path under `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sysctl {
    path: String,
    optional: bool,
}

impl Sysctl {
    /// One that every kernel with IPv4 has.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), optional: false }
    }

    /// One of a part of the kernel that may be absent; then there is nothing to set.
    pub fn optional(path: impl Into<String>) -> Self {
        Self { path: path.into(), optional: true }
    }

    fn file(&self) -> std::path::PathBuf {
        Path::new("/proc/sys/net").join(&self.path)
    }

    /// As it is in the calling thread's namespace; None where the kernel has no such setting.
    pub(super) fn read(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.file()) {
            Ok(value) => Ok(Some(value.trim_end().to_owned())),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    /// In the calling thread's namespace.
    pub(super) fn write(&self, value: &str) -> io::Result<()> {
        match fs::write(self.file(), value) {
            Err(reason) if self.optional && reason.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Whether it is a device's own, and goes with it.
    pub(super) fn is_of(&self, device: &str) -> bool {
        self.path.split_once("/conf/").and_then(|(_, rest)| rest.split('/').next()) == Some(device)
    }

    /// Whether its absence is fine.
    pub(super) fn is_optional(&self) -> bool {
        self.optional
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "net/{}", self.path)
    }
}
