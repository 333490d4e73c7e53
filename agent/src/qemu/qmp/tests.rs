use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};

use super::*;

const GREETING: &str =
    r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#;

fn limits() -> QmpLimits {
    QmpLimits { connect: Duration::from_secs(5), command: Duration::from_secs(2), line: 64 << 10 }
}

fn short() -> QmpLimits {
    QmpLimits { command: Duration::from_millis(50), ..limits() }
}

/// Plays QEMU on the other end: greets, agrees to the capabilities, then does what the script does.
async fn connected<F, T>(limits: QmpLimits, script: impl FnOnce(BufReader<DuplexStream>) -> F) -> (Qmp, QmpEvents)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let (connected, peer) = greeted(limits, 1 << 16).await;
    tokio::spawn(script(peer));
    connected
}

async fn greeted(limits: QmpLimits, buffer: usize) -> ((Qmp, QmpEvents), BufReader<DuplexStream>) {
    let (ours, theirs) = duplex(buffer);
    let mut peer = BufReader::new(theirs);
    let greeting = async {
        peer.write_all(format!("{GREETING}\r\n").as_bytes()).await.unwrap();
        let asked = command(&mut peer).await;
        assert_eq!(asked["execute"], "qmp_capabilities");
        answer(&mut peer, json!({"return": {}, "id": asked["id"]})).await;
        let asked = command(&mut peer).await;
        assert_eq!(asked["execute"], "query-status");
        answer(&mut peer, json!({"return": {"running": true, "status": "running"}, "id": asked["id"]})).await;
    };
    let (connected, ()) = tokio::join!(Qmp::over(ours, limits), greeting);
    (connected.unwrap(), peer)
}

