use goliath_proto::operator::v1::{self as pb, drain_host_response::Step};
use serde_json::{Value, json};
use tonic::{Code, Streaming};

use super::served::{Client, SOON, Served, cluster, fields, guest, host, reason};
use crate::{
    api::Role,
    controllers::placement::{Explained, ExplainedHost},
    objects::Guest,
    runtime::GuestBy,
    store::{Preconditions, Store as _},
};

async fn told(steps: &mut Streaming<pb::DrainHostResponse>) -> (Step, String, String) {
    let step = tokio::time::timeout(SOON, steps.message()).await.expect("told").unwrap().expect("a step");
    (step.step(), step.guest, step.message)
}

async fn drain(client: &Client, host: &str, without_room: bool) -> Streaming<pb::DrainHostResponse> {
    let request = pb::DrainHostRequest { name: host.to_owned(), without_room };
    client.fleet().drain_host(request).await.unwrap().into_inner()
}

/// What placement says where this host alone can have a guest.
fn fits(host: &str) -> Explained {
    let host = ExplainedHost { host: host.to_owned(), fits: true, reasons: vec!["empty".to_owned()] };
    Explained { bound: None, hosts: vec![host], no_room: None }
}

#[tokio::test]
async fn a_pool_is_scaled_and_what_does_not_fit_is_refused() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    operator.apply(&[cluster("acme")]).await.unwrap();
    let scale = |pool: &str, replicas, dry_run| pb::ScalePoolRequest {
        cluster: "acme".to_owned(),
        pool: pool.to_owned(),
        replicas,
        dry_run,
    };
    let mut fleet = operator.fleet();
    let scaled = fleet.scale_pool(scale("small", 7, true)).await.unwrap().into_inner();
    assert_eq!(scaled.replicas_before, 2);
    assert_eq!(operator.get("Cluster", "acme").await.unwrap()["spec"]["workers"][0]["replicas"], 2);
    let scaled = fleet.scale_pool(scale("small", 7, false)).await.unwrap().into_inner();
    let now: Value = serde_json::from_str(&scaled.object).unwrap();
    assert_eq!((&now["spec"]["workers"][0]["replicas"], &now["metadata"]["generation"]), (&7.into(), &2.into()));
    let refused = fleet.scale_pool(scale("large", 7, false)).await.unwrap_err();
    assert_eq!(fields(&refused), ["pool"]);
    assert!(refused.message().contains("small"), "{}", refused.message());
    assert_eq!(fields(&fleet.scale_pool(scale("small", 70_000, false)).await.unwrap_err()), ["replicas"]);
    let problem =
        crate::store::FieldProblem { path: "spec.network.cidr".to_owned(), message: "is too small".to_owned() };
    served.problems.lock().unwrap().push((0, problem));
    assert_eq!(fields(&fleet.scale_pool(scale("small", 400, false)).await.unwrap_err()), ["spec.network.cidr"]);
}

