//! The QEMU layer against the real QEMU: confined, alone with its uid, found again, ended by the contract.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test fails by a panic

use std::{
    fs::{self, File},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use goliath_agent::{
    certs::{Virtiofsd, VirtiofsdConfig},
    qemu::{CertificateVolume, DiskFormat, Firmware, NetworkDevice, RootDiskFiles, SeedDevice},
    spec::DataDisk,
    volume::{Base, data_disk, root_disk},
};
use goliath_agent::{
    config::QemuConfig,
    observed::ShutdownStep,
    qemu::{
        BootMethod, BootSignal, BootWatch, Console, ConsoleLog, Discovery, GuestPaths, Handed, KvmVerdict, LaunchError,
        Launcher, MachineConfig, Probed, Process, ProcessExit, ProcessRecord, Qmp, QmpError, QmpEvent, QmpLimits,
        Running, ShutdownPlan, VcpuAccelerator, arguments::Listener, discover, is_guest, known_guests, qmp::schema,
        shut_down,
    },
    spec::{ByteSize, GuestUid},
};
use goliath_lab::{bare_guest::BareGuest, program};
use tokio::sync::watch;

/// Whom QEMU runs as in tests: a user that every Debian has.
const USER: &str = "nobody";
const USER_ID: &str = "65534";

/// A host's directories, and a promise that no QEMU in them outlives the test.
struct Host {
    directory: tempfile::TempDir,
    launcher: Launcher,
}

impl Host {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests start confined processes: run them as root");
        let directory = tempfile::tempdir().unwrap();
        let launcher = Self::launcher(directory.path());
        Self { directory, launcher }
    }

    /// As an agent makes it when it starts; another one is the agent after a restart.
    fn launcher(directory: &Path) -> Launcher {
        let config = QemuConfig { user: USER.to_owned(), ..QemuConfig::default() };
        let shim = PathBuf::from(env!("CARGO_BIN_EXE_launch-shim"));
        Launcher::new(&config, &directory.join("run"), &directory.join("state"), shim).unwrap()
    }

    fn machine(wishes: &str) -> MachineConfig {
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

    fn paused() -> MachineConfig {
        MachineConfig { start_paused: true, ..Self::machine("guest=idle") }
    }

    fn paths(&self, uid: GuestUid) -> GuestPaths {
        self.launcher.paths(uid)
    }

    async fn launch(&self, machine: MachineConfig) -> Running {
        self.launcher.launch(machine, Handed::default()).await.unwrap()
    }

    async fn wait_for_console(&self, uid: GuestUid, text: &str) -> String {
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

fn bare_guest() -> &'static BareGuest {
    static GUEST: OnceLock<BareGuest> = OnceLock::new();
    GUEST.get_or_init(|| BareGuest::get().unwrap())
}

/// Polls what has no event to wait for, such as a log that QEMU writes.
async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_mins(2);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what:?} did not come within 2 min");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn connected(running: &Running) -> watch::Receiver<Option<Qmp>> {
    watch::Sender::new(Some(running.qmp.clone())).subscribe()
}

