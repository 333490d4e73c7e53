use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use goliath_vault::VaultError;

use super::*;
use crate::certs::{
    issuer::{Issuer, IssuerHealth},
    key::tests::request,
    local::{LocalIssuer, tests::authority_in},
};

/// A local CA that can be taken away.
struct Switch {
    authority: LocalIssuer,
    away: AtomicBool,
    issued: AtomicUsize,
}

impl Issuer for Switch {
    fn issue<'a>(
        &'a self,
        cluster: &'a ClusterName,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedCertificate, IssueError>> {
        Box::pin(async move {
            if self.away.load(Ordering::SeqCst) {
                return Err(VaultError::Sealed { address: "https://vault.example:8200".to_owned() }.into());
            }
            self.issued.fetch_add(1, Ordering::SeqCst);
            self.authority.issue(cluster, request).await
        })
    }

    fn health(&self) -> BoxFuture<'_, IssuerHealth> {
        self.authority.health()
    }
}

/// A guest cannot write to its disk.
struct ReadOnly(fs::File);

impl io::Read for ReadOnly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl io::Write for ReadOnly {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for ReadOnly {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

struct Lab {
    memory: tempfile::TempDir,
    switch: Arc<Switch>,
    _files: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let switch =
            Switch { authority: authority_in(files.path()), away: AtomicBool::new(false), issued: AtomicUsize::new(0) };
        Self { memory: tempfile::tempdir_in("/dev/shm").unwrap(), switch: Arc::new(switch), _files: files }
    }

    fn directory(&self) -> PathBuf {
        self.memory.path().join("guest/certificates")
    }

    fn images(&self) -> PathBuf {
        self.memory.path().join("guest/certificate-disks")
    }

    /// What a guest without virtiofs reads.
    fn on_disk(keeper: &CertificateKeeper, path: &str) -> String {
        let image = fs::File::open(&keeper.state().borrow().disk().unwrap().path).unwrap();
        let file_system = fatfs::FileSystem::new(ReadOnly(image), fatfs::FsOptions::new()).unwrap();
        let mut content = String::new();
        file_system.root_dir().open_file(path).unwrap().read_to_string(&mut content).unwrap();
        content
    }

    fn keeper(&self, requests: Vec<CertificateRequest>) -> CertificateKeeper {
        self.keeper_in(&self.directory(), requests)
    }

    fn keeper_in(&self, directory: &Path, requests: Vec<CertificateRequest>) -> CertificateKeeper {
        let issuer: Arc<dyn Issuer> = Arc::clone(&self.switch) as _;
        CertificateKeeper::start(KeeperConfig {
            uid: "11111111-2222-3333-4444-555555555555".parse().unwrap(),
            cluster: "acme".parse().unwrap(),
            directory: directory.to_owned(),
            images: self.images(),
            on_disk: true,
            requests,
            issuers: Issuers::new([("local".parse().unwrap(), issuer)]),
        })
    }

    fn issued(&self) -> usize {
        self.switch.issued.load(Ordering::SeqCst)
    }
}

async fn until(keeper: &CertificateKeeper, what: &str, seen: impl Fn(&KeeperState) -> bool) -> KeeperState {
    let mut state = keeper.state();
    let wait = state.wait_for(|state| seen(state));
    let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
    found.unwrap_or_else(|_| panic!("{what} was not seen: {:?}", keeper.state().borrow())).unwrap().clone()
}

fn serial(keeper: &CertificateKeeper, name: &str) -> String {
    keeper.list().into_iter().find(|info| info.name.as_str() == name).unwrap().serial_number
}

#[tokio::test]
async fn what_is_asked_for_is_issued_and_a_later_agent_does_not_issue_it_again() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node"), request("etcd")]);
    assert!(!keeper.state().borrow().all_present());
    until(&keeper, "both", KeeperState::all_present).await;
    assert_eq!(
        keeper.state().borrow().condition(),
        (true, "Valid", "all 2 certificates are there and good".to_owned())
    );
    let before = keeper.list();
    assert_eq!(before[1].common_name, "node.acme.example");
    assert!(before[1].renew_at > before[1].not_before && before[1].renew_at < before[1].not_after);
    keeper.stop().await;

