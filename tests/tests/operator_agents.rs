//! The operator's way to agents, tried on a real one: over mutual TLS, from another machine of the underlay.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use goliath_lab::{Host, Lab, namespace, program, run};
use goliath_operator::{
    agents::{
        Agent as _, AgentConnector as _, AgentError, GuestWatch, Limits, Target, Tls, TlsFiles,
        convert::{GuestIdentity, guest_spec, guest_status, host_status},
        dial,
    },
    objects::{Guest, GuestPhase},
};
use goliath_proto::agent::v1::{self as pb, watch_guests_response::Kind};
use serde_json::json;

/// A tiny guest boots in 3 to 4 s; a machine with two busy processors is slower.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs in a namespace, with a runtime of its own: what it connects to it reaches from there.
fn from_namespace<R: Send>(path: &Path, work: impl AsyncFnOnce() -> Result<R> + Send) -> Result<R> {
    tokio::task::block_in_place(|| {
        namespace::inside(path, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        })
    })
}

/// As the operator reaches the lab's hosts.
fn connector(host: &Host) -> Tls {
    let pki = host.directory().join("pki");
    let files =
        TlsFiles { certificate: pki.join("operator.crt"), key: pki.join("operator.key"), agent_ca: pki.join("ca.crt") };
    Tls::new(files, Limits::default())
}

fn target(host: &Host) -> Result<Target> {
    let address = host.api_address().to_string().parse()?;
    Ok(Target { host: host.name().parse()?, address, server_name: None })
}

/// An object as the store gives it out.
fn guest() -> Result<Guest> {
    let layout = program::image_layout("tiny")?;
    Ok(serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Guest",
        "metadata": {
            "name": "acme.default-0", "uid": uuid::Uuid::new_v4().to_string(), "generation": 2, "resourceVersion": "7"
        },
        "spec": {
            "cluster": "acme", "role": "worker", "pool": "default", "index": 0, "hostname": "default-0",
            "machine": { "vcpus": 1, "memory": "192MiB", "accelerator": "tcg" },
            "boot": { "kernel": {} },
            "image": format!("oci-layout:{}", layout.display()),
            "seed": { "cloudInit": {} },
        }
    }))?)
}

/// Waits for an event of the watch.
async fn until(
    watch: &mut GuestWatch,
    what: &str,
    mut holds: impl FnMut(&pb::WatchGuestsResponse) -> bool,
) -> Result<pb::WatchGuestsResponse> {
    let seen = async {
        loop {
            let event = watch.next().await?;
            if holds(&event) {
                return Ok(event);
            }
        }
    };
    tokio::time::timeout(LIMIT, seen).await.with_context(|| format!("the watch does not tell: {what}"))?
}

#[test]
fn a_guest_is_applied_watched_and_deleted() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let (guest, target, tls) = (guest()?, target(&host)?, connector(&host));
        from_namespace(lab.underlay().namespace(), async || {
            let (agent, told) = dial(&tls, &target).await?;
            let status = host_status(&told, &agent.images().await?);
            assert_eq!(status.underlay_address, Some(host.address()));
            assert!(status.capacity.unwrap().vcpus > 0);
            assert!(!agent.doctor().await?.is_empty());

            let list = agent.guests().await?;
            let mut watch = agent.watch_guests(list.revision).await?;
            let spec = guest_spec(&guest)?;
            assert_eq!(agent.apply_guest(spec.clone()).await?.outcome(), pb::ApplyOutcome::Created);
            assert_eq!(agent.apply_guest(spec.clone()).await?.outcome(), pb::ApplyOutcome::Unchanged);
            let older = pb::GuestSpec { generation: 1, ..spec.clone() };
            let refusal = agent.apply_guest(older).await.unwrap_err();
            assert_eq!(refusal.reason(), "NewerGenerationHeld", "{refusal:?}");

            let booted = until(&mut watch, "booted", |event| {
                let status = event.guest.as_ref().and_then(|guest| guest.status.as_ref());
                status
                    .into_iter()
                    .flat_map(|status| &status.conditions)
                    .any(|condition| condition.r#type == "Booted" && condition.status() == pb::ConditionStatus::True)
            });
            let seen = booted.await?.guest.unwrap();
            assert_eq!(seen.spec.as_ref().unwrap().uid, spec.uid);
            let status = guest_status(&"a".parse()?, &seen.status.unwrap());
            assert_eq!(status.phase, Some(GuestPhase::Running));
            assert_eq!((status.observed_generation, status.running_generation), (Some(2), Some(2)));
            assert!(status.conditions.is_true("Running") && status.process.is_some());

            let uid = GuestIdentity::of(&guest)?.uid;
            agent.delete_guest(uid).await?;
            until(&mut watch, "gone", |event| event.kind() == Kind::Deleted).await?;
            assert!(matches!(agent.delete_guest(uid).await, Err(AgentError::NotFound)));
            assert!(matches!(agent.guest(uid).await, Err(AgentError::NotFound)));
            Ok(())
        })
    });
}

