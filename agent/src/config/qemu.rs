use std::path::PathBuf;

use serde::Deserialize;

/// How QEMU is run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QemuConfig {
    /// `qemu-system-x86_64`.
    pub binary: PathBuf,
    /// `qemu-img`.
    pub image_tool: PathBuf,
    /// The Rust virtiofsd.
    pub virtiofsd: PathBuf,
    /// Whom QEMU runs as: never root.
    pub user: String,
    /// Whether guests may run emulated where KVM does not work.
    pub allow_tcg: bool,
    /// Firmware that specs may name, beside QEMU's own SeaBIOS.
    pub firmware: Vec<PathBuf>,
    /// How much of a guest's console is kept, in KiB.
    pub console_log_kib: u64,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            binary: "/usr/bin/qemu-system-x86_64".into(),
            image_tool: "/usr/bin/qemu-img".into(),
            virtiofsd: "/usr/libexec/virtiofsd".into(),
            user: "goliath-qemu".into(),
            allow_tcg: false,
            firmware: Vec::new(),
            console_log_kib: 1024,
        }
    }
}

impl super::Section for QemuConfig {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        if self.user == "root" || self.user.is_empty() {
            vec![("user", "QEMU never runs as root: name a user of its own".to_owned())]
        } else {
            Vec::new()
        }
    }
}