    let keeper = lab.keeper(vec![request("node"), request("etcd")]);
    until(&keeper, "both again", KeeperState::all_present).await;
    let serials = |infos: &[CertificateInfo]| infos.iter().map(|info| info.serial_number.clone()).collect::<Vec<_>>();
    assert_eq!(serials(&keeper.list()), serials(&before));
    assert_eq!(lab.issued(), 2);
}

#[tokio::test]
async fn a_changed_spec_issues_what_changed_at_once_and_drops_what_is_no_longer_asked_for() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node"), request("etcd"), request("old")]);
    until(&keeper, "all", KeeperState::all_present).await;
    let (node, etcd) = (serial(&keeper, "node"), serial(&keeper, "etcd"));
    let mut changed = request("node");
    changed.dns_names.insert("api.acme.example".to_owned());
    keeper.update(vec![changed.clone(), request("etcd"), request("new")]).await;
    until(&keeper, "the new ones", |state| {
        state.all_present() && state.certificates.contains_key(&"new".parse().unwrap())
    })
    .await;
    assert_ne!(serial(&keeper, "node"), node);
    assert_eq!(serial(&keeper, "etcd"), etcd);
    assert_eq!(lab.issued(), 5);
    assert!(!lab.directory().join("old").exists());
    let info = keeper.list().into_iter().find(|info| info.name == changed.name).unwrap();
    assert_eq!(info.dns_names, changed.dns_names);
    assert_eq!(info.generation, 2);
}

#[tokio::test]
async fn an_issuer_that_is_away_keeps_a_new_guest_waiting_and_says_why() {
    let lab = Lab::new();
    lab.switch.away.store(true, Ordering::SeqCst);
    let keeper = lab.keeper(vec![request("node")]);
    let state = until(&keeper, "the failure", |state| state.condition().1 == "VaultSealed").await;
    assert_eq!(
        state.condition(),
        (
            false,
            "VaultSealed",
            "certificate `node` is missing: Vault at https://vault.example:8200 is sealed: unseal it".to_owned()
        )
    );
    lab.switch.away.store(false, Ordering::SeqCst);
    until(&keeper, "the certificate", KeeperState::all_present).await;
}

#[tokio::test]
async fn an_issuer_that_is_away_takes_nothing_from_a_guest_that_runs() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node")]);
    until(&keeper, "the certificate", KeeperState::all_present).await;
    let node = serial(&keeper, "node");
    lab.switch.away.store(true, Ordering::SeqCst);
    let failed = keeper.rotate(&[], Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(&failed, RotateError::Failed { failure, .. } if failure.reason == "VaultSealed"), "{failed}");
    assert_eq!(serial(&keeper, "node"), node);
    assert!(keeper.state().borrow().all_present());
    assert!(keeper.list()[0].last_error.as_ref().unwrap().contains("sealed"));
    let mut changed = request("node");
    changed.dns_names.insert("api.acme.example".to_owned());
    keeper.update(vec![changed]).await;
    let state = until(&keeper, "the failure", |state| state.condition().1 == "VaultSealed").await;
    assert!(!state.all_present());
    assert!(state.condition().2.starts_with("certificate `node` is not what the spec asks for now: "));
    assert_eq!(serial(&keeper, "node"), node);
    assert!(fs::exists(lab.directory().join("node/tls.key")).unwrap());
}

#[tokio::test]
async fn a_rotation_answers_with_what_is_there_afterwards() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node"), request("etcd")]);
    until(&keeper, "both", KeeperState::all_present).await;
    let (node, etcd) = (serial(&keeper, "node"), serial(&keeper, "etcd"));
    let rotated = keeper.rotate(&["node".parse().unwrap()], Duration::from_secs(5)).await.unwrap();
    assert_eq!(rotated.len(), 1);
    assert_ne!(rotated[0].serial_number, node);
    assert_eq!((rotated[0].generation, serial(&keeper, "node")), (2, rotated[0].serial_number.clone()));
    assert_eq!(serial(&keeper, "etcd"), etcd);
    assert_eq!(Lab::on_disk(&keeper, "node/tls.crt"), rotated[0].certificate_chain);
    let unknown = keeper.rotate(&["nobody".parse().unwrap()], Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(unknown.to_string(), "the guest has no certificate `nobody`");
}

