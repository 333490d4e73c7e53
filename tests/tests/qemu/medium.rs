//! The medium of the certificate drive, changed while QEMU runs.

use std::{collections::BTreeSet, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf, task::Poll};

use goliath_agent::qemu::{
    CertificateDevice, CertificateMedium, MachineConfig, Qmp, QmpLimits, Running, arguments::Listener, show_medium,
};

use crate::host::Host;

/// Polls a future so often and then drops it, as the end of the agent would there; none: it was not done by then.
async fn dropped_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

// On one thread, so that each answer is a poll of its own.
#[tokio::test]
async fn a_change_of_the_certificate_medium_that_ends_anywhere_is_finished_by_the_next_one() {
    let host = Host::new();
    let images = host.directory.path().join("images");
    fs::create_dir(&images).unwrap();
    let image = |generation: u64| {
        let path = images.join(format!("{generation}.img"));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(&vec![0; 1 << 20]).unwrap();
        CertificateMedium { generation, path }
    };
    let open_in = |pid: i32| -> Vec<PathBuf> {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets = links.filter_map(|link| fs::read_link(link.path()).ok());
        let open: BTreeSet<PathBuf> = targets.filter(|target| target.starts_with(&images)).collect();
        open.into_iter().collect()
    };
    let mut old = image(1);
    let machine =
        MachineConfig { certificates: Some(CertificateDevice::Disk(old.clone())), ..Host::machine("guest=idle") };
    let socket = host.paths(machine.uid).socket(Listener::Qmp);
    let Running { process, record, qmp, events } = host.launch(machine).await;
    assert_eq!(open_in(record.pid), std::slice::from_ref(&old.path));
    drop((qmp, events));

    let connect = || async { Qmp::connect(&socket, QmpLimits::default()).await.unwrap() };
    let mut ended_early = 0;
    for polls in 0.. {
        let new = image(old.generation + 1);
        let agent = connect().await;
        let done = dropped_after(polls, show_medium(&agent.0, &new)).await;
        drop(agent);
        let (next_agent, _events) = connect().await;
        let open = open_in(record.pid);
        assert!(open.contains(&old.path) || open.contains(&new.path), "the drive was left empty: {open:?}");
        show_medium(&next_agent, &new).await.unwrap();
        assert_eq!(open_in(record.pid), std::slice::from_ref(&new.path));
        // Once more changes nothing.
        show_medium(&next_agent, &new).await.unwrap();
        assert_eq!(open_in(record.pid), std::slice::from_ref(&new.path));
        old = new;
        if let Some(outcome) = done {
            outcome.unwrap();
            break;
        }
        ended_early += 1;
    }
    assert!(ended_early >= 5, "it ended in the middle only {ended_early} times");
    process.kill().unwrap();
    process.wait_exit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_medium_that_cannot_be_read_leaves_the_old_one() {
    let host = Host::new();
    let path = host.directory.path().join("1.img");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let first = CertificateMedium { generation: 1, path };
    let machine = MachineConfig { certificates: Some(CertificateDevice::Disk(first.clone())), ..Host::paused() };
    let running = host.launch(machine).await;
    let missing = CertificateMedium { generation: 2, path: host.directory.path().join("2.img") };
    let error = show_medium(&running.qmp, &missing).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot open the certificate disk "), "{error}");
    show_medium(&running.qmp, &first).await.unwrap();
    running.process.kill().unwrap();
    running.process.wait_exit().await;
}
