//! The serial console and its log.

use std::{fs, time::Duration};

use goliath_agent::{
    qemu::{BootMethod, Console, ConsoleLog, Firmware, MachineConfig, arguments::Listener},
    spec::ByteSize,
};

use crate::host::{Host, wait_for};

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
async fn firmware_that_finds_nothing_to_boot_says_so_on_the_console() {
    let host = Host::new();
    let machine = |firmware| MachineConfig { boot: BootMethod::Firmware(firmware), ..Host::machine("") };
    let seabios = host.launch(machine(Firmware::SeaBios)).await;
    host.wait_for_console(seabios.record.uid, "No bootable device").await;
    let ovmf = host.launch(machine(Firmware::Image("/usr/share/ovmf/OVMF.fd".into()))).await;
    host.wait_for_console(ovmf.record.uid, "BdsDxe").await;
}
