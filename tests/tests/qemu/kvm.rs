//! Whether KVM runs Linux here.

use std::{fs, time::Duration};

use goliath_agent::qemu::{Handed, KvmVerdict, MachineConfig, Probed, VcpuAccelerator};

use crate::host::{Host, bare_guest};

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
            if let Ok(running) = host.launcher.launch(guest, Handed::default()).await {
                // One that hangs tells nobody: time is all there is to go by.
                let console = tokio::time::timeout(Duration::from_secs(10), host.wait_for_console(uid, "GUEST-UP"));
                let runs = tokio::select! {
                    outcome = console => outcome.is_ok(),
                    _ = running.process.wait_exit() => false,
                };
                assert!(!runs, "it runs, and the verdict is {verdict}");
            }
        }
        return;
    };
    let guest = MachineConfig { accelerator, ..Host::machine("guest=idle") };
    let running = host.launch(guest).await;
    host.wait_for_console(running.record.uid, "GUEST-UP").await;
}
