//! What the lab itself must keep: it leaves nothing behind.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use goliath_lab::{
    namespace::inside,
    process::{Process, running_in},
    run,
    scratch::{OWNER, Scratch, mounts_below},
    underlay::{Underlay, connect},
};

#[test]
fn dropping_a_scratch_ends_unmounts_and_removes_what_was_made_in_it() {
    let scratch = Scratch::new().unwrap();
    let (path, name) = (scratch.path().to_owned(), scratch.name());
    let underlay = Underlay::new(&name).unwrap();
    let a = underlay.plug("a", [192, 0, 2, 1].into()).unwrap();
    let bound = a.path().to_owned();
    // As a lab that is killed leaves them.
    std::mem::forget((underlay, a));
    let memory = scratch.memory("run").unwrap();
    fs::write(memory.join("log"), "").unwrap();
    let mut child = Command::new("tail").arg("-f").arg(memory.join("log")).stdout(Stdio::null()).spawn().unwrap();
    let process = Process::open(child.id().cast_signed()).unwrap().unwrap();
    drop(scratch);
    assert!(process.wait(Duration::from_secs(1)).unwrap(), "this still runs: {}", process.command);
    assert!(!child.wait().unwrap().success());
    assert!(!path.exists());
    assert_eq!(mounts_below(&path).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(running_in(&path).unwrap().len(), 0);
    assert!(!bound.exists());
}

#[test]
fn what_a_killed_lab_left_is_swept_away_by_the_next() {
    let dead = Scratch::new().unwrap();
    // As if its owner had ended: no process with this number was ever started at that time.
    fs::write(dead.path().join(OWNER), "1 1").unwrap();
    let next = Scratch::new().unwrap();
    assert!(!dead.path().exists());
    assert!(next.path().exists());
}

#[test]
fn a_test_that_fails_leaves_nothing_behind() {
    let (mut directory, mut processes) = (PathBuf::new(), Vec::new());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        run(async |lab| {
            lab.directory().clone_into(&mut directory);
            let host = lab.host("a").start().await?;
            let guest = lab.cluster("blue").over(&[&host]).await?.guest("worker-0").on(&host).apply().await?;
            guest.until_running().await?;
            processes = host.guest_processes().await?;
            anyhow::bail!("as it shall")
        });
    }));
    assert!(outcome.is_err());
    assert!(!processes.is_empty(), "the guest has no process");
    for process in processes {
        assert!(process.wait(Duration::from_secs(1)).unwrap(), "this still runs: {}", process.command);
    }
    assert!(!directory.exists());
    assert_eq!(mounts_below(&directory).unwrap(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn hosts_reach_each_other_and_the_underlay_through_the_switch() {
    let scratch = Scratch::new().unwrap();
    let underlay = Underlay::new(&scratch.name()).unwrap();
    let a = underlay.plug("a", [192, 0, 2, 1].into()).unwrap();
    let b = underlay.plug("b", [192, 0, 2, 2].into()).unwrap();
    for (server, address) in [(b.path(), [192, 0, 2, 2].into()), (underlay.namespace(), Underlay::ADDRESS)] {
        let address = SocketAddr::from((address, 7));
        let listener = inside(server, || Ok(std::net::TcpListener::bind(address)?)).unwrap();
        let stream = connect(a.path(), address).await.unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(stream.local_addr().unwrap(), peer);
    }
}
