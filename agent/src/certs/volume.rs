//! A guest's certificate directory, laid out as Kubernetes lays out its volumes:
//!
//! ```text
//!  ..7/                      one generation, written whole before anybody sees it
//!      manifest.json         what each certificate was issued for
//!      node/{tls.crt,tls.key,ca.crt}
//!  ..data -> ..7             swapped by rename: certificate and key always belong together
//!  node -> ..data/node
//! ```
//!
//! Certificates that stay are hard links into the generation before, so the agent needs to remember no key. Directories
//! and certificates are 0755 and 0644, keys 0600, all root's: a guest sees the same owners and modes, and on the host
//! only root (and virtiofsd, which is root in a sandbox) can read a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use goliath_vault::{NotInMemory, require_memory};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    check::{self, Leaf},
    disk::{self, CertificateDisk, Directory},
    issuer::IssuedCertificate,
    key::{self, PrivateKey},
    schedule::Lifetime,
};
use crate::{
    files,
    spec::{CertificateName, CertificateRequest},
};

pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const KEY: &str = "tls.key";
pub(super) const AUTHORITIES: &str = "ca.crt";
const FILES: [&str; 3] = [CERTIFICATE, KEY, AUTHORITIES];
const MANIFEST: &str = "manifest.json";
const DATA: &str = "..data";
const NEXT_DATA: &str = "..data_next";

/// Why a guest's certificates cannot be laid down.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The directory is on a disk.
    #[error("the certificate volume would not be in memory")]
    NotInMemory(#[source] NotInMemory),
    /// A step failed; the volume shows what it showed before.
    #[error("the certificate volume cannot be written: {step}")]
    Step {
        /// What was to be done.
        step: String,
        /// Why it was not.
        source: io::Error,
    },
}

/// What the volume holds of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) record: Record,
    /// PEM.
    pub(super) chain: String,
    pub(super) leaf: Leaf,
}

/// What the volume remembers of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Which issuance it is: 1, 2, ….
    pub(super) issuance: u64,
    /// What it was issued for.
    pub(super) request: CertificateRequest,
    pub(super) issued_at: Timestamp,
}

impl Held {
    /// The life that we see: issuers date certificates back, so that clocks may differ, and that is no time to use them.
    pub(super) fn lifetime(&self) -> Lifetime {
        let Lifetime { not_before, not_after } = self.leaf.lifetime;
        Lifetime { not_before: not_before.max(self.record.issued_at), not_after }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    certificates: BTreeMap<CertificateName, Record>,
}

/// A guest's certificate directory. One owner at a time.
#[derive(Debug)]
pub(super) struct Volume {
    directory: PathBuf,
    generation: u64,
    held: BTreeMap<CertificateName, Held>,
}

/// What a new generation takes up.
pub(super) struct Issued {
    pub(super) record: Record,
    pub(super) certificate: IssuedCertificate,
    pub(super) leaf: Leaf,
}

impl Volume {
    /// Opens or makes the directory, takes up what a former agent left whole, and removes what it left unfinished.
    pub(super) fn open(directory: &Path) -> Result<Self, VolumeError> {
        let failed = |source| VolumeError::Step { step: format!("make {}", directory.display()), source };
        // Nothing is made on a disk: a directory to come is where its nearest ancestor is.
        let nearest = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(directory);
        require_memory(nearest).map_err(VolumeError::NotInMemory)?;
        fs::create_dir_all(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(failed)?;

        let generation = current_generation(directory);
        let mut volume = Self { directory: directory.to_owned(), generation, held: BTreeMap::new() };
        let recorded = volume.manifest().certificates;
        let count = recorded.len();
        volume.held = recorded
            .into_iter()
            .filter_map(|(name, record)| volume.read(&name, record).map(|held| (name, held)))
            .collect();
        if volume.held.len() < count {
            // A certificate without its key, say: what is still whole moves to a generation of its own.
            let whole = volume.held.keys().cloned().collect();
            volume.write(&whole, BTreeMap::new())?;
        }
        for step in volume.settle()? {
            step.run(&volume.directory)?;
        }
        Ok(volume)
    }

    /// What is there, by name.
    pub(super) fn held(&self) -> &BTreeMap<CertificateName, Held> {
        &self.held
    }

    /// Shows a new generation: those named in `keep` as they are, and the new ones.
    pub(super) fn write(
        &mut self,
        keep: &BTreeSet<CertificateName>,
        new: BTreeMap<CertificateName, Issued>,
    ) -> Result<(), VolumeError> {
        for step in self.plan(keep, &new)? {
            step.run(&self.directory)?;
        }
        self.generation += 1;
        self.held.retain(|name, _| keep.contains(name));
        for (name, Issued { record, certificate, leaf }) in new {
            self.held.insert(name, Held { record, chain: certificate.certificate_chain, leaf });
        }
        Ok(())
    }

    /// Removes the directory and all that is in it.
    pub(super) fn remove(directory: &Path) -> Result<(), VolumeError> {
        // The link first: whoever reads meanwhile finds all or nothing.
        let data = directory.join(DATA);
        match fs::remove_file(&data) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(VolumeError::Step { step: format!("remove {}", data.display()), source });
            }
            _ => {}
        }
        files::remove_directory(directory)
            .map_err(|source| VolumeError::Step { step: format!("remove {}", directory.display()), source })
    }

