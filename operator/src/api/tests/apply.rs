use goliath_proto::operator::v1::{self as pb, applied_object::Outcome};
use serde_json::{Value, json};
use tonic::Code;

use super::served::{Served, cluster, fields, guest, host, reason};
use crate::{
    api::Role,
    objects::Cluster,
    store::{FieldProblem, Store as _},
};

fn outcomes(objects: &[pb::AppliedObject]) -> Vec<(String, Outcome)> {
    objects.iter().map(|object| (object.name.clone(), object.outcome())).collect()
}

fn outcome(name: &str, outcome: Outcome) -> (String, Outcome) {
    (name.to_owned(), outcome)
}

#[tokio::test]
async fn applying_creates_then_changes_nothing_then_changes_what_differs() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    let applied = operator.apply(&[host("host-a"), cluster("acme")]).await.unwrap();
    assert_eq!(outcomes(&applied), [outcome("host-a", Outcome::Created), outcome("acme", Outcome::Created)]);
    assert!(applied[0].before.is_empty() && applied[1].after.contains("\"apiPort\":6443"));

    let before = operator.get("Cluster", "acme").await.unwrap();
    let again = operator.apply(&[host("host-a"), cluster("acme")]).await.unwrap();
    assert_eq!(outcomes(&again), [outcome("host-a", Outcome::Unchanged), outcome("acme", Outcome::Unchanged)]);
    assert_eq!(operator.get("Cluster", "acme").await.unwrap(), before, "not even its resource version");

    let mut changed = cluster("acme");
    changed["spec"]["workers"][0]["replicas"] = 3.into();
    changed["metadata"]["labels"] = json!({ "team": "a" });
    let applied = operator.apply(&[changed.clone()]).await.unwrap();
    assert_eq!(outcomes(&applied), [outcome("acme", Outcome::Updated)]);
    let after = operator.get("Cluster", "acme").await.unwrap();
    assert_eq!((&after["metadata"]["generation"], &after["metadata"]["uid"]), (&2.into(), &before["metadata"]["uid"]));
    assert_eq!(serde_json::from_str::<Value>(&applied[0].after).unwrap(), after);

    // A label that the manifest does not have any more goes.
    changed["metadata"] = json!({ "name": "acme" });
    operator.apply(&[changed]).await.unwrap();
    assert_eq!(operator.get("Cluster", "acme").await.unwrap()["metadata"].get("labels"), None);
}

#[tokio::test]
async fn what_controllers_wrote_stays() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    operator.apply(&[cluster("acme")]).await.unwrap();
    let mut object: Cluster = served.store.get("acme").await.unwrap();
    object.metadata.finalizers = Some(vec!["goliath.dev/cluster".to_owned()]);
    object.metadata.annotations = Some([("goliath.dev/note".to_owned(), "ours".to_owned())].into());
    let mut object = served.store.replace(&object).await.unwrap();
    object.status.get_or_insert_default().masters.ready = 1;
    served.store.replace_status(&object).await.unwrap();

    let mut changed = cluster("acme");
    changed["spec"]["paused"] = true.into();
    operator.apply(&[changed]).await.unwrap();
    let now: Cluster = served.store.get("acme").await.unwrap();
    assert!(now.spec.paused);
    assert_eq!(now.metadata.finalizers, object.metadata.finalizers);
    assert_eq!(now.metadata.annotations, object.metadata.annotations);
    assert_eq!(now.status, object.status);
    // And what get prints can be applied.
    let printed = operator.get("Cluster", "acme").await.unwrap();
    assert_eq!(outcomes(&operator.apply(&[printed]).await.unwrap()), [outcome("acme", Outcome::Unchanged)]);
}

