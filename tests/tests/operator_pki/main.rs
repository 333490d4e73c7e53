//! What the operator makes in a real Vault, with the policy that the documentation shows and no more; hosts are the
//! agent's own issuer, which logs in and has certificates signed.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod controller;
mod lab;

use std::time::Duration;

use anyhow::Result;
use goliath_agent::{certs::IssueError, spec::CertificateRequest};
use goliath_operator::{
    objects::GuestRole,
    pki::{Change, ClusterPki, Conflict, OPERATOR_POLICY, ObservedCluster, PkiError},
};
use goliath_vault::CallError;
use reqwest::Method;
use serde_json::{Value, json};

use self::lab::{Lab, WRAP, cluster, host, kubelet, requests, uid};

#[tokio::test]
async fn a_host_may_have_certificates_of_the_clusters_that_run_there_and_vault_refuses_it_the_others() -> Result<()> {
    let lab = Lab::start().await?;
    let root_x = lab.pki.make_cluster(&cluster("x")).await?;
    let root_y = lab.pki.make_cluster(&cluster("y")).await?;
    assert_ne!(root_x.certificate, root_y.certificate);
    assert_eq!(root_x.certificate.trim(), lab.vault.root_certificate("x").await?.trim());

    let a = lab.agent_of(&host("a.rack-1", &["x/worker"])).await?;
    let b = lab.agent_of(&host("b", &["x/worker", "y/worker"])).await?;
    let issued = a.has_signed("x", &kubelet()).await?;
    assert_eq!(issued.authorities.trim(), root_x.certificate.trim());
    a.is_refused("y", &kubelet()).await;
    b.has_signed("x", &kubelet()).await?;
    let issued = b.has_signed("y", &kubelet()).await?;
    assert_eq!(issued.authorities.trim(), root_y.certificate.trim());

    // A guest of y is placed on a, and the last guest of x leaves it: the token is the same.
    lab.pki.make_host(&host("a.rack-1", &["x/worker", "y/worker"])).await?;
    a.has_signed("y", &kubelet()).await?;
    lab.pki.make_host(&host("a.rack-1", &["y/worker"])).await?;
    a.is_refused("x", &kubelet()).await;
    a.has_signed("y", &kubelet()).await?;
    assert_eq!(lab.vault.count_requests("auth/approle/login")?, 2, "one login for each host");
    Ok(())
}

#[tokio::test]
async fn a_host_has_what_its_guests_ask_for_and_nothing_of_other_guests() -> Result<()> {
    let lab = Lab::start().await?;
    lab.pki.make_cluster(&cluster("x")).await?;
    let (masters, workers) =
        (requests("x", GuestRole::Master, "master-0"), requests("x", GuestRole::Worker, "worker-0"));
    let a = lab.agent_of(&host("a", &["x/master"])).await?;
    let b = lab.agent_of(&host("b", &["x/worker"])).await?;
    for request in &masters {
        a.has_signed("x", request).await?;
        b.is_refused("x", request).await;
    }
    for request in &workers {
        b.has_signed("x", request).await?;
        a.is_refused("x", request).await;
    }
    assert_eq!((masters.len(), workers.len()), (7, 1));
    Ok(())
}

#[tokio::test]
async fn names_that_are_not_the_clusters_are_refused() -> Result<()> {
    let lab = Lab::start().await?;
    lab.pki.make_cluster(&cluster("x")).await?;
    let agent = lab.agent_of(&host("a", &["x/master", "x/worker"])).await?;
    let masters = requests("x", GuestRole::Master, "master-0");
    let asked = |name: &str| masters.iter().find(|request| request.role == name).unwrap().clone();

    // Roles do not look at such common names: the policy does.
    for name in ["system:kube-controller-manager", "system:node:worker-0", "*"] {
        agent.is_refused("x", &CertificateRequest { common_name: name.to_owned(), ..asked("scheduler") }).await;
    }
    agent.is_refused("x", &CertificateRequest { common_name: "system:admin".to_owned(), ..kubelet() }).await;
    // The operator's own.
    let (role, common_name) = ("admin".to_owned(), "kubernetes-admin".to_owned());
    let organizations = ["system:masters".to_owned()].into();
    agent.is_refused("x", &CertificateRequest { role, common_name, organizations, ..asked("scheduler") }).await;

    for name in ["api.y.example", "*.x.example", "worker-0"] {
        let other = CertificateRequest { dns_names: [name.to_owned()].into(), ..asked("api") };
        let refusal = agent.has_signed("x", &other).await.unwrap_err();
        assert!(matches!(refusal, IssueError::Refused { .. }), "{name}: {refusal}");
    }
    let nested = CertificateRequest { dns_names: ["api.x.example".to_owned()].into(), ..asked("api") };
    agent.has_signed("x", &nested).await?;
    Ok(())
}