    /// Which one is shown; it grows with each write.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Has what is shown in a disk image too, in a directory of images. One that is there stays as it is: a generation
    /// never changes.
    pub(super) fn lay_disk(&self, images: &Path) -> Result<CertificateDisk, VolumeError> {
        let disk = CertificateDisk::new(images, self.generation);
        let failed = |source| VolumeError::Step { step: format!("write {}", disk.path.display()), source };
        files::make_directory(images, 0o700).map_err(failed)?;
        require_memory(images).map_err(VolumeError::NotInMemory)?;
        if disk.path.exists() {
            return Ok(disk);
        }
        let mut directories = Vec::new();
        for name in self.held.keys() {
            let directory = self.data().join(name.as_str());
            let content = |file| fs::read(directory.join(file)).map(|content| (file, Zeroizing::new(content)));
            let files = FILES.into_iter().map(content).collect::<io::Result<_>>().map_err(failed)?;
            directories.push(Directory { name: name.to_string(), files });
        }
        disk::write(&disk.path, &directories).map_err(failed)?;
        Ok(disk)
    }

    fn data(&self) -> PathBuf {
        self.directory.join(generation_name(self.generation))
    }

    /// An unreadable manifest is none: then everything is issued again.
    fn manifest(&self) -> Manifest {
        if self.generation == 0 {
            return Manifest::default();
        }
        let path = self.data().join(MANIFEST);
        fs::read(&path)
            .map_err(|reason| reason.to_string())
            .and_then(|content| serde_json::from_slice(&content).map_err(|reason| reason.to_string()))
            .unwrap_or_else(|reason| {
                tracing::warn!(path = %path.display(), %reason, "the certificates here are not known and are issued again");
                Manifest::default()
            })
    }

    /// A certificate, if its three files are there and belong together.
    fn read(&self, name: &CertificateName, record: Record) -> Option<Held> {
        let directory = self.data().join(name.as_str());
        let text = |file| fs::read_to_string(directory.join(file)).ok();
        let chain = text(CERTIFICATE)?;
        let leaf = check::leaf(&chain).ok()?;
        text(AUTHORITIES)?;
        let key = Zeroizing::new(text(KEY)?);
        key::belongs_to(&key, &leaf.public_key).then_some(Held { record, chain, leaf })
    }