#[tokio::test]
async fn a_cordon_stays_where_the_manifest_does_not_speak_of_it() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    operator.apply(&[host("host-a")]).await.unwrap();
    let cordon = pb::CordonHostRequest { name: "host-a".to_owned(), cordoned: true };
    assert!(!operator.fleet().cordon_host(cordon.clone()).await.unwrap().into_inner().unchanged);
    assert!(operator.fleet().cordon_host(cordon).await.unwrap().into_inner().unchanged);
    assert_eq!(outcomes(&operator.apply(&[host("host-a")]).await.unwrap()), [outcome("host-a", Outcome::Unchanged)]);
    assert_eq!(operator.get("Host", "host-a").await.unwrap()["spec"]["cordoned"], true);
    let mut explicit = host("host-a");
    explicit["spec"]["cordoned"] = false.into();
    operator.apply(&[explicit]).await.unwrap();
    assert_eq!(operator.get("Host", "host-a").await.unwrap()["spec"]["cordoned"], false);
}

#[tokio::test]
async fn nothing_is_written_where_anything_is_wrong() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    let mut bad = cluster("bad");
    bad["spec"]["masters"]["replicas"] = 2.into();
    bad["spec"]["network"]["mtuu"] = 1.into();
    let mut twice = host("host-a");
    twice["spec"]["zone"] = "b".into();
    let refused = operator.apply(&[host("host-a"), bad, twice, guest("acme", 0, "host-a")]).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELDS"));
    let mut told = fields(&refused);
    told.sort();
    assert_eq!(
        told,
        [
            "manifests[1].spec.masters.replicas",
            "manifests[1].spec.network.mtuu",
            "manifests[2].metadata.name",
            "manifests[3].kind"
        ]
    );
    // What only the rest of the fleet tells is told by its field too.
    let problem = FieldProblem { path: "spec.network.vni".to_owned(), message: "is cluster other's".to_owned() };
    served.problems.lock().unwrap().push((1, problem));
    let refused = operator.apply(&[host("host-a"), cluster("acme")]).await.unwrap_err();
    assert_eq!(fields(&refused), ["manifests[1].spec.network.vni"]);
    assert_eq!(operator.get("Host", "host-a").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_be_and_writes_nothing() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    operator.apply(&[cluster("acme")]).await.unwrap();
    let before = operator.get("Cluster", "acme").await.unwrap();
    let mut changed = cluster("acme");
    changed["spec"]["workers"][0]["replicas"] = 5.into();
    let applied = operator.apply_with(&[changed, host("host-a")], |request| request.dry_run = true).await.unwrap();
    assert_eq!(outcomes(&applied), [outcome("acme", Outcome::Updated), outcome("host-a", Outcome::Created)]);
    let (was, would_be): (Value, Value) =
        (serde_json::from_str(&applied[0].before).unwrap(), serde_json::from_str(&applied[0].after).unwrap());
    assert_eq!(
        (&was["spec"]["workers"][0]["replicas"], &would_be["spec"]["workers"][0]["replicas"]),
        (&2.into(), &5.into())
    );
    assert_eq!(operator.get("Cluster", "acme").await.unwrap(), before);
    assert_eq!(operator.get("Host", "host-a").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_manifest_of_another_object_or_of_an_older_state_is_refused() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    let mut printed = cluster("acme");
    printed["metadata"]["uid"] = "5b8e0c1e-3f52-4f6e-9d0c-5f2d8c1f7a10".into();
    let refused = operator.apply(&[printed.clone()]).await.unwrap_err();
    assert_eq!(
        (reason(&refused).as_str(), fields(&refused)),
        ("ANOTHER_UID", vec!["manifests[0].metadata.uid".to_owned()])
    );
    operator.apply(&[cluster("acme")]).await.unwrap();
    assert_eq!(reason(&operator.apply(&[printed]).await.unwrap_err()), "ANOTHER_UID");

    let old = operator.get("Cluster", "acme").await.unwrap();
    let mut changed = cluster("acme");
    changed["spec"]["paused"] = true.into();
    operator.apply(&[changed]).await.unwrap();
    let refused = operator.apply(&[old]).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "STALE_GENERATION"));
    let mut finalized = cluster("acme");
    finalized["metadata"]["finalizers"] = json!(["example.com/mine"]);
    assert_eq!(reason(&operator.apply(&[finalized]).await.unwrap_err()), "NOT_YOURS");
}

