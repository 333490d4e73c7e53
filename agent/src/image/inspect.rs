//! What a disk is: its virtual size, and that it stands on nothing but itself.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use super::{DiskFormat, ImageError, qcow2};
use crate::spec::ByteSize;

/// util-linux's; part of every Debian. Limits set in the child by ourselves would need unsafe code.
const PRLIMIT: &str = "/usr/bin/prlimit";
const TIME_LIMIT: Duration = Duration::from_secs(30);
const OUTPUT_LIMIT: u64 = 1 << 20;
const COMPLAINT_LIMIT: u64 = 4 << 10;
/// Nobody and nogroup.
const UNPRIVILEGED: u32 = 65534;

/// Runs `qemu-img` on what may be hostile.
#[derive(Debug, Clone)]
pub(super) struct Inspector {
    tool: PathBuf,
    /// The largest virtual size.
    limit: ByteSize,
}

/// What is looked at of the answer of `qemu-img info` (QAPI `ImageInfo`).
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ImageInfo {
    format: String,
    virtual_size: u64,
    #[serde(default)]
    backing_filename: Option<String>,
    #[serde(default)]
    full_backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    format_specific: FormatSpecific,
}

#[derive(Default, Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: serde_json::Value,
}

/// By name, or where the name does not say it by the file's beginning. Decided once, here; nothing probes later.
pub(super) fn format_of(path: &Path, name: &str) -> Result<DiskFormat, ImageError> {
    match name.rsplit_once('.') {
        Some((_, "qcow2")) => return Ok(DiskFormat::Qcow2),
        Some((_, "raw")) => return Ok(DiskFormat::Raw),
        _ => {}
    }
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|file| file.read_at(&mut magic, 0));
    match read.map_err(ImageError::storage("read", path))? {
        4 if magic == qcow2::MAGIC => Ok(DiskFormat::Qcow2),
        _ => Ok(DiskFormat::Raw),
    }
}

impl Inspector {
    pub(super) fn new(tool: &Path, limit: ByteSize) -> Self {
        Self { tool: tool.to_owned(), limit }
    }

    /// The disk's virtual size.
    pub(super) async fn virtual_size(&self, path: &Path, format: DiskFormat) -> Result<ByteSize, ImageError> {
        let size = match format {
            DiskFormat::Raw => {
                let length = std::fs::metadata(path).map_err(ImageError::storage("read", path))?.len();
                ByteSize::bytes(length.next_multiple_of(512))
            }
            DiskFormat::Qcow2 => {
                let stated = qcow2::check(&beginning(path)?)?;
                self.check_limit(stated)?;
                let found = self.ask(path).await?;
                if found != stated {
                    return Err(ImageError::refused(format!(
                        "its qcow2 disk's header says {stated}, and qemu-img reads {found}"
                    )));
                }
                found
            }
        };
        self.check_limit(size)?;
        if size == ByteSize::default() {
            return Err(ImageError::refused("its disk is empty"));
        }
        Ok(size)
    }

    fn check_limit(&self, size: ByteSize) -> Result<(), ImageError> {
        if size <= self.limit {
            return Ok(());
        }
        Err(ImageError::refused(format!(
            "its disk has a virtual size of {size}: images.max_disk_mib allows {}",
            self.limit
        )))
    }

    async fn ask(&self, path: &Path) -> Result<ByteSize, ImageError> {
        let (status, output, complaint) = self.run(path).await?;
        if !status.success() {
            return Err(ImageError::refused_because(
                format!("qemu-img cannot read its qcow2 disk ({status})"),
                complaint.trim().replace('\n', " "),
            ));
        }
        let info: ImageInfo = serde_json::from_slice(&output)
            .map_err(|reason| ImageError::refused_because("qemu-img describes its qcow2 disk unclearly", reason))?;
        let problem = if info.format != "qcow2" {
            Some("is not qcow2 after all")
        } else if info.backing_filename.is_some() || info.full_backing_filename.is_some() {
            Some("has a backing file")
        } else if info.format_specific.data.get("data-file").is_some() {
            Some("keeps its data in another file")
        } else if info.encrypted || info.format_specific.data.get("encrypt").is_some() {
            Some("is encrypted")
        } else {
            None
        };
        match problem {
            Some(problem) => Err(ImageError::refused(format!("its qcow2 disk {problem}, says qemu-img"))),
            None => Ok(ByteSize::bytes(info.virtual_size)),
        }
    }