#[tokio::test]
async fn a_short_life_is_renewed_again_and_again_without_being_asked() {
    let lab = Lab::new();
    let mut short = request("node");
    short.ttl = Duration::from_secs(3);
    let start = std::time::Instant::now();
    let keeper = lab.keeper(vec![short]);
    until(&keeper, "three issuances", |state| state.infos().first().is_some_and(|info| info.generation >= 3)).await;
    // Twice some two seconds: what the CA dates back for other clocks does not count as life.
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(lab.issued(), 3);
}

#[tokio::test]
async fn a_directory_on_a_disk_is_a_condition_and_nothing_is_issued() {
    let lab = Lab::new();
    let keeper = lab.keeper_in(Path::new("/proc/goliath"), vec![request("node")]);
    let state = until(&keeper, "the refusal", |state| state.condition().1 == "VolumeNotInMemory").await;
    assert!(state.condition().2.contains("/proc is not on a tmpfs"), "{:?}", state.condition());
    assert_eq!(lab.issued(), 0);
}

#[tokio::test]
async fn an_issuer_that_is_not_configured_is_a_condition() {
    let lab = Lab::new();
    let mut other = request("node");
    other.issuer = "vault".parse().unwrap();
    let keeper = lab.keeper(vec![other]);
    let state = until(&keeper, "the refusal", |state| state.condition().1 == "UnknownIssuer").await;
    assert!(state.condition().2.contains("add [issuers.vault]"), "{:?}", state.condition());
}

#[tokio::test]
async fn stopping_keeps_the_files_and_removing_leaves_nothing() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node")]);
    until(&keeper, "the certificate", KeeperState::all_present).await;
    keeper.stop().await;
    assert!(lab.directory().join("node/tls.crt").exists());
    assert!(lab.images().exists());
    lab.keeper(vec![request("node")]).remove().await.unwrap();
    assert!(!lab.directory().exists() && !lab.images().exists());
}

#[tokio::test]
async fn each_generation_is_a_disk_of_its_own_and_a_later_agent_writes_none_again() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node")]);
    until(&keeper, "the certificate", KeeperState::all_present).await;
    let first = keeper.state().borrow().disk().unwrap().clone();
    let before = fs::read(&first.path).unwrap();
    keeper.rotate(&[], Duration::from_secs(5)).await.unwrap();
    let second = keeper.state().borrow().disk().unwrap().clone();
    assert!(second.generation > first.generation);
    assert_eq!(fs::read(&first.path).unwrap(), before, "a QEMU may still show it");
    keeper.stop().await;

    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let written = inode(&second.path);
    let keeper = lab.keeper(vec![request("node")]);
    until(&keeper, "the same disk", |state| state.disk() == Some(&second)).await;
    assert_eq!(inode(&second.path), written);
    second.remove_earlier().unwrap();
    assert_eq!(fs::read_dir(lab.images()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_is_a_condition_and_is_tried_again() {
    let lab = Lab::new();
    fs::create_dir_all(lab.images().parent().unwrap()).unwrap();
    fs::write(lab.images(), "in the way").unwrap();
    let keeper = lab.keeper(vec![request("node")]);
    let state = until(&keeper, "the failure", |state| state.condition().1 == "VolumeFailed").await;
    assert!(!state.all_present());
    assert!(state.condition().2.starts_with("the certificate disk is not as it must be: "), "{:?}", state.condition());
    fs::remove_file(lab.images()).unwrap();
    until(&keeper, "the disk", KeeperState::all_present).await;
    assert_eq!(Lab::on_disk(&keeper, "node/tls.crt"), keeper.list()[0].certificate_chain);
}

#[tokio::test]
async fn disks_come_and_go_as_the_guest_wants_them() {
    let lab = Lab::new();
    let keeper = lab.keeper(vec![request("node")]);
    until(&keeper, "the certificate", KeeperState::all_present).await;
    keeper.lay_on_disk(false).await;
    until(&keeper, "no disk", |state| state.disk == DiskState::NotWanted).await;
    assert!(!lab.images().exists());
    keeper.lay_on_disk(true).await;
    until(&keeper, "the disk again", |state| state.all_present() && state.disk().is_some()).await;
    assert_eq!(lab.issued(), 1);
}
