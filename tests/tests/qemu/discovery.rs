//! A guest is found again.

use std::fs;

use goliath_agent::qemu::{
    Discovery, Qmp, QmpLimits, arguments::Listener, discover, is_guest, known_guests, qmp::schema,
};

use crate::host::Host;

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