async fn command(peer: &mut BufReader<DuplexStream>) -> serde_json::Value {
    let mut line = String::new();
    peer.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn answer(peer: &mut BufReader<DuplexStream>, message: serde_json::Value) {
    peer.write_all(format!("{message}\r\n").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn answers_find_their_commands_in_any_order() {
    let (qmp, _events) = connected(limits(), |mut peer| async move {
        let (first, second) = (command(&mut peer).await, command(&mut peer).await);
        for asked in [second, first] {
            let result = match asked["execute"].as_str() {
                Some("query-uuid") => json!({"UUID": "u"}),
                _ => json!({"running": true, "status": "running"}),
            };
            answer(&mut peer, json!({"return": result, "id": asked["id"]})).await;
        }
        peer
    })
    .await;
    let (status, uuid) = tokio::join!(qmp.execute(schema::query_status {}), qmp.execute(schema::query_uuid {}));
    assert!(status.unwrap().running);
    assert_eq!(uuid.unwrap().UUID, "u");
    assert_eq!(qmp.version(), "10.0.2");
}

#[tokio::test]
async fn a_refusal_has_qemus_words() {
    let (qmp, _events) = connected(limits(), |mut peer| async move {
        let asked = command(&mut peer).await;
        answer(&mut peer, json!({"error": {"class": "CommandNotFound", "desc": "no such"}, "id": asked["id"]})).await;
        peer
    })
    .await;
    match qmp.execute(schema::cont {}).await {
        Err(QmpError::Refused { command: "cont", class, description }) => {
            assert_eq!((class.as_str(), description.as_str()), ("CommandNotFound", "no such"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next_commands() {
    let (qmp, _events) = connected(short(), |mut peer| async move {
        let late = command(&mut peer).await;
        let next = command(&mut peer).await;
        answer(&mut peer, json!({"return": {"UUID": "late"}, "id": late["id"]})).await;
        answer(&mut peer, json!({"return": {"UUID": "next"}, "id": next["id"]})).await;
        peer
    })
    .await;
    assert!(matches!(qmp.execute(schema::query_uuid {}).await, Err(QmpError::Timeout { command: "query-uuid", .. })));
    let next = qmp.execute_within(schema::query_uuid {}, Duration::from_secs(2)).await.unwrap();
    assert_eq!(next.UUID, "next");
}

#[tokio::test]
async fn events_come_through_known_and_unknown_ones_beside_answers() {
    let (qmp, mut events) = connected(limits(), |mut peer| async move {
        let asked = command(&mut peer).await;
        let timestamp = json!({"seconds": 1, "microseconds": 2});
        for (event, data) in [
            ("NOVELTY", json!({"x": 1})),
            ("SHUTDOWN", json!({"guest": true, "reason": "guest-panic"})),
            ("SHUTDOWN", json!({"guest": true, "reason": "a reason of another version"})),
        ] {
            answer(&mut peer, json!({"event": event, "data": data, "timestamp": timestamp})).await;
        }
        answer(&mut peer, json!({"return": {}, "id": asked["id"]})).await;
        peer
    })
    .await;
    qmp.execute(schema::cont {}).await.unwrap();
    assert!(matches!(events.recv().await, Ok(QmpEvent::Other { name, data }) if name == "NOVELTY" && data["x"] == 1));
    assert!(
        matches!(events.recv().await, Ok(QmpEvent::Known(event)) if matches!(*event, schema::Event::SHUTDOWN { .. }))
    );
    assert!(matches!(events.recv().await, Ok(QmpEvent::Other { name, .. }) if name == "SHUTDOWN"));
}

#[tokio::test]
async fn the_end_of_qemu_ends_commands_and_events_with_the_reason() {
    let (qmp, mut events) = connected(limits(), |mut peer| async move {
        command(&mut peer).await;
    })
    .await;
    let error = qmp.execute(schema::cont {}).await.unwrap_err();
    assert_eq!(error.to_string(), "no QMP connection: QEMU closed it");
    assert!(matches!(events.recv().await, Err(broadcast::error::RecvError::Closed)));
    assert!(matches!(qmp.events().recv().await, Err(broadcast::error::RecvError::Closed)));
    assert!(matches!(qmp.execute(schema::cont {}).await, Err(QmpError::Disconnected { .. })));
}

#[tokio::test]
async fn a_qemu_that_never_answers_is_given_up_at_last_and_memory_stays_bounded() {
    let ((qmp, _events), _peer) = greeted(limits(), 1 << 10).await;
    let mut last = None;
    for _ in 0..200 {
        last = Some(qmp.execute_within(schema::query_status {}, Duration::from_millis(20)).await.unwrap_err());
        if matches!(last, Some(QmpError::Disconnected { .. })) {
            break;
        }
    }
    assert_eq!(last.unwrap().to_string(), "no QMP connection: QEMU takes no command for 2s");
}

#[tokio::test]
async fn a_line_beyond_the_limit_ends_the_connection() {
    let (qmp, _events) = connected(limits(), |mut peer| async move {
        command(&mut peer).await;
        let _ = peer.write_all(&vec![b'a'; 1 << 20]).await;
        peer
    })
    .await;
    let error = qmp.execute(schema::cont {}).await.unwrap_err();
    assert_eq!(error.to_string(), "no QMP connection: QEMU sent a line beyond the limit");
}

#[tokio::test]
async fn what_is_not_qmp_is_told_as_that() {
    for (said, reason) in [
        ("", "QEMU closed it"),
        ("SSH-2.0-OpenSSH\n", "QEMU sent what is not JSON: expected value at line 1 column 1"),
        ("[]\n", "QEMU sent JSON that is not an object"),
        ("{}\n", "what speaks there is not QEMU's QMP"),
    ] {
        let (ours, mut theirs) = duplex(1 << 10);
        theirs.write_all(said.as_bytes()).await.unwrap();
        drop(theirs);
        let error = Qmp::over(ours, limits()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("no QMP connection: {reason}"), "{said:?}");
    }
}

#[tokio::test]
async fn a_socket_where_nobody_listens_is_an_error_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let error = Qmp::connect(&directory.path().join("qmp.sock"), limits()).await.unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_are_the_same_however_they_are_cut(cuts in prop::collection::vec(1_usize..40, 1..40)) {
        runtime().block_on(async move {
            let (qmp, mut events) = connected(limits(), |mut peer| async move {
                let asked = command(&mut peer).await;
                let event = json!({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}});
                let text = format!("{event}\r\n{}\r\n{event}\r\n", json!({"return": {"UUID": "ü"}, "id": asked["id"]}));
                let mut rest = text.as_bytes();
                for cut in cuts.iter().cycle() {
                    let (chunk, left) = rest.split_at((*cut).min(rest.len()));
                    peer.write_all(chunk).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = left;
                    if rest.is_empty() { break }
                }
                peer
            }).await;
            assert_eq!(qmp.execute(schema::query_uuid {}).await.unwrap().UUID, "ü");
            for _ in 0..2 {
                let event = events.recv().await;
                assert!(matches!(&event, Ok(QmpEvent::Known(known)) if matches!(**known, schema::Event::STOP { .. })), "{event:?}");
            }
        });
    }

    #[test]
    fn garbage_ends_a_connection_and_nothing_else(garbage in prop::collection::vec(any::<u8>(), 0..4096)) {
        runtime().block_on(async move {
            let (qmp, _events) = connected(limits(), |mut peer| async move {
                command(&mut peer).await;
                let _ = peer.write_all(&garbage).await;
            }).await;
            assert!(qmp.execute(schema::query_uuid {}).await.is_err());
        });
    }

    #[test]
    fn json_of_any_shape_is_survived(fields in prop::collection::btree_map(
        prop::sample::select(vec!["event", "return", "error", "id", "data", "timestamp"]),
        prop::sample::select(vec![json!(null), json!(1), json!(2), json!(-1), json!("SHUTDOWN"), json!({}), json!([]), json!({"class": 1})]),
        0..6,
    )) {
        runtime().block_on(async move {
            let (qmp, _events) = connected(limits(), |mut peer| async move {
                let asked = command(&mut peer).await;
                answer(&mut peer, json!(fields)).await;
                answer(&mut peer, json!({"return": {"UUID": "u"}, "id": asked["id"]})).await;
                peer
            }).await;
            // An answer may have come with the very id; a connection that lives is what counts.
            let first = qmp.execute(schema::query_uuid {}).await;
            assert!(!matches!(first, Err(QmpError::Disconnected { .. } | QmpError::Timeout { .. })), "{first:?}");
        });
    }
}
