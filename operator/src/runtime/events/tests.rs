use std::time::Duration;

use super::*;

fn subject(name: &str) -> EventSubject {
    EventSubject { kind: Kind::Guest, name: name.to_owned(), uid: "1".to_owned() }
}

fn told(events: &[Arc<Event>]) -> Vec<(&str, &str, u64)> {
    events.iter().map(|event| (event.subject.name.as_str(), event.reason.as_str(), event.count)).collect()
}

async fn next(watch: &mut EventWatch) -> Result<Vec<Arc<Event>>, Forgotten> {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("told")
}

#[test]
fn what_happens_again_is_counted_and_becomes_the_newest() {
    let events = Events::new(10);
    events.record(&subject("a"), Severity::Warning, "NoRoom", "3 hosts: 3 cordoned");
    events.record(&subject("b"), Severity::Normal, "Scheduled", "on host-1");
    events.record(&subject("a"), Severity::Warning, "NoRoom", "3 hosts: 3 cordoned");
    events.record(&subject("a"), Severity::Warning, "NoRoom", "3 hosts: 2 cordoned");
    let list = events.list(|_| true);
    assert_eq!(told(&list.events), [("b", "Scheduled", 1), ("a", "NoRoom", 2), ("a", "NoRoom", 1)]);
    assert!(list.events[1].first_time <= list.events[1].last_time);
    assert_eq!(list.revision, list.events[2].revision);
    assert_eq!(told(&events.list(|event| event.subject.name == "b").events), [("b", "Scheduled", 1)]);
}

#[test]
fn the_oldest_are_forgotten_and_counted_anew() {
    let events = Events::new(2);
    for name in ["a", "b", "c", "a"] {
        events.record(&subject(name), Severity::Normal, "Seen", "");
    }
    assert_eq!(told(&events.list(|_| true).events), [("c", "Seen", 1), ("a", "Seen", 1)]);
    assert_eq!(events.ring().alike.len(), 2, "what is forgotten takes no memory");
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let events = Events::new(10);
    events.record(&subject("a"), Severity::Normal, "Seen", "");
    let mut watch = events.watch(events.list(|_| true).revision);
    let recorder = events.clone();
    let recording = tokio::spawn(async move {
        tokio::task::yield_now().await;
        recorder.record(&subject("b"), Severity::Normal, "Seen", "");
    });
    assert_eq!(told(&next(&mut watch).await.unwrap()), [("b", "Seen", 1)]);
    recording.await.unwrap();
    for _ in 0..3 {
        events.record(&subject("a"), Severity::Normal, "Seen", "");
    }
    assert_eq!(told(&next(&mut watch).await.unwrap()), [("a", "Seen", 4)], "a slow reader is told once");
}

#[tokio::test]
async fn a_watch_from_what_is_forgotten_ends() {
    let events = Events::new(2);
    let start = events.list(|_| true).revision;
    for name in ["a", "b", "c"] {
        events.record(&subject(name), Severity::Normal, "Seen", "");
    }
    assert_eq!(next(&mut events.watch(start)).await, Err(Forgotten(start)));
    assert_eq!(told(&next(&mut events.watch(start + 1)).await.unwrap()), [("b", "Seen", 1), ("c", "Seen", 1)]);
    assert_eq!(next(&mut events.watch(1)).await, Err(Forgotten(1)), "of an earlier life");
    assert_eq!(next(&mut events.watch(u64::MAX)).await, Err(Forgotten(u64::MAX)), "of another operator");
}
