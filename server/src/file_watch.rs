//! Notices that files change, however they are changed: written in place, replaced by a rename, or reached through
//! symbolic links of which one is swapped, as Kubernetes swaps `..data`.
//!
//! A path is walked as the kernel walks it, and each directory in which it looks a name up is watched for that name. So
//! a file that is not there yet is waited for too.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time,
};

/// Files that belong together are replaced one by one: a change is told when nothing followed it for this long...
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// ...or when it went on for this long.
const SETTLED_AT_MOST: Duration = Duration::from_secs(2);
/// Some file systems, network ones above all, tell of no changes: then files are compared this often.
const COMPARED_EVERY: Duration = Duration::from_mins(1);
/// Where the kernel gives up too (ELOOP).
const MAX_LINKS: usize = 40;

/// A watch on some files.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    inotify: AsyncFd<Descriptor>,
    names: HashMap<WatchDescriptor, BTreeSet<OsString>>,
}

impl FileWatch {
    /// Watches from now on: read the files after this, and no change is missed. The paths must be absolute.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watch = Self { paths: paths.into_iter().collect(), inotify: readable(inotify)?, names: HashMap::new() };
        watch.arm();
        Ok(watch)
    }

    /// Returns when a file may have changed, and from time to time anyway: compare what is read with what was read
    /// before. May be cancelled.
    pub async fn changed(&mut self) {
        let _ = time::timeout(COMPARED_EVERY, async {
            self.event().await;
            let settled = async { while time::timeout(SETTLED_AFTER, self.event()).await.is_ok() {} };
            time::timeout(SETTLED_AT_MOST, settled).await
        })
        .await;
        self.arm();
    }

    /// The next event that matters. An inotify that fails is one that never tells: the slow comparison remains.
    async fn event(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
            match ready.get_inner().0.read_events() {
                Ok(events) if events.iter().any(|event| self.matters(event)) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
        }
    }

    fn matters(&self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        match (self.names.get(&event.wd), event.name.as_deref().map(name_without_padding)) {
            (Some(names), Some(name)) => names.contains(name),
            // The directory itself went or moved.
            (Some(_), None) => true,
            // The last words of a watch that is no longer ours.
            (None, _) => false,
        }
    }

    /// Watches what the paths lead through now. Again when they changed meanwhile: only when a walk after the watches
    /// stand finds what they stand on, nothing was missed.
    fn arm(&mut self) {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let mut walked = lookups(&self.paths);
        for _ in 0..8 {
            let mut names: HashMap<WatchDescriptor, BTreeSet<OsString>> = HashMap::new();
            for (directory, looked_up) in &walked {
                match self.inotify.get_ref().0.add_watch(directory, flags) {
                    Ok(watch) => names.entry(watch).or_default().extend(looked_up.iter().cloned()),
                    Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                    Err(errno) => tracing::warn!(
                        directory = %directory.display(),
                        reason = errno.desc(),
                        "cannot watch a directory: its files are compared once a minute"
                    ),
                }
            }
            for gone in self.names.keys().filter(|watch| !names.contains_key(watch)) {
                // Fails for a directory that was removed, whose watch went with it.
                let _ = self.inotify.get_ref().0.rm_watch(*gone);
            }
            self.names = names;
            let again = lookups(&self.paths);
            if again == walked {
                return;
            }
            walked = again;
        }
    }
}

/// Tokio wants a raw descriptor.
#[derive(Debug)]
struct Descriptor(Inotify);