    /// What lies in the directory: names of links, and of what a crash may have left.
    fn listing(&self) -> Result<(BTreeSet<String>, BTreeSet<String>), VolumeError> {
        let failed = |source| VolumeError::Step { step: format!("list {}", self.directory.display()), source };
        let (mut links, mut own) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with("..") {
                own.insert(name);
            } else if entry.file_type().map_err(failed)?.is_symlink() {
                links.insert(name);
            }
        }
        Ok((links, own))
    }

    /// The steps to a new generation. After each of them the volume shows the old state or the new one, save for names
    /// that come (their link is last) or go (their link is first).
    fn plan(
        &self,
        keep: &BTreeSet<CertificateName>,
        new: &BTreeMap<CertificateName, Issued>,
    ) -> Result<Vec<Step>, VolumeError> {
        let (links, _) = self.listing()?;
        let (old, next) = (generation_name(self.generation), generation_name(self.generation + 1));
        let kept: BTreeMap<_, _> =
            self.held.iter().filter(|(name, _)| keep.contains(*name) && !new.contains_key(*name)).collect();
        let manifest = Manifest {
            certificates: kept
                .iter()
                .map(|(name, held)| ((*name).clone(), held.record.clone()))
                .chain(new.iter().map(|(name, issued)| (name.clone(), issued.record.clone())))
                .collect(),
        };

        // What a write that failed left of this generation is in the way.
        let mut steps = vec![Step::Remove(next.clone()), Step::Directory(next.clone())];
        for name in kept.keys() {
            steps.push(Step::Directory(format!("{next}/{name}")));
            steps.extend(FILES.map(|file| Step::HardLink {
                from: format!("{old}/{name}/{file}"),
                to: format!("{next}/{name}/{file}"),
            }));
        }
        for (name, Issued { certificate, .. }) in new {
            steps.push(Step::Directory(format!("{next}/{name}")));
            let file = |file, content| Step::File { path: format!("{next}/{name}/{file}"), content };
            steps.extend([
                file(CERTIFICATE, Content::Public(certificate.certificate_chain.clone())),
                file(KEY, Content::Secret(certificate.private_key.clone())),
                file(AUTHORITIES, Content::Public(certificate.authorities.clone())),
            ]);
        }
        let shown: BTreeSet<&str> = manifest.certificates.keys().map(CertificateName::as_str).collect();
        let text = serde_json::to_string(&manifest)
            .map_err(|reason| VolumeError::Step { step: "write the manifest".to_owned(), source: reason.into() })?;
        steps.push(Step::File { path: format!("{next}/{MANIFEST}"), content: Content::Private(text) });
        steps.extend(links.iter().filter(|link| !shown.contains(link.as_str())).cloned().map(Step::Remove));
        steps.push(Step::Remove(NEXT_DATA.to_owned()));
        steps.push(Step::Symlink { path: NEXT_DATA.to_owned(), target: next });
        steps.push(Step::Rename { from: NEXT_DATA.to_owned(), to: DATA.to_owned() });
        steps.extend(shown.iter().filter(|name| !links.contains(**name)).map(|name| link(name)));
        if self.generation > 0 {
            steps.push(Step::Remove(old));
        }
        Ok(steps)
    }

    /// The steps that finish or undo what a crash left: links as the current generation wants them, no other generation.
    fn settle(&self) -> Result<Vec<Step>, VolumeError> {
        let (links, own) = self.listing()?;
        let current = generation_name(self.generation);
        let surplus = own.into_iter().filter(|name| *name != current && !(name == DATA && self.generation > 0));
        let stray = links.iter().filter(|name| !self.held.keys().any(|held| held.as_str() == *name)).cloned();
        let missing = self.held.keys().filter(|name| !links.contains(name.as_str())).map(|name| link(name.as_str()));
        Ok(stray.chain(surplus).map(Step::Remove).chain(missing).collect())
    }
}

fn link(name: &str) -> Step {
    Step::Symlink { path: name.to_owned(), target: format!("{DATA}/{name}") }
}

fn generation_name(generation: u64) -> String {
    format!("..{generation}")
}

/// 0: none yet.
fn current_generation(directory: &Path) -> u64 {
    fs::read_link(directory.join(DATA))
        .ok()
        .and_then(|target| target.to_str()?.strip_prefix("..")?.parse().ok())
        .unwrap_or(0)
}

