//! The certificate disk, for a guest without virtiofs: a removable vfat disk whose medium the host changes.
//!
//! It is mounted, copied and unmounted again each time the kernel tells of another medium. A file system that stayed
//! mounted would go on showing what the kernel has read of the old medium; and a copy shows one generation after the
//! other, whole, as virtiofs does.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use nix::mount::{MntFlags, umount2};

use crate::{
    certificates::{self, CertificateError},
    kernel::{self, MountError},
    say, seed,
};

const LABEL: &str = "GOLIATHCERT";
const MOUNT_POINT: &str = "/run/goliath/medium";
/// How often the kernel asks removable disks for another medium, as systemd's rules have it.
const POLL: (&str, &str) = ("/sys/module/block/parameters/events_dfl_poll_msecs", "2000");
/// SCSI disks are found a little after their driver.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of one event: the kernel's own limit.
const LONGEST_EVENT: usize = 2048;

/// Why the certificates of a disk are not taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediumError {
    #[error("media cannot be followed: {0}")]
    Events(io::Error),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("the certificate disk cannot be copied: {0}")]
    Copy(#[from] io::Error),
    #[error("the certificate disk holds nothing to serve: {0}")]
    Content(#[from] CertificateError),
}

/// Has `volume` show what the certificate disk holds, now and whenever its medium changes; false where there is no disk.
pub(crate) fn follow(volume: &Path) -> Result<bool, MediumError> {
    if !fs::read_dir("/sys/class/scsi_host").is_ok_and(|mut hosts| hosts.next().is_some()) {
        return Ok(false);
    }
    // Before the first look, so that no change is missed.
    let events = Events::open().map_err(MediumError::Events)?;
    fs::write(POLL.0, POLL.1).map_err(MediumError::Events)?;
    let (sender, first) = mpsc::channel();
    let volume = volume.to_owned();
    let work = move || {
        for generation in 1_u64.. {
            match take(&volume, generation) {
                Ok(None) => {}
                Ok(Some(device)) => {
                    say!("certificates of medium {generation} of {}", device.display());
                    // Nobody waits for later ones.
                    let _ = sender.send(());
                }
                Err(error) => say!("error: {error}"),
            }
            events.wait();
        }
    };
    thread::Builder::new().spawn(work).map_err(MediumError::Events)?;
    Ok(first.recv_timeout(PATIENCE).is_ok())
}

/// Copies what the disk holds; none: there is no disk.
fn take(volume: &Path, generation: u64) -> Result<Option<PathBuf>, MediumError> {
    let labelled = |device: &PathBuf| seed::open(device, LABEL).is_some();
    let Some(device) = seed::block_devices().into_iter().find(labelled) else { return Ok(None) };
    kernel::mount_disk(&device, Path::new(MOUNT_POINT))?;
    let copied = copy(Path::new(MOUNT_POINT), volume, generation);
    umount2(MOUNT_POINT, MntFlags::empty()).map_err(io::Error::from)?;
    copied.map(|()| Some(device))
}

/// Lays a generation beside the present one and swaps the link.
fn copy(medium: &Path, volume: &Path, generation: u64) -> Result<(), MediumError> {
    let name = format!("..{generation}");
    let directory = volume.join(&name);
    fs::create_dir_all(&directory)?;
    let taken = copy_files(medium, &directory).map_err(MediumError::from).and_then(|()| {
        // The medium may have changed under the copy: then certificate and key do not belong together, and the event
        // of that change is still to come.
        certificates::read_generation(&directory)?;
        symlink(&name, volume.join("..next"))?;
        Ok(fs::rename(volume.join("..next"), volume.join("..data"))?)
    });
    for entry in fs::read_dir(volume)? {
        let path = entry?.path();
        let surplus = if taken.is_ok() { path != directory } else { path == directory };
        if surplus && path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)?;
        }
    }
    taken
}

fn copy_files(medium: &Path, directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(medium)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let target = directory.join(entry.file_name());
        fs::create_dir(&target)?;
        for file in fs::read_dir(entry.path())? {
            let file = file?;
            let mut to =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target.join(file.file_name()))?;
            io::copy(&mut fs::File::open(file.path())?, &mut to)?;
        }
    }
    Ok(())
}

/// What the kernel tells of devices.
struct Events(Socket);

impl Events {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        // The kernel's group; udev has another.
        socket.bind(&SocketAddr::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Returns when a disk may have another medium.
    fn wait(&self) {
        let mut event = Vec::with_capacity(LONGEST_EVENT);
        loop {
            event.clear();
            match self.0.recv(&mut event, 0) {
                Ok(_) if !tells_of_a_medium(&event) => {}
                // Too many events at once: one of them may have been ours.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

/// An event is `KEY=value` many times, with zeros between.
fn tells_of_a_medium(event: &[u8]) -> bool {
    let has = |field: &str| event.split(|byte| *byte == 0).any(|found| found == field.as_bytes());
    has("SUBSYSTEM=block") && (has("ACTION=add") || has("ACTION=change") && has("DISK_MEDIA_CHANGE=1"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn lay(medium: &Path, name: &str) -> String {
        let directory = medium.join(name);
        fs::create_dir_all(&directory).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["guest.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        certificates::read_generation(medium).unwrap().description.serial
    }

    #[test]
    fn a_new_medium_replaces_the_old_one_whole() {
        let (medium, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for generation in 1..4 {
            let serial = lay(medium.path(), "node");
            copy(medium.path(), volume.path(), generation).unwrap();
            assert_eq!(certificates::read(volume.path()).unwrap().description.serial, serial);
            // The link and what it points to.
            assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn half_of_one_medium_and_half_of_another_is_not_taken() {
        let (medium, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let serial = lay(medium.path(), "node");
        copy(medium.path(), volume.path(), 1).unwrap();
        fs::write(medium.path().join("node/tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(copy(medium.path(), volume.path(), 2), Err(MediumError::Content(_))));
        assert_eq!(certificates::read(volume.path()).unwrap().description.serial, serial);
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 2);
    }

    #[test]
    fn new_disks_and_new_media_are_told_from_other_events() {
        for (event, tells) in [
            ("add@/x\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=sda\0", true),
            ("change@/x\0ACTION=change\0SUBSYSTEM=block\0DISK_MEDIA_CHANGE=1\0", true),
            ("change@/x\0ACTION=change\0SUBSYSTEM=block\0DISK_EJECT_REQUEST=1\0", false),
            ("remove@/x\0ACTION=remove\0SUBSYSTEM=block\0", false),
            ("add@/x\0ACTION=add\0SUBSYSTEM=net\0", false),
            ("", false),
        ] {
            assert_eq!(tells_of_a_medium(event.as_bytes()), tells, "{event:?}");
        }
    }
}
