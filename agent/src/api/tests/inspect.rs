use std::{fs, io::Write as _};

use futures::stream;
use goliath_proto::agent::v1 as pb;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::served::{Served, reason, soon};
use crate::{
    qemu::arguments::Listener,
    spec::{GuestSpec, test::guest},
};

async fn with_guest() -> (Served, GuestSpec) {
    let served = Served::start().await;
    let spec = guest("worker-0");
    served.apply(&spec).await.unwrap();
    fs::create_dir_all(served.paths(&spec).state()).unwrap();
    (served, spec)
}

fn log(spec: &GuestSpec, follow: bool, tail_bytes: u64) -> pb::ConsoleLogRequest {
    pb::ConsoleLogRequest { uid: spec.uid.to_string(), follow, tail_bytes }
}

#[tokio::test]
async fn a_console_log_is_what_was_written_and_then_what_comes() {
    let (served, spec) = with_guest().await;
    let refused = served.inspect().console_log(log(&spec, false, 0)).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "NEVER_STARTED".to_owned()));

    let path = served.paths(&spec).console_log();
    fs::write(&path, "booting\nlogin: ").unwrap();
    let mut kept = served.inspect().console_log(log(&spec, false, 0)).await.unwrap().into_inner();
    assert_eq!(soon(kept.message()).await.unwrap().unwrap().data, b"booting\nlogin: ");
    assert_eq!(soon(kept.message()).await.unwrap(), None);

    let mut followed = served.inspect().console_log(log(&spec, true, 7)).await.unwrap().into_inner();
    assert_eq!(soon(followed.message()).await.unwrap().unwrap().data, b"login: ");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"root\n").unwrap();
    assert_eq!(soon(followed.message()).await.unwrap().unwrap().data, b"root\n");
    served.shutdown.cancel();
    assert_eq!(soon(followed.message()).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn who_follows_a_guest_that_was_never_started_hears_its_first_words() {
    let (served, spec) = with_guest().await;
    served.publish(&spec, 0);
    let mut followed = served.inspect().console_log(log(&spec, true, 0)).await.unwrap().into_inner();
    let mut heard = tokio::spawn(async move { followed.message().await });
    // It is still being prepared.
    served.publish(&spec, 1);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), &mut heard).await.is_err());
    fs::write(served.paths(&spec).console_log(), "booting\n").unwrap();
    served.publish(&spec, 2);
    assert_eq!(soon(heard).await.unwrap().unwrap().unwrap().data, b"booting\n");
}

#[tokio::test]
async fn who_follows_a_guest_that_is_deleted_unstarted_hears_that_nothing_comes() {
    let (served, spec) = with_guest().await;
    let mut followed = served.inspect().console_log(log(&spec, true, 0)).await.unwrap().into_inner();
    served.ledger.forget_guest(spec.uid).await.unwrap();
    assert_eq!(soon(followed.message()).await.unwrap(), None);
    let waits = guest("worker-1");
    served.apply(&waits).await.unwrap();
    let mut followed = served.inspect().console_log(log(&waits, true, 0)).await.unwrap().into_inner();
    served.shutdown.cancel();
    assert_eq!(soon(followed.message()).await.unwrap_err().code(), Code::Unavailable);
}

fn open(spec: &GuestSpec) -> pb::ConsoleRequest {
    let open = pb::ConsoleOpen { uid: spec.uid.to_string() };
    pb::ConsoleRequest { message: Some(pb::console_request::Message::Open(open)) }
}

fn typed(text: &str) -> pb::ConsoleRequest {
    pb::ConsoleRequest { message: Some(pb::console_request::Message::Input(text.as_bytes().to_vec())) }
}

#[tokio::test]
async fn a_console_goes_both_ways() {
    let (served, spec) = with_guest().await;
    let refused = served.inspect().console(stream::iter([open(&spec)])).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "NOT_RUNNING".to_owned()));

    let socket = served.paths(&spec).socket(Listener::Console);
    let listener = UnixListener::bind(&socket).unwrap();
    let (keyboard, keys) = mpsc::channel(4);
    keyboard.send(open(&spec)).await.unwrap();
    let mut screen = soon(served.inspect().console(ReceiverStream::new(keys))).await.unwrap().into_inner();
    let (mut guest, _) = soon(listener.accept()).await.unwrap();

    guest.write_all(b"login: ").await.unwrap();
    assert_eq!(soon(screen.message()).await.unwrap().unwrap().output, b"login: ");
    keyboard.send(typed("root\n")).await.unwrap();
    let mut heard = [0; 5];
    soon(guest.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"root\n");

    keyboard.send(open(&spec)).await.unwrap();
    assert_eq!(soon(screen.message()).await.unwrap_err().code(), Code::InvalidArgument);
    // The last who looked is gone: the line is hung up.
    assert_eq!(soon(guest.read(&mut heard)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_console_begins_with_its_guest() {
    let (served, spec) = with_guest().await;
    for first in [stream::iter(vec![typed("x"), open(&spec)]), stream::iter(Vec::new())] {
        assert_eq!(served.inspect().console(first).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let stranger = served.inspect().console(stream::iter([open(&guest("stranger"))])).await.unwrap_err();
    assert_eq!(reason(&stranger).1, "GUEST_NOT_FOUND");
}

#[tokio::test]
async fn a_guest_without_certificates_has_none_to_list_or_rotate() {
    let (served, spec) = with_guest().await;
    let request = pb::ListCertificatesRequest { uid: spec.uid.to_string() };
    assert_eq!(served.inspect().list_certificates(request).await.unwrap().into_inner().certificates, []);
    let mut request = pb::RotateCertificatesRequest { uid: spec.uid.to_string(), ..Default::default() };
    let refused = served.inspect().rotate_certificates(request.clone()).await.unwrap_err();
    assert_eq!(reason(&refused).1, "NO_CERTIFICATES");
    request.names = vec!["../etc".to_owned()];
    request.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    assert_eq!(served.inspect().rotate_certificates(request).await.unwrap_err().code(), Code::InvalidArgument);
}