/// One step, with paths relative to the volume's directory.
#[derive(Debug, Clone)]
enum Step {
    Directory(String),
    File {
        path: String,
        content: Content,
    },
    HardLink {
        from: String,
        to: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    Rename {
        from: String,
        to: String,
    },
    /// Whatever it is, if it is there.
    Remove(String),
}

#[derive(Debug, Clone)]
enum Content {
    Public(String),
    /// No secret, but nobody's business.
    Private(String),
    Secret(PrivateKey),
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(formatter, "make {path}"),
            Self::File { path, .. } => write!(formatter, "write {path}"),
            Self::HardLink { to, .. } => write!(formatter, "take over {to}"),
            Self::Symlink { path, target } => write!(formatter, "link {path} to {target}"),
            Self::Rename { from, to } => write!(formatter, "rename {from} to {to}"),
            Self::Remove(path) => write!(formatter, "remove {path}"),
        }
    }
}

impl Step {
    fn run(&self, directory: &Path) -> Result<(), VolumeError> {
        self.attempt(directory).map_err(|source| VolumeError::Step { step: self.to_string(), source })
    }

    fn attempt(&self, directory: &Path) -> io::Result<()> {
        match self {
            Self::Directory(path) => {
                let path = directory.join(path);
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            }
            Self::File { path, content } => content.write(&directory.join(path)),
            Self::HardLink { from, to } => fs::hard_link(directory.join(from), directory.join(to)),
            Self::Symlink { path, target } => symlink(target, directory.join(path)),
            Self::Rename { from, to } => fs::rename(directory.join(from), directory.join(to)),
            Self::Remove(path) => {
                let path = directory.join(path);
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                    Ok(_) => fs::remove_file(&path),
                    Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(reason) => Err(reason),
                }
            }
        }
    }
}

impl Content {
    fn write(&self, path: &Path) -> io::Result<()> {
        let (bytes, mode) = match self {
            Self::Public(text) => (text.as_bytes(), 0o644),
            Self::Private(text) => (text.as_bytes(), 0o600),
            Self::Secret(key) => (key.pem().as_bytes(), 0o600),
        };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        // The umask took from the mode above.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::{
        key::tests::request,
        local::{LocalIssuer, tests::authority_in},
    };

    /// A place in memory, and a CA.
    struct Lab {
        memory: tempfile::TempDir,
        authority: LocalIssuer,
        _files: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let files = tempfile::tempdir().unwrap();
            let memory = tempfile::tempdir_in("/dev/shm").unwrap();
            Self { memory, authority: authority_in(files.path()), _files: files }
        }

        fn path(&self) -> PathBuf {
            self.memory.path().join("certificates")
        }

        fn open(&self) -> Volume {
            Volume::open(&self.path()).unwrap()
        }

