//! What runs here, as it says itself.

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{process::Command, sync::Mutex, time};

const LIMIT: Duration = Duration::from_secs(5);

/// A line that the kernel tells by a file; empty where it does not.
pub(super) async fn of_kernel(path: &str) -> String {
    let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
    text.trim().to_owned()
}

/// The version of the QEMU that the next guest gets: asked again when another one is installed.
#[derive(Debug)]
pub(super) struct QemuVersion {
    binary: PathBuf,
    known: Mutex<Option<(std::time::SystemTime, String)>>,
}

impl QemuVersion {
    pub(super) fn of(binary: PathBuf) -> Self {
        Self { binary, known: Mutex::default() }
    }

    /// Empty where there is no QEMU that works: the doctor says why.
    pub(super) async fn get(&self) -> String {
        let Ok(installed) = tokio::fs::metadata(&self.binary).await.and_then(|metadata| metadata.modified()) else {
            return String::new();
        };
        // Those who ask meanwhile want the same answer: they wait for it, no longer than the limit.
        let mut known = self.known.lock().await;
        match &*known {
            Some((of, version)) if *of == installed => version.clone(),
            _ => {
                let version = self.ask().await;
                if !version.is_empty() {
                    *known = Some((installed, version.clone()));
                }
                version
            }
        }
    }

    async fn ask(&self) -> String {
        let asked = Command::new(&self.binary).arg("-version").stdin(Stdio::null()).kill_on_drop(true).output();
        match time::timeout(LIMIT, asked).await {
            Ok(Ok(output)) if output.status.success() => version(&String::from_utf8_lossy(&output.stdout)),
            _ => String::new(),
        }
    }
}

/// `QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)`.
fn version(text: &str) -> String {
    text.split_once("version ").and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_qemu_says() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)\nCopyright"), "10.0.2");
        assert_eq!(version("no such thing"), "");
    }
}
