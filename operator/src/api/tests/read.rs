use goliath_proto::operator::v1::{self as pb, watch_objects_response::Type};
use serde_json::{Value, json};
use tonic::{Code, Streaming};

use super::served::{SOON, Served, cluster, fields, guest, host, reason, subject};
use crate::{api::Role, objects::Kind, runtime::events::Severity};

async fn next<T>(stream: &mut Streaming<T>) -> Option<Result<T, tonic::Status>> {
    tokio::time::timeout(SOON, async { stream.message().await.transpose() }).await.expect("told")
}

fn names(objects: &[String]) -> Vec<String> {
    let name = |object: &String| {
        serde_json::from_str::<Value>(object).unwrap()["metadata"]["name"].as_str().unwrap().to_owned()
    };
    objects.iter().map(name).collect()
}

#[tokio::test]
async fn who_has_no_role_may_nothing_and_a_viewer_may_not_write() {
    let served = Served::start().await;
    for organizations in [&[] as &[&str], &["system:masters"]] {
        let refused = served.client(organizations).get("Cluster", "acme").await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "NOT_PERMITTED"));
    }
    let viewer = served.of(Role::Viewer);
    assert_eq!(viewer.get("Cluster", "acme").await.unwrap_err().code(), Code::NotFound);
    let refused = viewer.apply(&[cluster("acme")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("viewer") && refused.message().contains("operator"), "{}", refused.message());
    let forget = pb::ForgetHostRequest { name: "host-a".to_owned(), ..pb::ForgetHostRequest::default() };
    let refused = served.of(Role::Operator).fleet().forget_host(forget).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    served.of(Role::Operator).apply(&[cluster("acme")]).await.unwrap();
    served.of(Role::Administrator).apply(&[host("host-a")]).await.unwrap();
}

#[tokio::test]
async fn the_kinds_come_with_the_columns_of_their_definitions() {
    let served = Served::start().await;
    let kinds = served.of(Role::Viewer).objects().list_kinds(pb::ListKindsRequest {}).await.unwrap().into_inner().kinds;
    assert_eq!(kinds.len(), Kind::ALL.len());
    let guest = kinds.iter().find(|kind| kind.kind == "Guest").unwrap();
    assert!(!guest.applied && guest.plural == "guests" && guest.columns.iter().any(|column| column.name == "Phase"));
    assert!(kinds.iter().filter(|kind| kind.kind != "Guest").all(|kind| kind.applied));
}

