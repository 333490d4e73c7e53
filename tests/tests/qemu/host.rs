//! Where a test's QEMUs run, and how it waits for them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use goliath_agent::{
    config::QemuConfig,
    qemu::{
        BootMethod, GuestPaths, Handed, Launcher, MachineConfig, Process, ProcessRecord, Qmp, QmpEvent, Running,
        VcpuAccelerator, qmp::schema,
    },
    spec::{ByteSize, GuestUid},
};
use goliath_lab::bare_guest::BareGuest;
use tokio::sync::watch;

/// Whom QEMU runs as in tests: a user that every Debian has.
const USER: &str = "nobody";
pub(crate) const USER_ID: &str = "65534";

/// A host's directories, and a promise that no QEMU in them outlives the test.
pub(crate) struct Host {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) launcher: Launcher,
}

impl Host {
    pub(crate) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests start confined processes: run them as root");
        let directory = tempfile::tempdir().unwrap();
        let launcher = Self::launcher(directory.path());
        Self { directory, launcher }
    }

    /// As an agent makes it when it starts; another one is the agent after a restart.
    pub(crate) fn launcher(directory: &Path) -> Launcher {
        let config = QemuConfig { user: USER.to_owned(), ..QemuConfig::default() };
        let shim = PathBuf::from(env!("CARGO_BIN_EXE_launch-shim"));
        Launcher::new(&config, &directory.join("run"), &directory.join("state"), shim).unwrap()
    }

    pub(crate) fn machine(wishes: &str) -> MachineConfig {
        let guest = bare_guest();
        MachineConfig {
            uid: uuid::Uuid::new_v4().to_string().parse().unwrap(),
            generation: 1.try_into().unwrap(),
            cluster: "acme".parse().unwrap(),
            name: "worker-0".parse().unwrap(),
            vcpus: 1,
            memory: ByteSize::mib(192),
            accelerator: VcpuAccelerator::Tcg,
            cpu_model: None,
            boot: BootMethod::Kernel {
                kernel: guest.kernel.clone(),
                initrd: Some(guest.initrd.clone()),
                command_line: format!("console=ttyS0 quiet panic=-1 {wishes}"),
            },
            root_disk: None,
            data_disks: Vec::new(),
            seed: None,
            network: None,
            certificates: None,
            start_paused: false,
        }
    }

    pub(crate) fn paused() -> MachineConfig {
        MachineConfig { start_paused: true, ..Self::machine("guest=idle") }
    }

    pub(crate) fn paths(&self, uid: GuestUid) -> GuestPaths {
        self.launcher.paths(uid)
    }

    pub(crate) async fn launch(&self, machine: MachineConfig) -> Running {
        self.launcher.launch(machine, Handed::default()).await.unwrap()
    }

    pub(crate) async fn wait_for_console(&self, uid: GuestUid, text: &str) -> String {
        let path = self.paths(uid).console_log();
        wait_for(text, || {
            let log = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            log.contains(text).then_some(log)
        })
        .await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.directory.path().join("run/guests")).into_iter().flatten().flatten() {
            let Ok(text) = fs::read(entry.path().join("process.json")) else { continue };
            let Ok(record) = serde_json::from_slice::<ProcessRecord>(&text) else { continue };
            if let Ok(process) = Process::open(record.pid, record.start_time) {
                process.kill().unwrap();
            }
        }
    }
}

pub(crate) fn bare_guest() -> &'static BareGuest {
    static GUEST: OnceLock<BareGuest> = OnceLock::new();
    GUEST.get_or_init(|| BareGuest::get().unwrap())
}

/// Polls what has no event to wait for, such as a log that QEMU writes.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_mins(2);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what:?} did not come within 2 min");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn status_of(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Takes QEMU's events until one gives something.
pub(crate) async fn wait_for_event<T>(running: &mut Running, mut look: impl FnMut(&schema::Event) -> Option<T>) -> T {
    loop {
        if let QmpEvent::Known(event) = running.events.recv().await.unwrap()
            && let Some(found) = look(&event)
        {
            return found;
        }
    }
}

/// QMP that stays, for what outlives connections.
pub(crate) fn connected(running: &Running) -> watch::Receiver<Option<Qmp>> {
    watch::Sender::new(Some(running.qmp.clone())).subscribe()
}