#[allow(unsafe_code)]
fn readable(inotify: Inotify) -> io::Result<AsyncFd<Descriptor>> {
    // SAFETY: an Inotify owns its descriptor, keeps it open for as long as it lives and never gives another.
    let registered = unsafe { AsyncFd::register_with_interest(Descriptor(inotify), Interest::READABLE) };
    Ok(registered?)
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The kernel fills a name up with zero bytes.
fn name_without_padding(name: &OsStr) -> &OsStr {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = name.as_bytes();
    OsStr::from_bytes(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// Which names are looked up in which directories on the way to the files.
fn lookups(paths: &[PathBuf]) -> BTreeMap<PathBuf, BTreeSet<OsString>> {
    let mut found: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    for path in paths {
        let mut here = PathBuf::from("/");
        let mut links = 0;
        let mut ahead: VecDeque<OsString> = parts(path).collect();
        while let Some(part) = ahead.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => here = PathBuf::from("/"),
                Some(Component::ParentDir) => {
                    here.pop();
                }
                Some(Component::Normal(name)) => {
                    found.entry(here.clone()).or_default().insert(name.to_owned());
                    let next = here.join(name);
                    match fs::read_link(&next) {
                        Ok(target) if links < MAX_LINKS => {
                            links += 1;
                            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                                ahead.push_front(part);
                            }
                        }
                        // EINVAL: not a link. Otherwise the way ends here for now.
                        Err(reason) if reason.raw_os_error() == Some(Errno::EINVAL as i32) => here = next,
                        _ => break,
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().map(|component| component.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// Far above what a change takes to be told, far below the slow comparison.
    const SOON: Duration = Duration::from_secs(10);

    fn directory() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    async fn assert_told(watch: &mut FileWatch) {
        time::timeout(SOON, watch.changed()).await.expect("the change is told");
    }

    async fn assert_quiet(watch: &mut FileWatch) {
        assert!(time::timeout(Duration::from_millis(300), watch.changed()).await.is_err(), "nothing changed");
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_told() {
        let directory = directory();
        let file = directory.path().join("tls.crt");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new([file.clone()]).unwrap();
        fs::write(&file, "2").unwrap();
        assert_told(&mut watch).await;
        assert_quiet(&mut watch).await;
    }

    #[tokio::test]
    async fn a_file_replaced_by_a_rename_is_told_each_time() {
        let directory = directory();
        let file = directory.path().join("tls.crt");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new([file.clone()]).unwrap();
        for text in ["2", "3"] {
            let new = directory.path().join("tls.crt.new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &file).unwrap();
            assert_told(&mut watch).await;
        }
    }

    #[tokio::test]
    async fn a_neighbour_in_the_directory_is_not_told() {
        let directory = directory();
        let file = directory.path().join("tls.crt");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new([file]).unwrap();
        fs::write(directory.path().join("other"), "2").unwrap();
        assert_quiet(&mut watch).await;
    }

    #[tokio::test]
    async fn a_swapped_data_link_is_told_and_so_is_the_next_one() {
        let directory = directory();
        let at = |name: &str| directory.path().join(name);
        let generation = |name: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("tls.crt"), name).unwrap();
            symlink(name, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        generation("..1");
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        let mut watch = FileWatch::new([at("tls.crt")]).unwrap();
        for name in ["..2", "..3"] {
            generation(name);
            assert_told(&mut watch).await;
            assert_eq!(fs::read_to_string(at("tls.crt")).unwrap(), name);
        }
        fs::write(at("..3").join("tls.crt"), "in place, behind two links").unwrap();
        assert_told(&mut watch).await;
        fs::write(at("..1").join("tls.crt"), "no longer ours").unwrap();
        assert_quiet(&mut watch).await;
    }

    #[tokio::test]
    async fn a_file_whose_directory_is_not_there_yet_is_waited_for() {
        let directory = directory();
        let file = directory.path().join("pki/host/tls.crt");
        let mut watch = FileWatch::new([file.clone()]).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        assert_told(&mut watch).await;
        fs::write(&file, "1").unwrap();
        assert_told(&mut watch).await;
        fs::remove_dir_all(directory.path().join("pki")).unwrap();
        assert_told(&mut watch).await;
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "2").unwrap();
        assert_told(&mut watch).await;
    }

    #[tokio::test]
    async fn links_in_a_circle_end() {
        let directory = directory();
        let at = |name: &str| directory.path().join(name);
        symlink("b", at("a")).unwrap();
        symlink("a", at("b")).unwrap();
        let mut watch = FileWatch::new([at("a")]).unwrap();
        fs::remove_file(at("b")).unwrap();
        fs::write(at("b"), "1").unwrap();
        assert_told(&mut watch).await;
    }
}
