//! What a kernel wants from the first process: file systems and modules.

use std::{fs, io, path::Path};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
};

/// The tests' switches on the kernel's command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    /// `goliath.ignore_power_button`: a guest that does not hear ACPI.
    pub(crate) ignore_power_button: bool,
    /// `goliath.no_ready`: a guest that never reports its boot.
    pub(crate) no_ready: bool,
}

impl Switches {
    pub(crate) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    fn parse(command_line: &str) -> Self {
        let has = |word| command_line.split_whitespace().any(|found| found == word);
        Self { ignore_power_button: has("goliath.ignore_power_button"), no_ready: has("goliath.no_ready") }
    }
}

/// A file system that could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("{target} cannot be mounted: {reason}")]
pub(crate) struct MountError {
    target: String,
    reason: io::Error,
}

/// `/proc`, `/sys`, `/dev`, `/run`.
pub(crate) fn mount_system() -> Result<(), MountError> {
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, target, flags) in [
        ("proc", "/proc", closed),
        ("sysfs", "/sys", closed),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID),
        ("tmpfs", "/run", closed),
    ] {
        mount_at(kind, kind, Path::new(target), flags, None)?;
    }
    Ok(())
}

/// Mounts the volume with the tag `goliath-certs`; false where the guest has none.
pub(crate) fn mount_certificates(target: &Path) -> Result<bool, MountError> {
    match mount_at("goliath-certs", "virtiofs", target, READ_ONLY, None) {
        // What virtiofs says of a tag that no device has.
        Err(error) if error.reason.raw_os_error() == Some(nix::libc::EINVAL) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// Mounts the certificate disk: keys are for root alone.
pub(crate) fn mount_disk(device: &Path, target: &Path) -> Result<(), MountError> {
    mount_at(&device.to_string_lossy(), "vfat", target, READ_ONLY, Some("umask=077"))
}

const READ_ONLY: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

fn mount_at(source: &str, kind: &str, target: &Path, flags: MsFlags, options: Option<&str>) -> Result<(), MountError> {
    fs::create_dir_all(target)
        .and_then(|()| mount(Some(source), target, Some(kind), flags, options).map_err(io::Error::from))
        .map_err(|reason| MountError { target: target.display().to_string(), reason })
}

/// What became of the initramfs's modules.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    pub(crate) loaded: Vec<String>,
    pub(crate) failed: Vec<String>,
}

/// Loads what `load-order` in `directory` lists, one file name a line, dependencies first.
pub(crate) fn load_modules(directory: &Path) -> Modules {
    let mut modules = Modules::default();
    let order = match fs::read_to_string(directory.join("load-order")) {
        Ok(order) => order,
        Err(reason) => {
            modules.failed.push(format!("{}/load-order cannot be read: {reason}", directory.display()));
            return modules;
        }
    };
    for name in order.lines() {
        let outcome = fs::File::open(directory.join(name))
            .and_then(|file| finit_module(file, c"", ModuleInitFlags::empty()).map_err(io::Error::from));
        match outcome {
            Ok(()) => modules.loaded.push(name.trim_end_matches(".ko").to_owned()),
            Err(reason) => modules.failed.push(format!("the module {name} was not loaded: {reason}")),
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::Switches;

    #[test]
    fn switches_are_whole_words_of_the_command_line() {
        assert_eq!(Switches::parse("console=ttyS0 quiet panic=-1\n"), Switches::default());
        assert_eq!(
            Switches::parse("quiet goliath.no_ready panic=-1"),
            Switches { no_ready: true, ignore_power_button: false }
        );
        assert_eq!(Switches::parse("goliath.no_ready=0 xgoliath.ignore_power_button"), Switches::default());
    }
}