#[tokio::test]
async fn a_list_comes_in_messages_and_tells_from_where_to_watch() {
    let served = Served::start().await;
    let viewer = served.of(Role::Viewer);
    let list = pb::ListObjectsRequest { kind: "hosts".to_owned(), selector: String::new() };
    let mut empty = viewer.objects().list_objects(list.clone()).await.unwrap().into_inner();
    let first = next(&mut empty).await.unwrap().unwrap();
    assert!(first.objects.is_empty() && !first.resource_version.is_empty());
    assert!(next(&mut empty).await.is_none());

    let filler = "x".repeat(200_000);
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let mut host = host(name);
        host["metadata"]["annotations"] = json!({ "example.com/filler": filler });
        served.write(host).await;
    }
    let mut stream = viewer.objects().list_objects(list).await.unwrap().into_inner();
    let (mut all, mut messages) = (Vec::new(), 0);
    while let Some(message) = next(&mut stream).await {
        let message = message.unwrap();
        all.extend(names(&message.objects));
        messages += 1;
    }
    assert_eq!(all, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    assert_eq!(messages, 2);
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_is_resumed_without_a_gap() {
    let served = Served::start().await;
    served.write(host("host-a")).await;
    let viewer = served.of(Role::Viewer);
    let request = pb::WatchObjectsRequest { kind: "Host".to_owned(), ..pb::WatchObjectsRequest::default() };
    let mut watch = viewer.objects().watch_objects(request.clone()).await.unwrap().into_inner();
    let added = next(&mut watch).await.unwrap().unwrap();
    assert_eq!((added.r#type(), added.resource_version.as_str()), (Type::Added, ""));
    let bookmark = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(bookmark.r#type(), Type::Bookmark);
    drop(watch);

    served.write(host("host-b")).await;
    let resumed = pb::WatchObjectsRequest { resource_version: bookmark.resource_version, ..request.clone() };
    let mut watch = viewer.objects().watch_objects(resumed).await.unwrap().into_inner();
    let added = next(&mut watch).await.unwrap().unwrap();
    assert_eq!((added.r#type(), names(&[added.object])), (Type::Added, vec!["host-b".to_owned()]));
    assert!(!added.resource_version.is_empty());

    let future = pb::WatchObjectsRequest { resource_version: "999999".to_owned(), ..request.clone() };
    let refused = viewer.objects().watch_objects(future).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "RESOURCE_VERSION_EXPIRED"));
    let nonsense = pb::WatchObjectsRequest { resource_version: "x".to_owned(), ..request };
    assert_eq!(fields(&viewer.objects().watch_objects(nonsense).await.unwrap_err()), ["resource_version"]);
    // The end of the operator ends its watches, with a word.
    served.tasks.stop().cancel();
    let ended = next(&mut watch).await.unwrap().unwrap_err();
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "OPERATOR_ENDING"));
}

#[tokio::test]
async fn seeds_are_for_those_who_may_change_something() {
    let served = Served::start().await;
    served.write(guest("acme", 0, "host-a")).await;
    let viewed = served.of(Role::Viewer).get("gst", "acme.small-0").await.unwrap();
    assert_eq!(viewed["spec"].get("seed"), None);
    assert_eq!(viewed["spec"]["hostname"], "small-0");
    let whole = served.of(Role::Operator).get("guests", "acme.small-0").await.unwrap();
    assert!(whole["spec"]["seed"]["cloudInit"]["userData"].as_str().unwrap().contains("secret"));
    let list = pb::ListObjectsRequest { kind: "Guest".to_owned(), selector: String::new() };
    let mut list = served.of(Role::Operator).objects().list_objects(list).await.unwrap().into_inner();
    let message = next(&mut list).await.unwrap().unwrap();
    assert!(!message.objects[0].contains("secret"));
}

#[tokio::test]
async fn what_is_no_kind_or_no_selector_is_told_by_its_field() {
    let served = Served::start().await;
    let viewer = served.of(Role::Viewer);
    let refused = viewer.get("Pod", "x").await.unwrap_err();
    assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec!["kind".to_owned()]));
    let list = pb::ListObjectsRequest { kind: "Host".to_owned(), selector: "a b".to_owned() };
    assert_eq!(fields(&viewer.objects().list_objects(list).await.unwrap_err()), ["selector"]);
}

#[tokio::test]
async fn events_are_filtered_listed_and_watched() {
    let served = Served::start().await;
    let (guest, other) = (subject(Kind::Guest, "acme.small-0"), subject(Kind::Guest, "acme-2.small-0"));
    served.events.record(&guest, Severity::Normal, "Scheduled", "on host-a");
    served.events.record(&other, Severity::Warning, "NoRoom", "3 hosts: 3 cordoned");
    served.events.record(&subject(Kind::Cluster, "acme"), Severity::Warning, "Waits", "for the CA");
    let mut events = served.of(Role::Viewer).events();
    let filter = |cluster: &str, warnings| {
        Some(pb::EventFilter { cluster: cluster.to_owned(), warnings, ..pb::EventFilter::default() })
    };
    let reasons = |events: &[pb::Event]| events.iter().map(|event| event.reason.clone()).collect::<Vec<_>>();
    let list = events.list_events(pb::ListEventsRequest { filter: filter("acme", false) }).await.unwrap().into_inner();
    assert_eq!(reasons(&list.events), ["Scheduled", "Waits"]);
    let list = events.list_events(pb::ListEventsRequest { filter: filter("", true) }).await.unwrap().into_inner();
    assert_eq!(reasons(&list.events), ["NoRoom", "Waits"]);

    let request = pb::WatchEventsRequest { filter: filter("acme", true), revision: list.revision };
    let mut watch = events.watch_events(request).await.unwrap().into_inner();
    served.events.record(&guest, Severity::Normal, "Scheduled", "on host-a");
    served.events.record(&guest, Severity::Warning, "Lost", "host-a is silent");
    let told = next(&mut watch).await.unwrap().unwrap().event.unwrap();
    assert_eq!((told.reason.as_str(), told.count), ("Lost", 1));
    let request = pb::WatchEventsRequest { filter: None, revision: 1 };
    let mut gone = events.watch_events(request).await.unwrap().into_inner();
    assert_eq!(next(&mut gone).await.unwrap().unwrap_err().code(), Code::OutOfRange);
}