        fn issued(&self, names: &[&str], issuance: u64) -> BTreeMap<CertificateName, Issued> {
            let issue = |name: &&str| {
                let request = request(name);
                let certificate = self.authority.sign(&request).unwrap();
                let leaf = check::leaf(&certificate.certificate_chain).unwrap();
                (
                    request.name.clone(),
                    Issued { record: Record { issuance, request, issued_at: Timestamp::now() }, certificate, leaf },
                )
            };
            names.iter().map(issue).collect()
        }
    }

    fn names(names: &[&str]) -> BTreeSet<CertificateName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    /// What a guest sees: each visible name's certificate; a key that is not its own is a failure.
    fn seen(directory: &Path) -> BTreeMap<String, String> {
        fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .map(|name| {
                let text = |file| fs::read_to_string(directory.join(&name).join(file)).unwrap();
                let leaf = check::leaf(&text(CERTIFICATE)).unwrap();
                assert!(key::belongs_to(&text(KEY), &leaf.public_key), "{name}: the key is not the certificate's");
                assert!(!text(AUTHORITIES).is_empty());
                (name, leaf.serial_number)
            })
            .collect()
    }

    fn serials(volume: &Volume) -> BTreeMap<String, String> {
        volume.held().iter().map(|(name, held)| (name.to_string(), held.leaf.serial_number.clone())).collect()
    }

    #[test]
    fn a_volume_shows_what_was_written_and_a_later_agent_takes_it_up() {
        let lab = Lab::new();
        let mut volume = lab.open();
        volume.write(&names(&[]), lab.issued(&["node", "etcd"], 1)).unwrap();
        volume.write(&names(&["etcd"]), lab.issued(&["node"], 2)).unwrap();
        let shown = seen(&lab.path());
        assert_eq!(shown, serials(&volume));
        assert_eq!(fs::read_link(lab.path().join("node")).unwrap(), Path::new("..data/node"));
        assert_eq!(fs::read_link(lab.path().join("..data")).unwrap(), Path::new("..2"));
        assert!(!lab.path().join("..1").exists());
        let mode = |file| fs::metadata(lab.path().join("node").join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode("tls.crt"), mode("tls.key"), mode("ca.crt")], [0o644, 0o600, 0o644]);

        let again = lab.open();
        assert_eq!(again.held(), volume.held());
        assert_eq!(again.held()[&"node".parse().unwrap()].record.issuance, 2);
    }

    #[test]
    fn a_crash_after_any_step_leaves_the_old_state_or_the_new() {
        let steps =
            |volume: &Volume, lab: &Lab| volume.plan(&names(&["etcd"]), &lab.issued(&["node", "api"], 2)).unwrap();
        let prepared = || {
            let lab = Lab::new();
            let mut volume = lab.open();
            volume.write(&names(&[]), lab.issued(&["node", "etcd", "old"], 1)).unwrap();
            (lab, volume)
        };
        let count = {
            let (lab, volume) = prepared();
            steps(&volume, &lab).len()
        };
        assert!(count > 20, "{count}");
        for stop_after in 0..=count {
            let (lab, volume) = prepared();
            let before = serials(&volume);
            for step in steps(&volume, &lab).iter().take(stop_after) {
                step.run(&lab.path()).unwrap();
                seen(&lab.path());
            }
            drop(volume);
            let after = lab.open();
            let shown = seen(&lab.path());
            assert_eq!(shown, serials(&after), "after {stop_after} steps");
            assert_eq!(shown["etcd"], before["etcd"], "what stays, stays");
            if after.generation == 1 {
                assert_eq!(shown, before, "after {stop_after} steps");
            } else {
                assert_eq!(shown.keys().collect::<Vec<_>>(), ["api", "etcd", "node"], "after {stop_after} steps");
                assert_ne!(shown["node"], before["node"]);
            }
            let own = after.listing().unwrap().1;
            assert_eq!(own, BTreeSet::from([DATA.to_owned(), generation_name(after.generation)]));
            // And it goes on from there.
            let mut after = after;
            after.write(&names(&[]), lab.issued(&["node"], 3)).unwrap();
            assert_eq!(seen(&lab.path()), serials(&after));
        }
    }

    #[test]
    fn a_certificate_whose_key_is_gone_is_not_taken_up_and_the_others_are() {
        let lab = Lab::new();
        let mut volume = lab.open();
        volume.write(&names(&[]), lab.issued(&["node", "etcd"], 1)).unwrap();
        fs::remove_file(lab.path().join("node/tls.key")).unwrap();
        let again = lab.open();
        assert_eq!(again.held().keys().map(CertificateName::as_str).collect::<Vec<_>>(), ["etcd"]);
        assert_eq!(seen(&lab.path()), serials(&again));
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_none() {
        let lab = Lab::new();
        lab.open().write(&names(&[]), lab.issued(&["node"], 1)).unwrap();
        fs::write(lab.path().join("..data/manifest.json"), "{").unwrap();
        assert!(lab.open().held().is_empty());
        assert!(seen(&lab.path()).is_empty());
    }

    #[test]
    fn a_directory_on_a_disk_is_refused() {
        let refusal = Volume::open(Path::new("/proc/self")).unwrap_err();
        assert!(matches!(refusal, VolumeError::NotInMemory(_)), "{refusal}");
    }

    #[test]
    fn removing_leaves_nothing_and_can_be_repeated() {
        let lab = Lab::new();
        lab.open().write(&names(&[]), lab.issued(&["node"], 1)).unwrap();
        Volume::remove(&lab.path()).unwrap();
        Volume::remove(&lab.path()).unwrap();
        assert!(!lab.path().exists());
    }
}