    /// The file comes as standard input, so that an unprivileged `qemu-img` needs no way through our directories.
    async fn run(&self, path: &Path) -> Result<(ExitStatus, Vec<u8>, String), ImageError> {
        let file = File::open(path).map_err(ImageError::storage("read", path))?;
        let mut command = Command::new(PRLIMIT);
        command
            .args(["--as=2147483648", "--cpu=20", "--core=0", "--fsize=0", "--nofile=64", "--"])
            .arg(&self.tool)
            .args(["info", "--output=json", "--force-share", "-f", "qcow2", "/proc/self/fd/0"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(file))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if nix::unistd::geteuid().is_root() {
            command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        }
        let failed = |reason: std::io::Error| ImageError::Misconfigured {
            what: format!("{} could not be run by {PRLIMIT}: check qemu.image_tool", self.tool.display()),
            source: Some(reason.into()),
        };
        let child = command.spawn().map_err(failed)?;
        match tokio::time::timeout(TIME_LIMIT, collect(child)).await {
            Ok(collected) => collected.map_err(failed),
            Err(_) => Err(ImageError::refused(format!("qemu-img did not read its disk within {TIME_LIMIT:?}"))),
        }
    }
}

async fn collect(mut child: Child) -> std::io::Result<(ExitStatus, Vec<u8>, String)> {
    let (output, complaint) =
        tokio::join!(limited(child.stdout.take(), OUTPUT_LIMIT), limited(child.stderr.take(), COMPLAINT_LIMIT));
    let status = child.wait().await?;
    Ok((status, output?, String::from_utf8_lossy(&complaint?).into_owned()))
}

/// Closes the pipe at the limit: who writes more is ended by that.
async fn limited(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(limit).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

fn beginning(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(qcow2::HEADER_LIMIT as u64).read_to_end(&mut bytes))
        .map_err(ImageError::storage("read", path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu_img(arguments: &[&str]) {
        let status = std::process::Command::new("/usr/bin/qemu-img").args(arguments).stdout(Stdio::null()).status();
        assert!(status.expect("install qemu-utils").success());
    }

    fn inspector() -> Inspector {
        Inspector::new(Path::new("/usr/bin/qemu-img"), ByteSize::GIB)
    }

    #[tokio::test]
    async fn a_qcow2_disk_is_as_large_as_qemu_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "64M"]);
        assert_eq!(format_of(&path, "disk.img").unwrap(), DiskFormat::Qcow2);
        let size = inspector().virtual_size(&path, DiskFormat::Qcow2).await.unwrap();
        assert_eq!(size, ByteSize::mib(64));
    }

    #[tokio::test]
    async fn a_disk_beyond_the_limit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1025M"]);
        let refused = inspector().virtual_size(&path, DiskFormat::Qcow2).await.unwrap_err().to_string();
        assert!(refused.contains("max_disk_mib"), "{refused}");
    }

    #[tokio::test]
    async fn a_header_without_a_disk_behind_it_is_refused_by_qemu_img() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "64M"]);
        // Far beyond what qemu-img takes for an L1 table.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&u32::MAX.to_be_bytes(), 36).unwrap();
        let refused = inspector().virtual_size(&path, DiskFormat::Qcow2).await.unwrap_err();
        assert!(refused.to_string().contains("qemu-img cannot read"), "{refused}");
    }

    #[tokio::test]
    async fn a_raw_disk_is_rounded_up_to_sectors_and_not_probed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [&qcow2::MAGIC[..], &[0; 600]].concat()).unwrap();
        let format = format_of(&path, "disk.raw").unwrap();
        assert_eq!(format, DiskFormat::Raw);
        assert_eq!(inspector().virtual_size(&path, format).await.unwrap(), ByteSize::bytes(1024));
    }
}