#[tokio::test]
async fn a_tree_has_everything_of_one_cluster() {
    let served = Served::start().await;
    served.write(cluster("acme")).await;
    for (index, host) in [(1, "host-b"), (0, "host-a")] {
        served.write(guest("acme", index, host)).await;
    }
    served.write(guest("other", 0, "host-a")).await;
    served.until(|caches| caches.guests.list().len() == 3 && caches.clusters.get("acme").is_some()).await;
    let mut fleet = served.of(Role::Viewer).fleet();
    let root =
        fleet.get_tree(pb::GetTreeRequest { cluster: "acme".to_owned() }).await.unwrap().into_inner().root.unwrap();
    assert_eq!((root.kind.as_str(), root.name.as_str()), ("Cluster", "acme"));
    let children: Vec<_> = root.children.iter().map(|child| (child.name.as_str(), child.summary.as_str())).collect();
    assert_eq!(children, [("acme.small-0", "Running on host-a"), ("acme.small-1", "Running on host-b")]);
    assert_eq!(root.children[0].conditions[0].r#type, "Ready");
    let refused = fleet.get_tree(pb::GetTreeRequest { cluster: "none".to_owned() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn an_explanation_has_the_binding_and_every_host() {
    let served = Served::start().await;
    let mut waiting = guest("acme", 1, "host-a");
    waiting["spec"].as_object_mut().unwrap().remove("binding");
    waiting["status"] = json!({ "conditions": [{
        "type": "Scheduled", "status": "False", "reason": "NoRoom", "message": "1 host: 1 cordoned",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] });
    served.write(waiting).await;
    served.write(guest("acme", 0, "host-a")).await;
    *served.explained.lock().unwrap() = Some(fits("host-b"));
    served
        .until(|caches| {
            caches.guests.get("acme.small-1").is_some_and(|guest| guest.status.is_some())
                && caches.guests.list().len() == 2
        })
        .await;
    let mut fleet = served.of(Role::Viewer).fleet();
    let mut explain = async |name: &str| {
        fleet.explain_guest(pb::ExplainGuestRequest { name: name.to_owned() }).await.map(tonic::Response::into_inner)
    };
    let bound = explain("acme.small-0").await.unwrap();
    assert_eq!((bound.host.as_str(), bound.reason.as_str(), bound.waits_for.as_str()), ("host-a", "it was there", ""));
    assert_eq!(bound.hosts.len(), 1);
    let waiting = explain("acme.small-1").await.unwrap();
    assert_eq!((waiting.host.as_str(), waiting.waits_for.as_str()), ("", "1 host: 1 cordoned"));
    assert_eq!(explain("acme.small-9").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_host_is_added_once_and_its_credentials_are_told() {
    let served = Served::start().await;
    let administrator = served.of(Role::Administrator);
    let mut fleet = administrator.fleet();
    let add = |manifest: Value, dry_run| pb::AddHostRequest { manifest: manifest.to_string(), dry_run };
    fleet.add_host(add(host("host-a"), true)).await.unwrap();
    assert!(served.asked.lock().unwrap().is_empty());
    let added = fleet.add_host(add(host("host-a"), false)).await.unwrap().into_inner();
    assert_eq!(
        (added.credentials[0].issuer.as_str(), added.credentials[0].wrapped_secret_id.as_str()),
        ("vault", "wrapped")
    );
    let refused = fleet.add_host(add(host("host-a"), false)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "ALREADY_EXISTS"));
    assert_eq!(fields(&fleet.add_host(add(cluster("acme"), false)).await.unwrap_err()), ["manifest.kind"]);
    let mut unknown = host("host-b");
    unknown["spec"]["adress"] = 1.into();
    assert_eq!(fields(&fleet.add_host(add(unknown, false)).await.unwrap_err()), ["manifest.spec.adress"]);
    let again = pb::IssueHostCredentialsRequest { name: "host-a".to_owned() };
    fleet.issue_host_credentials(again).await.unwrap();
    assert_eq!(*served.asked.lock().unwrap(), ["issue host-a First", "issue host-a New"]);
}

#[tokio::test]
async fn a_host_that_answers_is_not_forgotten() {
    let served = Served::start().await;
    let mut reachable = host("host-a");
    reachable["status"] = json!({ "conditions": [{
        "type": "Reachable", "status": "True", "reason": "Answers", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] });
    served.write(reachable).await;
    let request = pb::ForgetHostRequest { name: "host-a".to_owned(), ..pb::ForgetHostRequest::default() };
    let refused = served.of(Role::Administrator).fleet().forget_host(request).await.unwrap_err();
    assert_eq!(reason(&refused), "HOST_REACHABLE");
    assert!(served.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn forgetting_a_host_frees_its_guests() {
    let served = Served::start().await;
    served.write(host("host-a")).await;
    for (index, host) in [(0, "host-a"), (1, "host-b"), (2, "host-a")] {
        served.write(guest("acme", index, host)).await;
    }
    served.until(|caches| caches.guests.list().len() == 3).await;
    let mut fleet = served.of(Role::Administrator).fleet();
    let request = pb::ForgetHostRequest { name: "host-a".to_owned(), ..pb::ForgetHostRequest::default() };
    let dry = pb::ForgetHostRequest { dry_run: true, ..request.clone() };
    assert_eq!(fleet.forget_host(dry).await.unwrap().into_inner().guests, ["acme.small-0", "acme.small-2"]);
    assert_eq!(fleet.forget_host(request.clone()).await.unwrap().into_inner().guests, ["acme.small-0", "acme.small-2"]);
    for (name, host) in [("acme.small-0", None), ("acme.small-1", Some("host-b")), ("acme.small-2", None)] {
        let guest: Guest = served.store.get(name).await.unwrap();
        assert_eq!(guest.spec.host().map(crate::objects::HostName::as_str), host, "{name}");
    }
    assert_eq!(fleet.forget_host(request).await.unwrap_err().code(), Code::NotFound);
    assert!(served.events.list(|event| event.reason == "Forgotten").events.len() == 1);
}

/// Plays the cluster controller and placement: a guest that went comes again on another host.
async fn comes_again(served: &Served, index: u16, host: &str) {
    served.until(|caches| caches.guests.get(&format!("acme.small-{index}")).is_none()).await;
    served.write(guest("acme", index, host)).await;
}

#[tokio::test]
async fn a_drain_moves_one_guest_after_the_other_and_tells_each_step() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    served.write(cluster("acme")).await;
    served.write(host("host-a")).await;
    for index in [0, 1] {
        served.write(guest("acme", index, "host-a")).await;
    }
    *served.explained.lock().unwrap() = Some(fits("host-b"));
    served
        .until(|caches| caches.guests.by(GuestBy::Host, "host-a").len() == 2 && caches.clusters.get("acme").is_some())
        .await;
    let mut steps = drain(&operator, "host-a", false).await;
    assert_eq!(told(&mut steps).await.0, Step::Cordoned);
    for index in [0, 1] {
        let name = format!("acme.small-{index}");
        assert_eq!(told(&mut steps).await, (Step::Deleting, name.clone(), "it is being stopped".to_owned()));
        comes_again(&served, index, "host-b").await;
        loop {
            match told(&mut steps).await {
                (Step::Waiting | Step::Gone, guest, _) => assert_eq!(guest, name),
                step => {
                    assert_eq!(step, (Step::Moved, name, "it is ready on host-b".to_owned()));
                    break;
                }
            }
        }
    }
    assert_eq!(told(&mut steps).await.0, Step::Drained);
    assert!(steps.message().await.unwrap().is_none());
    assert_eq!(operator.get("Host", "host-a").await.unwrap()["spec"]["cordoned"], true);
}

#[tokio::test]
async fn a_drain_waits_for_the_rest_of_the_cluster_and_for_room() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    served.write(cluster("acme")).await;
    served.write(host("host-a")).await;
    served.write(guest("acme", 0, "host-a")).await;
    let mut unready = guest("acme", 1, "host-b");
    unready["status"]["conditions"][0]["status"] = "False".into();
    served.write(unready).await;
    *served.explained.lock().unwrap() =
        Some(Explained { bound: None, hosts: Vec::new(), no_room: Some("1 host: 1 cordoned".to_owned()) });
    served.until(|caches| caches.guests.get("acme.small-1").is_some_and(|guest| guest.status.is_some())).await;
    served.until(|caches| caches.guests.by(GuestBy::Host, "host-a").len() == 1).await;
    let mut steps = drain(&operator, "host-a", false).await;
    assert_eq!(told(&mut steps).await.0, Step::Cordoned);
    let (step, _, message) = told(&mut steps).await;
    assert_eq!(step, Step::Waiting);
    assert!(message.contains("acme.small-1"), "{message}");
    served.store.delete::<Guest>("acme.small-1", Preconditions::default()).await.unwrap();
    let (step, _, message) = told(&mut steps).await;
    assert_eq!(step, Step::Waiting);
    assert_eq!(message, "no other host has room: 1 host: 1 cordoned");
    // Whoever stops reading stops it.
    drop(steps);
    *served.explained.lock().unwrap() = None;
    let mut steps = drain(&operator, "host-a", true).await;
    assert_eq!(told(&mut steps).await.0, Step::Cordoned);
    assert_eq!(told(&mut steps).await.0, Step::Deleting);
}
