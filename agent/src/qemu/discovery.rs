//! Finds the QEMU of a guest again, after the agent was away.
//!
//! The guest's lock tells whether there is one; the record tells which process it is. Nothing here signals anybody.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    kvm,
    paths::GuestPaths,
    process::{Process, ProcessRecord, boot_id},
    qmp::{Qmp, QmpError, schema},
};
use crate::spec::GuestUid;

/// What there is of a guest.
#[derive(Debug)]
pub enum Discovery {
    /// No QEMU.
    None,
    /// The process that was recorded. [`is_guest`] confirms it once QMP speaks.
    Running(Process, ProcessRecord),
    /// Someone holds the guest's lock and is not what was recorded: it is left alone.
    Stranger {
        /// What does not fit.
        reason: String,
        /// Those that have the lock open, as far as it could be seen.
        pids: Vec<i32>,
    },
}

/// Why nobody can say what there is.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct DiscoveryError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A launch that was just begun holds the lock a moment before its record is there, and so may a child of the agent
/// between fork and exec.
const PATIENCE: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks for the QEMU of a guest.
pub async fn discover(paths: &GuestPaths, uid: GuestUid) -> Result<Discovery, DiscoveryError> {
    let mut waited = Duration::ZERO;
    loop {
        if !is_held(&paths.lock())? {
            return Ok(Discovery::None);
        }
        let reason = match recorded(paths, uid) {
            Ok((process, record)) => return Ok(Discovery::Running(process, record)),
            Err(reason) => reason,
        };
        if waited >= PATIENCE {
            return Ok(Discovery::Stranger { reason, pids: holders(&paths.lock()) });
        }
        tokio::time::sleep(INTERVAL).await;
        waited += INTERVAL;
    }
}

/// Whether the QEMU that speaks is this guest's.
pub async fn is_guest(qmp: &Qmp, uid: GuestUid) -> Result<bool, QmpError> {
    let answer = qmp.execute(schema::query_uuid {}).await?;
    Ok(answer.UUID.parse::<GuestUid>().is_ok_and(|found| found == uid))
}

/// The uids of which there is anything in a runtime directory, running or not.
pub fn known_guests(runtime: &Path) -> Result<Vec<GuestUid>, DiscoveryError> {
    let directory = GuestPaths::all(runtime);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(DiscoveryError { what: "list", path: directory, source }),
    };
    // What is not named as a guest is no guest's.
    let uids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(uids.filter(|uid| !kvm::is_probe(*uid)).collect())
}

fn is_held(path: &Path) -> Result<bool, DiscoveryError> {
    let failed = |what, source| DiscoveryError { what, path: path.to_owned(), source };
    let lock = match File::options().read(true).write(true).open(path) {
        Ok(lock) => lock,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(reason) => return Err(failed("open", reason)),
    };
    match lock.try_lock() {
        // Given back when the file closes, here.
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(reason)) => Err(failed("lock", reason)),
    }
}

/// The process of the record, or what does not fit.
fn recorded(paths: &GuestPaths, uid: GuestUid) -> Result<(Process, ProcessRecord), String> {
    let path = paths.process_record();
    let text = fs::read(&path).map_err(|reason| format!("{}: {reason}", path.display()))?;
    let record: ProcessRecord =
        serde_json::from_slice(&text).map_err(|reason| format!("{} is damaged: {reason}", path.display()))?;
    if record.uid != uid {
        return Err(format!("{} is of guest {}", path.display(), record.uid));
    }
    if !boot_id().is_ok_and(|present| present == record.boot_id) {
        return Err(format!("{} is of another boot of the machine", path.display()));
    }
    let process = Process::open(record.pid, record.start_time).map_err(|reason| reason.to_string())?;
    Ok((process, record))
}

/// For people: whoever has the file open. Processes that come and go meanwhile are left out.
fn holders(lock: &Path) -> Vec<i32> {
    let Ok(lock) = lock.canonicalize() else { return Vec::new() };
    let has_it = |pid: i32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        descriptors.into_iter().flatten().flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to == lock))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = std::process::id().cast_signed();
    pids.filter(|pid| *pid != own && has_it(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> GuestUid {
        "11111111-2222-3333-4444-555555555555".parse().unwrap()
    }

    fn paths(directory: &Path) -> GuestPaths {
        let paths = GuestPaths::new(directory, directory, uid());
        fs::create_dir_all(paths.runtime()).unwrap();
        paths
    }

    #[tokio::test]
    async fn no_lock_or_a_free_one_means_no_qemu_whatever_was_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(directory.path());
        assert!(matches!(discover(&paths, uid()).await, Ok(Discovery::None)));
        fs::write(paths.lock(), "").unwrap();
        fs::write(paths.process_record(), "damaged").unwrap();
        assert!(matches!(discover(&paths, uid()).await, Ok(Discovery::None)));
    }

    #[tokio::test]
    async fn a_lock_held_by_someone_unrecorded_is_a_strangers() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(directory.path());
        let lock = File::create(paths.lock()).unwrap();
        lock.try_lock().unwrap();
        for record in [None, Some("damaged"), Some("{}")] {
            if let Some(record) = record {
                fs::write(paths.process_record(), record).unwrap();
            }
            let found = discover(&paths, uid()).await.unwrap();
            assert!(matches!(found, Discovery::Stranger { .. }), "{record:?}: {found:?}");
        }
    }

    #[test]
    fn only_what_is_named_as_a_guest_is_one() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(known_guests(directory.path()).unwrap(), []);
        paths(directory.path());
        fs::create_dir_all(GuestPaths::all(directory.path()).join("lost+found")).unwrap();
        // The one that tries KVM comes and goes, and is nobody's guest.
        fs::create_dir_all(GuestPaths::all(directory.path()).join("5d0b2f4e-6b1c-4f0e-9c5a-676f6c696174")).unwrap();
        assert_eq!(known_guests(directory.path()).unwrap(), [uid()]);
    }
}
