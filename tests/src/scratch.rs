//! One lab's directory, and by its name everything that was started, mounted or made for it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    namespace,
    process::{self, Process},
};

/// Short: a Unix socket's path has 107 bytes at most.
const ROOT: &str = "/tmp/goliath-lab";
/// The file in it that names the process that answers for it.
pub const OWNER: &str = "owner";

/// One lab's directory; dropping it ends and removes all that belongs to it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a new one, after removing those whose owners are dead.
    pub fn new() -> Result<Self> {
        sweep();
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self::named(id.get(..8).unwrap_or(&id))
    }

    /// Makes one of a given name; what an earlier one of this name left is removed.
    pub fn named(name: &str) -> Result<Self> {
        let path = Path::new(ROOT).join(name);
        remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let scratch = Self { path };
        // QEMU's user must get through to what it is given.
        fs::set_permissions(&scratch.path, fs::Permissions::from_mode(0o755))?;
        fs::write(scratch.path.join(OWNER), own_identity()?)?;
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, unique on this machine.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// A directory in it.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A directory in it that is kept in memory, as `/run` is.
    pub fn memory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory(name)?;
        mount(Some("goliath-lab"), &path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
            .with_context(|| format!("cannot mount a tmpfs at {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("the lab could not clean up: {error:#}");
        }
    }
}

/// Whether there is a lab of this name whose process lives.
pub fn is_up(name: &str) -> Result<bool> {
    Ok(owner_of(&Path::new(ROOT).join(name))?.is_some())
}

/// Asks the process that answers for the lab of this name to end, waits for that, and removes what is left.
///
/// False where there is no such lab.
pub fn remove_named(name: &str) -> Result<bool> {
    let path = Path::new(ROOT).join(name);
    if !path.exists() {
        return Ok(false);
    }
    if let Some(owner) = owner_of(&path)? {
        owner.terminate()?;
        owner.wait(Duration::from_secs(30))?;
    }
    remove(&path)?;
    Ok(true)
}

/// The process that answers for a directory, if it lives.
fn owner_of(path: &Path) -> Result<Option<Process>> {
    let Ok(owner) = fs::read_to_string(path.join(OWNER)) else { return Ok(None) };
    let Some((pid, _)) = owner.split_once(' ') else { return Ok(None) };
    let process = Process::open(pid.parse()?)?;
    // Looked at once it is held: it is the one that is meant.
    Ok(process.filter(|_| identity(pid).is_ok_and(|now| now == owner)))
}

fn remove(path: &Path) -> Result<()> {
    process::end_all(path)?;
    for target in mounts_below(path)? {
        umount2(&target, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", target.display()))?;
    }
    if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
        namespace::remove_all(name)?;
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Mount points below a directory, the deepest first.
pub fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    Ok(below)
}

/// Removes what killed labs left behind.
fn sweep() {
    let Ok(entries) = fs::read_dir(ROOT) else { return };
    for entry in entries.flatten() {
        let Ok(owner) = fs::read_to_string(entry.path().join(OWNER)) else { continue };
        let alive = owner.split_once(' ').is_some_and(|(pid, _)| identity(pid).is_ok_and(|now| now == owner));
        if !alive {
            // Another sweep may be at it too.
            let _ = remove(&entry.path());
        }
    }
}

fn own_identity() -> Result<String> {
    identity(&std::process::id().to_string())
}

/// A process's number and start time: together they never mean another one.
fn identity(pid: &str) -> Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let started_at = after_name.split_whitespace().nth(19).context("a stat file of an unknown form")?;
    Ok(format!("{pid} {started_at}"))
}
