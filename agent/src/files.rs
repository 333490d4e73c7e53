//! Files that are there whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Writes a file whole: whoever reads `path`, now or after a crash of the machine, finds the old content or the new.
///
/// The temporary file's name is the target's with a suffix: one writer for a path at a time is the caller's duty, and a
/// temporary file that a crash left is overwritten by the next write.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_for(path)?;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    // The mode above does not reach a file that was there already, and the umask takes from it.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_directory_of(path)
}

/// Makes a directory, and those above it; one that is there stays as it is.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Removes a file for good; one that is not there is as good as removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory_of(path),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(reason) => Err(reason),
    }
}

/// Removes a directory and all that is in it; one that is not there is as good as removed.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(reason),
        _ => Ok(()),
    }
}

/// Whether a name is that of a temporary file of [`write_whole`].
pub fn is_temporary(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

const SUFFIX: &str = ".writing";

fn temporary_for(path: &Path) -> io::Result<std::path::PathBuf> {
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_os_string();
    name.push(SUFFIX);
    Ok(path.with_file_name(name))
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        write_whole(&path, b"old", 0o644).unwrap();
        write_whole(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_half_written_is_overwritten_and_never_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        fs::write(directory.path().join("record.json.writing"), b"ha").unwrap();
        assert!(!path.exists());
        write_whole(&path, b"whole", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn removing_twice_is_removing_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        write_whole(&path, b"content", 0o600).unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove_directory(directory.path()).unwrap();
        remove_directory(directory.path()).unwrap();
    }
}