fn status_of(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_confined() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    let pid = running.process.pid();

    let ids = [USER_ID; 4].join(" ");
    assert_eq!(status_of(pid, "Uid"), ids);
    assert_eq!(status_of(pid, "Gid"), ids);
    assert_eq!(status_of(pid, "Groups"), "");
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    assert_eq!(status_of(pid, "Seccomp"), "2", "a filter is on");
    assert_eq!(status_of(pid, "CapEff"), "0000000000000000");

    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let devices: Vec<&str> = devices.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    assert_eq!(devices, ["lo"], "QEMU sees no network");
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    assert_ne!(namespace(&pid.to_string()), namespace("self"));

    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "{}", String::from_utf8_lossy(&environment));
    assert_eq!(running.qmp.execute(schema::query_uuid {}).await.unwrap().UUID, running.record.uid.to_string());
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_guest_never_runs_twice() {
    let host = Host::new();
    let machine = Host::paused();
    let first = host.launch(machine.clone()).await;

    // A second agent, even, that knows nothing of the first.
    let second = Host::launcher(host.directory.path());
    for _ in 0..3 {
        let refused = second.launch(machine.clone(), Handed::default()).await.unwrap_err();
        assert!(matches!(refused, LaunchError::AlreadyRunning { uid, .. } if uid == machine.uid), "{refused}");
    }
    let status = first.qmp.execute(schema::query_status {}).await.unwrap();
    assert!(!status.running, "the first one was not disturbed");

    first.process.kill().unwrap();
    assert_eq!(first.process.wait_exit().await, ProcessExit::Signal(9));
    second.launch(machine, Handed::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_refuses_to_start_says_why() {
    let host = Host::new();
    let machine = MachineConfig { cpu_model: Some("no-such-model".to_owned()), ..Host::paused() };
    let uid = machine.uid;
    let error = host.launcher.launch(machine.clone(), Handed::default()).await.unwrap_err();
    assert!(error.to_string().contains("unable to find CPU model 'no-such-model'"), "{error}");
    assert!(matches!(error, LaunchError::Exited { exit: ProcessExit::Code(1), .. }), "{error:?}");

    // Nothing holds the guest back from a better try.
    let better = MachineConfig { cpu_model: None, ..machine };
    assert_eq!(host.launch(better).await.record.uid, uid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_and_starts_nothing() {
    let host = Host::new();
    let mut machine = Host::paused();
    machine.boot =
        BootMethod::Kernel { kernel: "/nonexistent/vmlinuz".into(), initrd: None, command_line: String::new() };
    let error = host.launcher.launch(machine.clone(), Handed::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot open /nonexistent/vmlinuz");

    let secret = host.directory.path().join("vmlinuz");
    fs::write(&secret, "").unwrap();
    let set_mode = |mode| fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    set_mode(0o600);
    machine.boot = BootMethod::Kernel { kernel: secret.clone(), initrd: None, command_line: String::new() };
    let error = host.launcher.launch(machine.clone(), Handed::default()).await.unwrap_err();
    assert!(matches!(error, LaunchError::Unreadable { mode: 0o600, .. }), "{error}");
    assert!(!host.paths(machine.uid).process_record().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_qemu_is_an_error_of_that_guest_and_delays_no_other() {
    let host = Host::new();
    let silent = host.launch(Host::paused()).await;
    let other = host.launch(Host::paused()).await;
    let stopped = nix::unistd::Pid::from_raw(silent.process.pid());
    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGSTOP).unwrap();

    let limit = Duration::from_secs(1);
    let asking = tokio::spawn({
        let qmp = silent.qmp.clone();
        async move { qmp.execute_within(schema::query_status {}, limit).await }
    });
    let began = Instant::now();
    for _ in 0..100 {
        other.qmp.execute(schema::query_status {}).await.unwrap();
    }
    assert!(began.elapsed() < limit, "the other one took {:?} for 100 answers", began.elapsed());
    assert!(matches!(asking.await.unwrap(), Err(QmpError::Timeout { command: "query-status", .. })));

    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGCONT).unwrap();
    let uuid = silent.qmp.execute(schema::query_uuid {}).await.unwrap();
    assert_eq!(uuid.UUID, silent.record.uid.to_string(), "the late answer was not taken for this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_a_shutdown_and_a_reset_are_told_apart() {
    let host = Host::new();
    for (wish, expected) in [
        ("guest=panic", schema::ShutdownCause::guest_panic),
        ("guest=off", schema::ShutdownCause::guest_shutdown),
        // A kernel that has no driver yet to tell of its panic only resets.
        ("rdinit=/nonexistent panic=-1", schema::ShutdownCause::guest_reset),
    ] {
        let mut running = host.launch(Host::machine(wish)).await;
        let mut panicked = false;
        let cause = loop {
            match running.events.recv().await.unwrap() {
                QmpEvent::Known(event) => match *event {
                    schema::Event::SHUTDOWN { data, .. } => break data.reason,
                    schema::Event::GUEST_PANICKED { .. } => panicked = true,
                    _ => {}
                },
                QmpEvent::Other { .. } => {}
            }
        };
        assert_eq!(cause, expected, "{wish}");
        assert_eq!(panicked, wish == "guest=panic");
        assert_eq!(running.process.wait_exit().await, ProcessExit::Code(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_found_again_by_an_agent_that_knows_nothing_of_it() {
    let host = Host::new();
    let machine = Host::paused();
    let uid = machine.uid;
    let first = host.launch(machine.clone()).await;
    let pid = first.process.pid();
    // All that the first agent knew and held is gone, as after kill -9.
    drop(first);

    let runtime = host.directory.path().join("run");
    assert_eq!(known_guests(&runtime).unwrap(), [uid]);
    let paths = host.paths(uid);
    let Discovery::Running(process, record) = discover(&paths, uid).await.unwrap() else { panic!("it was not found") };
    assert_eq!((process.pid(), record.generation), (pid, machine.generation));
    let (qmp, _events) = Qmp::connect(&paths.socket(Listener::Qmp), QmpLimits::default()).await.unwrap();
    assert!(is_guest(&qmp, uid).await.unwrap());
    assert!(!is_guest(&qmp, Host::paused().uid).await.unwrap());

    // A record that says something else makes the QEMU a stranger, and nobody touches it.
    let recorded = fs::read(paths.process_record()).unwrap();
    fs::write(paths.process_record(), "{}").unwrap();
    match discover(&paths, uid).await.unwrap() {
        Discovery::Stranger { pids, .. } => assert_eq!(pids, [pid]),
        other => panic!("{other:?}"),
    }
    fs::write(paths.process_record(), recorded).unwrap();
    assert!(!qmp.execute(schema::query_status {}).await.unwrap().running);

    process.kill().unwrap();
    process.wait_exit().await;
    assert!(matches!(discover(&paths, uid).await.unwrap(), Discovery::None));
}

async fn end(host: &Host, running: &Running, grace: Duration) -> (ShutdownStep, Duration) {
    let began = Instant::now();
    let plan = ShutdownPlan { started_at: jiff::Timestamp::now(), grace };
    let socket = host.paths(running.record.uid).socket(Listener::GuestAgent);
    let end = shut_down(&running.process, Some(&running.qmp), &socket, plan).await.unwrap();
    (end.step, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hears_the_power_button_ends_by_it() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=button")).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    let (step, _) = end(&host, &running, Duration::from_mins(1)).await;
    assert_eq!(step, ShutdownStep::PowerButton);
    host.wait_for_console(running.record.uid, "BUTTON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_deaf_to_the_button_ends_by_its_agent() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=agent")).await;
    let uid = running.record.uid;
    let mut boot = BootWatch::start(host.paths(uid), running.process.clone(), connected(&running));
    let booted = tokio::time::timeout(Duration::from_mins(2), boot.booted()).await.unwrap();
    assert_eq!(booted.signal, BootSignal::GuestAgent);
    let (step, _) = end(&host, &running, Duration::from_secs(20)).await;
    assert_eq!(step, ShutdownStep::GuestAgent);
    host.wait_for_console(uid, "SHUTDOWN-BY-AGENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_agent_is_asked_when_qmp_answers_late() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=agent")).await;
    let qmp = watch::Sender::new(None);
    let mut boot = BootWatch::start(host.paths(running.record.uid), running.process.clone(), qmp.subscribe());
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    assert!(tokio::time::timeout(Duration::from_secs(1), boot.booted()).await.is_err());
    qmp.send_replace(Some(running.qmp.clone()));
    let booted = tokio::time::timeout(Duration::from_mins(2), boot.booted()).await.unwrap();
    assert_eq!(booted.signal, BootSignal::GuestAgent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_deaf_to_all_ends_by_quit_within_its_grace_time() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    let (step, took) = end(&host, &running, Duration::from_secs(3)).await;
    assert_eq!(step, ShutdownStep::Quit);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_qemu_is_killed_when_the_grace_time_is_over() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    let pid = nix::unistd::Pid::from_raw(running.process.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let (step, took) = end(&host, &running, Duration::from_secs(4)).await;
    assert_eq!(step, ShutdownStep::Kill);
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(running.process.wait_exit().await, ProcessExit::Signal(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_never_ran_is_not_waited_for() {
    let host = Host::new();
    let running = host.launch(Host::paused()).await;
    let (step, took) = end(&host, &running, Duration::from_mins(10)).await;
    assert_eq!(step, ShutdownStep::Quit);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_goes_on_where_the_agent_before_left_it() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=idle")).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
    let socket = host.paths(running.record.uid).socket(Listener::GuestAgent);
    let grace = Duration::from_mins(10);
    let long_ago = jiff::Timestamp::now() - Duration::from_secs(599);
    let plan = ShutdownPlan { started_at: long_ago, grace };
    let end = tokio::time::timeout(Duration::from_secs(30), shut_down(&running.process, None, &socket, plan));
    assert_eq!(end.await.unwrap().unwrap().step, ShutdownStep::Quit, "without QMP by SIGTERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_said_it_is_up_while_no_agent_listened_is_heard() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=ready")).await;
    let (uid, paths) = (running.record.uid, host.paths(running.record.uid));
    let log = host.wait_for_console(uid, "GUEST-UP").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!log.contains("NOTIFIED"), "it waits for somebody to listen");

    let mut boot = BootWatch::start(paths.clone(), running.process.clone(), connected(&running));
    let booted = tokio::time::timeout(Duration::from_secs(30), boot.booted()).await.unwrap();
    assert_eq!(booted.signal, BootSignal::Notified);
    host.wait_for_console(uid, "NOTIFIED").await;
    drop(boot);

    // It says so once; the next agent reads what this one saw.
    let mut again = BootWatch::start(paths, running.process.clone(), connected(&running));
    let remembered = tokio::time::timeout(Duration::from_secs(5), again.booted()).await.unwrap();
    assert_eq!(remembered, booted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_shared_both_ways_and_logged_without_anybody_there() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=echo")).await;
    let uid = running.record.uid;
    host.wait_for_console(uid, "GUEST-UP").await;

    let console = Console::new(host.paths(uid).socket(Listener::Console));
    let (mut one, mut two) = (console.attach().await.unwrap(), console.attach().await.unwrap());
    assert!(one.write("hello\n".into()).await);
    for session in [&mut one, &mut two] {
        let mut seen = String::new();
        while !seen.contains("ECHO hello") {
            seen.push_str(&String::from_utf8_lossy(&session.read().await.unwrap()));
        }
    }
    host.wait_for_console(uid, "ECHO hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_floods_its_console_fills_no_disk() {
    let host = Host::new();
    let running = host.launch(Host::machine("guest=noise")).await;
    let uid = running.record.uid;
    host.wait_for_console(uid, "NOISE").await;
    let path = host.paths(uid).console_log();
    let log = ConsoleLog::new(path.clone(), ByteSize::bytes(64 << 10));
    let bounding = tokio::spawn({
        let log = log.clone();
        async move { log.keep_bounded().await }
    });
    let mut reader = log.reader(None).unwrap();
    let mut read = 0;
    let written = || fs::metadata(&path).map(|metadata| metadata.len()).unwrap();
    while written() < 512 << 10 {
        let chunk = tokio::time::timeout(Duration::from_secs(30), reader.follow()).await.unwrap().unwrap().unwrap();
        read += chunk.len();
        assert!(!chunk.contains(&0), "a hole was read");
    }
    assert!(read > 128 << 10, "a follower that keeps up sees it all: {read}");
    running.process.kill().unwrap();
    running.process.wait_exit().await;
    wait_for("the last trim", || {
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap());
        (blocks * 512 <= 96 << 10).then_some(())
    })
    .await;
    assert!(!bounding.is_finished());
    bounding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_runs_is_told_from_one_that_does_not() {
    let host = Host::new();
    let kernel = &bare_guest().kernel;
    assert_eq!(host.launcher.probe(kernel, VcpuAccelerator::Tcg).await.unwrap(), Probed::Ran);

    // Its first half: the header is there, and what it unpacks is not.
    let broken = host.directory.path().join("broken");
    let mut bytes = fs::read(kernel).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0);
    fs::write(&broken, bytes).unwrap();
    let probed = host.launcher.probe(&broken, VcpuAccelerator::Tcg).await.unwrap();
    assert!(matches!(probed, Probed::Stopped(_)), "{probed:?}");

    fs::write(&broken, "no kernel at all").unwrap();
    let probed = host.launcher.probe(&broken, VcpuAccelerator::Tcg).await.unwrap();
    assert!(matches!(probed, Probed::Refused(_)), "{probed:?}");
    let left = fs::read_dir(host.directory.path().join("run/guests")).unwrap().count();
    assert_eq!(left, 0, "the probe leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn kvm_is_judged_by_what_it_does_and_remembered() {
    let host = Host::new();
    assert_eq!(host.launcher.known_kvm(), None);
    let verdict = host.launcher.try_kvm(Some(&bare_guest().kernel)).await.unwrap();
    println!("{verdict}");
    let again = Host::launcher(host.directory.path());
    assert_eq!(again.known_kvm().as_ref(), Some(&verdict), "the next agent does not try again");

    // A guest agrees.
    let Some(accelerator) = verdict.accelerator() else {
        if matches!(verdict, KvmVerdict::Fails { .. }) {
            let accelerator = VcpuAccelerator::Kvm { hide_arch_capabilities: true };
            let guest = MachineConfig { accelerator, ..Host::machine("guest=idle") };
            let uid = guest.uid;
            if host.launcher.launch(guest, Handed::default()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            let console = fs::read_to_string(host.paths(uid).console_log()).unwrap_or_default();
            assert!(!console.contains("GUEST-UP"), "it runs, and the verdict is {verdict}");
        }
        return;
    };
    let guest = MachineConfig { accelerator, ..Host::machine("guest=idle") };
    let running = host.launch(guest).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
}

/// A tap with a vnet header in a namespace that nobody else is in.
fn tap() -> OwnedFd {
    nix::ioctl_write_ptr_bad!(set_interface, nix::libc::TUNSETIFF, nix::libc::ifreq);
    let made = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let tap = OwnedFd::from(File::options().read(true).write(true).open("/dev/net/tun").unwrap());
        // SAFETY: an ifreq is plain bytes, for which zeros are a value; the call reads it and keeps nothing of it.
        #[allow(unsafe_code)]
        unsafe {
            let mut request: nix::libc::ifreq = std::mem::zeroed();
            let flags = nix::libc::IFF_TAP | nix::libc::IFF_NO_PI | nix::libc::IFF_VNET_HDR;
            request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
            set_interface(tap.as_raw_fd(), &raw const request).unwrap();
        }
        tap
    });
    made.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_the_devices_that_it_was_given() {
    let host = Host::new();
    let directory = host.directory.path();
    let base = directory.join("base.raw");
    fs::write(&base, b"BASEDISK".repeat(1 << 14)).unwrap();
    let image = Base { path: &base, format: DiskFormat::Raw, size: ByteSize::bytes(1 << 17) };
    let overlay = root_disk(directory, image, Some(ByteSize::GIB), Path::new("/nonexistent")).unwrap();
    let disk = |serial: &str, mib| DataDisk { serial: serial.parse().unwrap(), size: ByteSize::mib(mib) };
    let data_disks: Vec<_> =
        [disk("etcd", 8), disk("kubelet", 16)].iter().map(|disk| data_disk(directory, disk).unwrap()).collect();
    let certificates = directory.join("certs/node");
    fs::create_dir_all(&certificates).unwrap();
    fs::write(certificates.join("tls.crt"), "FROM-VAULT").unwrap();
    let virtiofsd = VirtiofsdConfig {
        program: program::virtiofsd().unwrap(),
        directory: directory.join("certs"),
        runtime: directory.join("run"),
    };
    let (_virtiofsd, connection) = Virtiofsd::launch(virtiofsd).await.unwrap();

    let machine = MachineConfig {
        root_disk: Some(RootDiskFiles { overlay, base, base_format: DiskFormat::Raw }),
        data_disks: data_disks.clone(),
        seed: Some(SeedDevice::Ignition(r#"{"ignition":{"version":"3.4.0"}}"#.to_owned())),
        network: Some(NetworkDevice { mac: "06:12:34:56:78:9a".parse().unwrap(), mtu: Some(1450.try_into().unwrap()) }),
        certificates: Some(CertificateVolume::Virtiofs),
        ..Host::machine("guest=show guest=write")
    };
    let uid = machine.uid;
    let handed = Handed { tap: Some(tap()), certificates: Some(connection) };
    let running = host.launcher.launch(machine, handed).await.unwrap();
    let console = host.wait_for_console(uid, "WRITTEN").await;
    for line in [
        "NET eth0 06:12:34:56:78:9a 1450 0000:00:02.0",
        "DISK root 2097152 0 0000:00:03.0",
        "DISK etcd 16384 0 0000:00:10.0",
        "DISK kubelet 32768 0 0000:00:10.1",
        r#"DOCUMENT org.flatcar-linux/config {"ignition":{"version":"3.4.0"}}"#,
        r#"DOCUMENT com.coreos/config {"ignition":{"version":"3.4.0"}}"#,
        "ROOT BASEDISK",
        "CERTIFICATES FROM-VAULT touch: /tmp/new: Read-only file system",
    ] {
        assert!(console.contains(line), "{line:?} is missing in:\n{console}");
    }
    assert!(fs::read(&data_disks[0].path).unwrap().starts_with(b"written by the guest\n"));
    running.process.kill().unwrap();
    running.process.wait_exit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_needs_and_is_not_handed_is_named() {
    let host = Host::new();
    let network = NetworkDevice { mac: "06:12:34:56:78:9a".parse().unwrap(), mtu: None };
    let machine = MachineConfig { network: Some(network), ..Host::paused() };
    let error = host.launcher.launch(machine, Handed::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the launch was given no tap");
    let machine = MachineConfig { certificates: Some(CertificateVolume::Virtiofs), ..Host::paused() };
    let error = host.launcher.launch(machine, Handed::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "the launch was given no socket of the certificate volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_that_finds_nothing_to_boot_says_so_on_the_console() {
    let host = Host::new();
    let machine = |firmware| MachineConfig { boot: BootMethod::Firmware(firmware), ..Host::machine("") };
    let seabios = host.launch(machine(Firmware::SeaBios)).await;
    host.wait_for_console(seabios.record.uid, "No bootable device").await;
    let ovmf = host.launch(machine(Firmware::Image("/usr/share/ovmf/OVMF.fd".into()))).await;
    host.wait_for_console(ovmf.record.uid, "BdsDxe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guests_share_a_base_of_either_format_and_start_together() {
    let host = Host::new();
    let directory = host.directory.path();
    let mut machines = Vec::new();
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let path = directory.join(format.as_str());
        let size = ByteSize::mib(64);
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", format.as_str()])
            .arg(&path)
            .arg(size.get().to_string())
            .status();
        assert!(made.unwrap().success());
        for number in 0..3 {
            let own = directory.join(format!("{}-{number}", format.as_str()));
            fs::create_dir(&own).unwrap();
            let overlay = root_disk(&own, Base { path: &path, format, size }, None, Path::new("/nonexistent")).unwrap();
            let files = RootDiskFiles { overlay, base: path.clone(), base_format: format };
            machines.push(MachineConfig { root_disk: Some(files), ..Host::paused() });
        }
    }
    let launches = machines.into_iter().map(|machine| host.launch(machine));
    let running = futures::future::join_all(launches).await;
    for guest in &running {
        let nodes = guest.qmp.execute(schema::query_named_block_nodes { flat: Some(true) }).await.unwrap();
        assert!(nodes.iter().any(|node| node.node_name.as_deref() == Some("base") && node.ro));
    }
}
