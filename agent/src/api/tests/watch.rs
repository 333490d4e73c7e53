use goliath_proto::agent::v1::{self as pb, watch_guests_response::Kind};
use tonic::{Code, Status, Streaming};

use super::served::{Served, reason, soon};
use crate::spec::{GuestSpec, test::guest};

async fn watch(served: &Served, revision: u64, cluster: &str) -> Result<Streaming<pb::WatchGuestsResponse>, Status> {
    let request = pb::WatchGuestsRequest { revision, cluster: cluster.to_owned() };
    served.guests().watch_guests(request).await.map(tonic::Response::into_inner)
}

async fn next(stream: &mut Streaming<pb::WatchGuestsResponse>) -> (Kind, String, u64) {
    let event = soon(stream.message()).await.unwrap().expect("the watch goes on");
    let name = event.guest.as_ref().and_then(|guest| guest.spec.as_ref()).map(|spec| spec.name.clone());
    (event.kind(), name.unwrap_or_default(), event.revision)
}

#[tokio::test]
async fn a_watch_tells_what_is_there_then_every_change_and_is_resumed_without_a_gap() {
    let served = Served::start().await;
    let (a, b) = (guest("a"), guest("b"));
    served.apply(&a).await.unwrap();
    served.publish(&a, 0);
    let mut stream = watch(&served, 0, "").await.unwrap();
    let (kind, name, start) = next(&mut stream).await;
    assert_eq!((kind, name.as_str()), (Kind::Added, "a"));
    assert_eq!(next(&mut stream).await, (Kind::Bookmark, String::new(), start));

    served.publish(&a, 1);
    assert_eq!(next(&mut stream).await, (Kind::Modified, "a".to_owned(), start + 1));
    drop(stream);

    served.apply(&b).await.unwrap();
    served.publish(&b, 0);
    served.publish(&a, 2);
    served.observed.forget_guest(a.uid);
    let mut resumed = watch(&served, start + 1, "").await.unwrap();
    for (number, (kind, name)) in [(Kind::Added, "b"), (Kind::Modified, "a"), (Kind::Deleted, "a")].iter().enumerate() {
        assert_eq!(next(&mut resumed).await, (*kind, (*name).to_owned(), start + 2 + number as u64));
    }
}

#[tokio::test]
async fn a_list_gives_the_revision_to_watch_from() {
    let served = Served::start().await;
    let spec = guest("a");
    served.apply(&spec).await.unwrap();
    served.publish(&spec, 0);
    let listed = served.guests().list_guests(pb::ListGuestsRequest::default()).await.unwrap().into_inner();
    let mut stream = watch(&served, listed.revision, "").await.unwrap();
    served.publish(&spec, 1);
    assert_eq!(next(&mut stream).await, (Kind::Modified, "a".to_owned(), listed.revision + 1));
}

#[tokio::test]
async fn a_watch_of_one_cluster_hears_nothing_of_another() {
    let served = Served::start().await;
    let (ours, theirs) = (guest("a"), GuestSpec { cluster: "other".parse().unwrap(), ..guest("b") });
    for spec in [&theirs, &ours] {
        served.apply(spec).await.unwrap();
        served.publish(spec, 0);
    }
    let mut stream = watch(&served, 0, "acme").await.unwrap();
    assert_eq!(next(&mut stream).await.1, "a");
    assert_eq!(next(&mut stream).await.0, Kind::Bookmark);
    served.publish(&theirs, 1);
    served.publish(&ours, 1);
    assert_eq!(next(&mut stream).await.1, "a");
}

#[tokio::test]
async fn a_deleted_guest_is_told_as_it_was_last() {
    let served = Served::start().await;
    let spec = guest("a");
    served.apply(&spec).await.unwrap();
    served.publish(&spec, 3);
    let mut stream = watch(&served, 0, "").await.unwrap();
    next(&mut stream).await;
    next(&mut stream).await;
    served.ledger.forget_guest(spec.uid).await.unwrap();
    served.observed.forget_guest(spec.uid);
    let event = soon(stream.message()).await.unwrap().unwrap();
    assert_eq!(event.kind(), Kind::Deleted);
    let guest = event.guest.unwrap();
    assert_eq!(guest.spec.unwrap().name, "a");
    assert_eq!(guest.status.unwrap().restart_count, 3);
}

#[tokio::test]
async fn a_revision_that_is_not_remembered_is_out_of_range() {
    let served = Served::start().await;
    let (newest, _) = served.observed.guests();
    for revision in [1, newest - 1, newest + 1, u64::MAX] {
        let refused = watch(&served, revision, "").await.unwrap_err();
        assert_eq!(reason(&refused), (Code::OutOfRange, "REVISION_GONE".to_owned()), "{revision}");
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_keep_up_is_told_so_and_cut_off() {
    let served = Served::start().await;
    let spec = guest("a");
    served.apply(&spec).await.unwrap();
    let mut stream = watch(&served, 0, "").await.unwrap();
    next(&mut stream).await;
    // The server cannot run meanwhile: for it, all of this happens at once.
    for restarts in 0..10_000 {
        served.publish(&spec, restarts);
    }
    let ended = loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), (Code::OutOfRange, "REVISION_GONE".to_owned()));
}

#[tokio::test]
async fn a_shutdown_ends_watches_with_a_word_and_then_the_server() {
    let served = Served::start().await;
    let mut stream = watch(&served, 0, "").await.unwrap();
    next(&mut stream).await;
    served.shutdown.cancel();
    let ended = soon(stream.message()).await.unwrap_err();
    assert_eq!(reason(&ended), (Code::Unavailable, "AGENT_ENDING".to_owned()));
    soon(served.serving).await.unwrap().unwrap();
}