#[tokio::test]
async fn what_a_controller_made_is_not_applied_nor_deleted_by_people() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    let owner = served.write(cluster("acme")).await;
    let authority = json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "CertificateAuthority",
        "metadata": { "name": "acme" },
        "spec": { "cluster": "acme", "issuer": "vault", "ttl": "720h" },
    });
    let mut owned = authority.clone();
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Cluster", "name": "acme", "uid": owner.metadata().uid, "controller": true,
    }]);
    served.write(owned).await;
    let refused = operator.apply(&[authority]).await.unwrap_err();
    assert_eq!(reason(&refused), "OWNED");
    assert!(refused.message().contains("Cluster acme"), "{}", refused.message());
    let delete = pb::DeleteObjectRequest {
        kind: "CertificateAuthority".to_owned(),
        name: "acme".to_owned(),
        ..pb::DeleteObjectRequest::default()
    };
    assert_eq!(reason(&operator.objects().delete_object(delete).await.unwrap_err()), "OWNED");
}

#[tokio::test]
async fn a_prune_deletes_what_was_applied_and_is_not_there_any_more() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    let labelled = |mut manifest: Value, team: &str| {
        manifest["metadata"]["labels"] = json!({ "team": team });
        manifest
    };
    operator
        .apply(&[
            labelled(cluster("one"), "a"),
            labelled(cluster("two"), "a"),
            labelled(cluster("three"), "b"),
            host("host-a"),
        ])
        .await
        .unwrap();
    let prune = |selector: &str| {
        let prune = Some(pb::Prune { selector: selector.to_owned() });
        move |request: &mut pb::ApplyObjectsRequest| request.prune = prune
    };
    // What would mean everything, or not what is applied, is refused.
    let refused = operator.apply_with(&[labelled(cluster("one"), "a")], prune("")).await.unwrap_err();
    assert_eq!(fields(&refused), ["prune.selector"]);
    let refused = operator.apply_with(&[labelled(cluster("one"), "b")], prune("team=a")).await.unwrap_err();
    assert_eq!(fields(&refused), ["manifests[0].metadata.labels"]);
    let applied = operator.apply_with(&[labelled(cluster("one"), "a")], prune("team=a")).await.unwrap();
    assert_eq!(outcomes(&applied), [outcome("one", Outcome::Unchanged), outcome("two", Outcome::Pruned)]);
    assert_eq!(operator.get("Cluster", "two").await.unwrap_err().code(), Code::NotFound);
    operator.get("Cluster", "three").await.unwrap();
    operator.get("Host", "host-a").await.unwrap();
}

#[tokio::test]
async fn a_host_with_guests_is_not_deleted() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    operator.apply(&[host("host-a")]).await.unwrap();
    served.write(guest("acme", 0, "host-a")).await;
    served.until(|caches| caches.guests.get("acme.small-0").is_some()).await;
    let delete = pb::DeleteObjectRequest {
        kind: "Host".to_owned(),
        name: "host-a".to_owned(),
        ..pb::DeleteObjectRequest::default()
    };
    let refused = operator.objects().delete_object(delete.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "HOST_IN_USE");
    assert!(refused.message().contains("acme.small-0"), "{}", refused.message());
    let guest = pb::DeleteObjectRequest { kind: "Guest".to_owned(), name: "acme.small-0".to_owned(), ..delete.clone() };
    assert!(operator.objects().delete_object(guest).await.unwrap().into_inner().removed);
    served.until(|caches| caches.guests.get("acme.small-0").is_none()).await;
    let dry = pb::DeleteObjectRequest { dry_run: true, ..delete.clone() };
    assert!(operator.objects().delete_object(dry).await.unwrap().into_inner().removed);
    assert!(operator.objects().delete_object(delete.clone()).await.unwrap().into_inner().removed);
    assert_eq!(operator.objects().delete_object(delete).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn applies_at_the_same_time_all_come_through() {
    let served = Served::start().await;
    let operator = served.of(Role::Operator);
    let applying = (0..16).map(|index| {
        let operator = operator.clone();
        async move {
            let mut manifest = cluster("acme");
            manifest["metadata"]["labels"] = json!({ "number": index.to_string() });
            operator.apply(&[manifest, host(&format!("host-{index}"))]).await
        }
    });
    for applied in futures::future::join_all(applying).await {
        assert_eq!(applied.unwrap()[1].outcome(), Outcome::Created);
    }
}
