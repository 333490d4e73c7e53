use std::convert::Infallible;

use super::*;
use crate::spec::test::guest;

async fn put_guest(ledger: &Ledger, record: GuestRecord) {
    ledger.update(move |_| Ok::<_, Infallible>((vec![Change::PutGuest(Arc::new(record))], ()))).await.unwrap();
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let record = GuestRecord { spec: guest("worker-0"), deleting: false };
    put_guest(&Ledger::open(directory.path()).unwrap(), record.clone()).await;

    let reopened = Ledger::open(directory.path()).unwrap();
    assert_eq!(*reopened.snapshot().guests[&record.spec.uid], record);

    reopened.forget_guest(record.spec.uid).await.unwrap();
    assert!(Ledger::open(directory.path()).unwrap().snapshot().guests.is_empty());
}

#[tokio::test]
async fn followers_see_a_change_once_it_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let mut guests = ledger.guests();
    let record = GuestRecord { spec: guest("worker-0"), deleting: false };
    put_guest(&ledger, record.clone()).await;
    guests.changed().await.unwrap();
    assert!(guests.borrow().contains_key(&record.spec.uid));
    assert!(directory.path().join("guests").join(format!("{}.json", record.spec.uid)).exists());
}

#[tokio::test]
async fn a_refused_update_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let refused = ledger.update(|_| Err::<(Vec<Change>, ()), _>("no room")).await;
    assert!(matches!(refused, Err(UpdateError::Refused("no room"))));
    assert_eq!(fs::read_dir(directory.path().join("guests")).unwrap().count(), 0);
}

#[tokio::test]
async fn no_update_comes_between_a_decision_and_its_write() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let raced = (0..16).map(|index| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let decide = move |snapshot: &Snapshot| {
                if snapshot.guests.len() < 4 {
                    let record = GuestRecord { spec: guest(&format!("worker-{index}")), deleting: false };
                    Ok((vec![Change::PutGuest(Arc::new(record))], ()))
                } else {
                    Err(())
                }
            };
            ledger.update(decide).await.is_ok()
        })
    });
    let accepted = futures::future::join_all(raced).await.into_iter().filter(|accepted| *accepted.as_ref().unwrap());
    assert_eq!(accepted.count(), 4);
    assert_eq!(ledger.snapshot().guests.len(), 4);
}

#[tokio::test]
async fn an_unreadable_record_is_told_of_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let record = GuestRecord { spec: guest("worker-0"), deleting: false };
    let ledger = Ledger::open(directory.path()).unwrap();
    put_guest(&ledger, record.clone()).await;
    let path = directory.path().join("guests").join(format!("{}.json", record.spec.uid));
    fs::write(&path, b"{ torn").unwrap();

    let reopened = Ledger::open(directory.path()).unwrap();
    assert_eq!(reopened.unreadable().len(), 1);
    assert!(reopened.snapshot().guests.is_empty());
    let overwritten = reopened.update(|_| Ok::<_, Infallible>((vec![Change::PutGuest(Arc::new(record))], ()))).await;
    assert!(matches!(overwritten, Err(UpdateError::Unreadable { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"{ torn");
}

#[test]
fn a_write_that_a_crash_cut_short_is_undone() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("guests")).unwrap();
    let torn = directory.path().join("guests/11111111-2222-3333-4444-555555555555.json.writing");
    fs::write(&torn, b"{ to").unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    assert!(ledger.unreadable().is_empty());
    assert!(!torn.exists());
}