#[tokio::test]
async fn a_stolen_login_gives_no_certificate_that_outlives_the_role() -> Result<()> {
    let lab = Lab::start().await?;
    lab.pki.make_cluster(&cluster("x")).await?;
    let intruder = lab.intruder_on(&host("a", &["x/master", "x/worker"])).await?;
    let status = async |path: &str, body: Value| match intruder.write(path, body).await {
        Ok(()) => 200,
        Err(CallError::Refused { code, .. }) => code,
        Err(error) => unreachable!("{error}"),
    };
    // What Vault lets through is refused for the request that is none.
    let asked = json!({"common_name": "system:node:worker-0", "csr": "none"});
    assert_eq!(status("pki-x/sign/kubelet", asked.clone()).await, 400);
    let mut for_ever = asked.clone();
    for_ever["not_after"] = json!("2035-01-01T00:00:00Z");
    assert_eq!(status("pki-x/sign/kubelet", for_ever).await, 403);
    for path in [
        "pki-x/issue/kubelet",
        "pki-x/sign-verbatim/kubelet",
        "pki-x/issuer/default/sign/kubelet",
        "pki-x/roles/kubelet",
    ] {
        assert_eq!(status(path, asked.clone()).await, 403, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_what_was_changed_by_hand_is_set_right() -> Result<()> {
    let lab = Lab::start().await?;
    let (x, a) = (cluster("x"), host("a", &["x/worker"]));
    let root = lab.pki.make_cluster(&x).await?;
    lab.pki.make_host(&a).await?;
    let before = lab.writes();
    assert_eq!(lab.pki.make_cluster(&x).await?, root);
    lab.pki.make_host(&a).await?;
    assert_eq!(lab.writes(), before);

    let by_hand = async |path: &str, body: Value| lab.vault.call(Method::POST, path, body).await;
    by_hand("pki-x/roles/kubelet", json!({"allow_any_name": true, "max_ttl": "1h"})).await?;
    by_hand("pki-x/roles/open", json!({"allow_any_name": true})).await?;
    by_hand("sys/mounts/pki-x/tune", json!({"max_lease_ttl": "1h"})).await?;
    by_hand("identity/entity/name/goliath-a", json!({"policies": ["goliath-pki-x.worker", "goliath-pki-y.worker"]}))
        .await?;
    by_hand("auth/approle/role/goliath-a", json!({"token_policies": ["goliath-pki-y.worker"]})).await?;
    lab.pki.make_cluster(&x).await?;
    lab.pki.make_host(&a).await?;
    let mut mended = lab.writes().split_off(before.len() + 5);
    mended.sort();
    assert_eq!(
        mended,
        [
            "delete pki-x/roles/open",
            "update auth/approle/role/goliath-a",
            "update identity/entity/name/goliath-a",
            "update pki-x/roles/kubelet",
            "update sys/mounts/pki-x/tune",
        ]
    );
    assert!(x.changes(&lab.pki.observe_cluster(&x.spec.cluster).await?)?.is_empty());
    assert!(a.changes(&lab.pki.observe_host(&a.host).await?)?.is_empty());
    assert_eq!(lab.pki.make_cluster(&x).await?, root, "the root is never replaced");
    Ok(())
}

#[tokio::test]
async fn killed_between_any_two_changes_the_next_run_completes() -> Result<()> {
    let lab = Lab::start().await?;
    let a = host("a", &["x/worker"]);
    let mut x = cluster("x");
    x.spec.roles.retain(|role| ["kubelet", "etcd"].contains(&role.name.as_str()));
    // Each run is killed after its first change, and does that change once more as if its answer had been lost.
    let mut runs = 0;
    loop {
        let changes = x.changes(&lab.pki.observe_cluster(&x.spec.cluster).await?)?;
        let Some(change) = changes.first() else { break };
        lab.pki.apply(change).await?;
        let again = lab.pki.apply(change).await;
        if !matches!(change, Change::EnableMount { .. } | Change::GenerateRoot { .. }) {
            again?;
        }
        runs += 1;
    }
    loop {
        let changes = a.changes(&lab.pki.observe_host(&a.host).await?)?;
        let Some(change) = changes.first() else { break };
        lab.pki.apply(change).await?;
        lab.pki.apply(change).await?;
        runs += 1;
    }
    assert_eq!(runs, 10, "mount, root, two roles, two policies; entity, AppRole, alias, the entity's policies");
    assert_eq!(lab.vault.serial_numbers("x").await?.len(), 1, "one root was made");
    let agent = lab.agent(&lab.pki.issue_host_credentials(&a.host, a.uid, WRAP).await?)?;
    agent.has_signed("x", &kubelet()).await?;
    Ok(())
}

#[tokio::test]
async fn a_root_that_was_made_half_is_finished_and_not_made_again() -> Result<()> {
    let lab = Lab::start().await?;
    let x = cluster("x");
    let root = lab.pki.make_cluster(&x).await?;
    // Without its default issuer a mount is as Vault leaves it when a request is given up half-way.
    let by_hand = async |method, path: &str, body: Value| lab.vault.call(method, path, body).await;
    let second = json!({"common_name": "second", "issuer_name": "second", "key_type": "ec"});
    by_hand(Method::POST, "pki-x/issuers/generate/root/internal", second).await?;
    by_hand(Method::POST, "pki-x/config/issuers", json!({"default": "second"})).await?;
    by_hand(Method::DELETE, "pki-x/issuer/second", Value::Null).await?;
    assert_eq!(lab.pki.observe_cluster(&x.spec.cluster).await?.root, None);

    assert_eq!(lab.pki.make_cluster(&x).await?, root);
    assert_eq!(lab.issuers("x").await?, ["root"]);
    let agent = lab.agent_of(&host("a", &["x/worker"])).await?;
    assert_eq!(agent.has_signed("x", &kubelet()).await?.authorities.trim(), root.certificate.trim());
    Ok(())
}

#[tokio::test]
async fn a_removal_that_vault_gave_up_is_not_asked_for_again() -> Result<()> {
    let lab = Lab::start().await?;
    // A client that goes away in the midst of a removal; not each of them leaves it half done.
    for number in 0..50 {
        let x = cluster(&format!("x{number}"));
        lab.pki.make_cluster(&x).await?;
        lab.vault
            .give_up(Method::DELETE, &format!("sys/mounts/{}", x.mount()), Duration::from_millis(number % 10))
            .await;
        match lab.pki.delete_cluster(&x.spec.cluster, x.uid).await {
            Ok(()) => {}
            Err(refusal) => {
                assert_eq!(refusal, PkiError::Interrupted { mount: x.mount() });
                assert_eq!(lab.pki.delete_cluster(&x.spec.cluster, x.uid).await, Err(refusal));
                lab.pki.make_cluster(&cluster("y")).await?;
                return Ok(());
            }
        }
    }
    anyhow::bail!("Vault removed all of them: does it end what it began now? Then this guard is not needed any more")
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_stays_as_it_is() -> Result<()> {
    let lab = Lab::start().await?;
    let by_hand = async |path: &str, body: Value| lab.vault.call(Method::POST, path, body).await;
    by_hand("sys/mounts/pki-x", json!({"type": "pki", "description": "the shop's"})).await?;
    by_hand("sys/policies/acl/goliath-pki-y.master", json!({"policy": "path \"a\" { capabilities = [\"read\"] }"}))
        .await?;
    by_hand("identity/entity/name/goliath-a", json!({"policies": ["default"]})).await?;
    by_hand("auth/approle/role/goliath-b", json!({"token_policies": ["default"]})).await?;
    let before = lab.writes();

    let unowned = |error: PkiError| {
        assert_eq!(error.reason(), "VaultConflict");
        match error {
            PkiError::Conflict(Conflict::Unowned { what, .. }) => what,
            other => format!("{other}"),
        }
    };
    assert_eq!(unowned(lab.pki.make_cluster(&cluster("x")).await.unwrap_err()), "the mount pki-x");
    assert_eq!(unowned(lab.pki.make_cluster(&cluster("y")).await.unwrap_err()), "the policy goliath-pki-y.master");
    assert_eq!(unowned(lab.pki.make_host(&host("a", &[])).await.unwrap_err()), "the entity goliath-a");
    let b = host("b", &[]);
    let refusal = lab.pki.issue_host_credentials(&b.host, b.uid, WRAP).await.unwrap_err();
    assert_eq!(unowned(refusal), "the AppRole goliath-b");
    // Nothing of theirs is there to be removed.
    for cluster in ["x", "y"] {
        lab.pki.delete_cluster(&cluster.parse()?, uid(cluster)).await?;
    }
    for host in ["a", "b"] {
        lab.pki.forget_host(&host.parse()?, uid(host)).await?;
    }
    assert_eq!(lab.writes(), before);

    // Nor is what an earlier object of the same name left.
    let z = cluster("z");
    lab.pki.make_cluster(&z).await?;
    let made = lab.writes();
    let later = ClusterPki { uid: uid("later"), ..z.clone() };
    let refusal = lab.pki.make_cluster(&later).await.unwrap_err();
    assert!(matches!(refusal, PkiError::Conflict(Conflict::Another { .. })), "{refusal}");
    lab.pki.delete_cluster(&z.spec.cluster, later.uid).await?;
    assert_eq!(lab.writes(), made);

    lab.pki.delete_cluster(&z.spec.cluster, z.uid).await?;
    lab.pki.delete_cluster(&z.spec.cluster, z.uid).await?;
    assert_eq!(lab.pki.observe_cluster(&z.spec.cluster).await?, ObservedCluster::default());
    Ok(())
}

#[tokio::test]
async fn credentials_are_told_once_rotated_and_forgotten() -> Result<()> {
    let lab = Lab::start().await?;
    lab.pki.make_cluster(&cluster("x")).await?;
    let a = host("a", &["x/worker"]);
    let first = lab.pki.issue_host_credentials(&a.host, a.uid, WRAP).await?;
    assert_eq!(first.ttl, WRAP);
    let shown = format!("{first:?}");
    assert!(shown.contains(&first.role_id) && !shown.contains(first.wrapping_token.reveal()), "{shown}");
    lab.pki.make_host(&a).await?;
    let refusal = lab.pki.issue_host_credentials(&a.host, a.uid, WRAP).await.unwrap_err();
    assert_eq!(refusal, PkiError::AlreadyIssued(a.host.clone()));

    // The earlier secret id is destroyed, whether somebody unwrapped it or not.
    let second = lab.pki.rotate_host_credentials(&a.host, a.uid, WRAP).await?;
    let late = lab.agent(&first)?;
    let refusal = late.has_signed("x", &kubelet()).await.unwrap_err();
    assert_eq!(refusal.reason(), "VaultLoginFailed", "{refusal}");
    let agent = lab.agent(&second)?;
    agent.has_signed("x", &kubelet()).await?;

    lab.pki.forget_host(&a.host, uid("a later host of this name")).await?;
    agent.has_signed("x", &kubelet()).await?;
    lab.pki.forget_host(&a.host, a.uid).await?;
    let refusal = agent.has_signed("x", &kubelet()).await.unwrap_err();
    assert_eq!(
        refusal.reason(),
        "VaultLoginFailed",
        "neither the token nor the secret id is worth anything: {refusal}"
    );
    lab.pki.forget_host(&a.host, a.uid).await?;
    let entities = lab.vault.call(Method::from_bytes(b"LIST")?, "identity/entity/name", Value::Null).await;
    assert!(entities.is_err(), "nothing is left: {entities:?}");
    Ok(())
}

#[tokio::test]
async fn what_an_engineer_has_to_mend_is_told_apart() -> Result<()> {
    let mut lab = Lab::start().await?;
    let (x, a) = (cluster("x"), host("a", &[]));
    lab.vault
        .call(Method::PUT, "sys/policies/acl/operator", json!({"policy": "path \"a\" { capabilities = [\"read\"] }"}))
        .await?;
    let refusal = lab.pki.make_cluster(&x).await.unwrap_err();
    assert_eq!(refusal.reason(), "VaultForbidden", "{refusal}");
    lab.vault.call(Method::PUT, "sys/policies/acl/operator", json!({"policy": OPERATOR_POLICY})).await?;
    lab.vault.call(Method::DELETE, "sys/auth/approle", Value::Null).await?;
    let refusal = lab.pki.make_host(&a).await.unwrap_err();
    assert_eq!(refusal, PkiError::NoAppRole { mount: "approle".to_owned() });

    lab.vault.seal().await?;
    let refusal = lab.pki.make_cluster(&x).await.unwrap_err();
    assert_eq!((refusal.reason(), refusal.is_of_issuer()), ("VaultSealed", true), "{refusal}");
    lab.vault.stop().await?;
    let refusal = lab.pki.make_cluster(&x).await.unwrap_err();
    assert_eq!((refusal.reason(), refusal.is_of_issuer()), ("VaultUnreachable", true), "{refusal}");
    Ok(())
}