#[test]
fn a_refused_spec_names_every_bad_field() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let (guest, target, tls) = (guest()?, target(&host)?, connector(&host));
        from_namespace(lab.underlay().namespace(), async || {
            let (agent, _) = dial(&tls, &target).await?;
            let spec = guest_spec(&guest)?;
            let spec = pb::GuestSpec { image: "no such thing".to_owned(), machine: None, ..spec };
            let AgentError::Refused(refusal) = agent.apply_guest(spec).await.unwrap_err() else {
                panic!("it is a refusal")
            };
            let subjects: Vec<_> = refusal.problems.iter().map(|problem| problem.subject.as_str()).collect();
            assert!(subjects.contains(&"spec.image") && subjects.contains(&"spec.machine"), "{subjects:?}");
            Ok(())
        })
    });
}

#[test]
fn nothing_is_told_to_a_machine_that_is_not_the_one_meant() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let (right, tls) = (target(&host)?, connector(&host));
        from_namespace(lab.underlay().namespace(), async || {
            // The certificate is right, the agent is another host's.
            let wrong = Target { host: "b".parse()?, ..right.clone() };
            let error = dial(&tls, &wrong).await.unwrap_err();
            assert!(matches!(&error, AgentError::WrongHost { answered, .. } if answered == "a"), "{error:?}");
            // The certificate is another one's.
            let wrong = Target { server_name: Some("b".parse()?), ..right.clone() };
            let error = tls.connect(&wrong).await.unwrap_err();
            assert!(matches!(error, AgentError::Unreachable(_)), "{error:?}");
            let named = Target { server_name: Some("a".parse()?), ..right };
            assert_eq!(dial(&tls, &named).await?.1.name, "a");
            Ok(())
        })
    });
}

#[test]
fn a_watch_and_every_call_end_with_the_agent() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let (target, tls) = (target(&host)?, connector(&host));
        from_namespace(lab.underlay().namespace(), async || {
            let (agent, _) = dial(&tls, &target).await?;
            let revision = agent.guests().await?.revision;
            let mut watch = agent.watch_guests(revision).await?;
            host.kill_agent().await?;
            let told = async {
                loop {
                    if let Err(error) = watch.next().await {
                        return error;
                    }
                }
            };
            let error = tokio::time::timeout(LIMIT, told).await.context("the watch does not end")?;
            assert!(error.ends_connection(), "{error:?}");
            let error = agent.host().await.unwrap_err();
            assert!(error.ends_connection(), "{error:?}");
            assert!(dial(&tls, &target).await.unwrap_err().ends_connection());

            // The same connector, another connection; revisions of the agent's former life mean nothing any more.
            host.start_agent().await?;
            let (agent, _) = dial(&tls, &target).await?;
            match agent.watch_guests(revision).await {
                Err(error) => assert!(matches!(error, AgentError::RevisionGone), "{error:?}"),
                Ok(mut watch) => {
                    let error = watch.next().await.unwrap_err();
                    assert!(matches!(error, AgentError::RevisionGone), "{error:?}");
                }
            }
            Ok(())
        })
    });
}
