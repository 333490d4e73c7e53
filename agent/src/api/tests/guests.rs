use std::{net::Ipv4Addr, sync::Arc};

use futures::future::join_all;
use goliath_proto::agent::v1 as pb;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::served::{Served, reason};
use crate::{
    api::render,
    ledger::Ledger,
    observed::{ChosenAccelerator, GuestStatus, ProcessStatus},
    spec::{ByteSize, GuestSpec, NetworkInterface, Seed, SeedKind, test::guest},
};

fn next(spec: &GuestSpec, change: impl FnOnce(&mut GuestSpec)) -> GuestSpec {
    let mut spec = GuestSpec { generation: (spec.generation.get() + 1).try_into().unwrap(), ..spec.clone() };
    change(&mut spec);
    spec
}

#[tokio::test]
async fn a_guest_is_written_down_once_and_read_back() {
    let served = Served::start().await;
    let spec = guest("worker-0");
    let outcome = async |spec: &GuestSpec| served.apply(spec).await.unwrap().outcome();
    assert_eq!(outcome(&spec).await, pb::ApplyOutcome::Created);
    assert_eq!(outcome(&spec).await, pb::ApplyOutcome::Unchanged);
    let newer = next(&spec, |spec| spec.machine.vcpus = 2);
    assert_eq!(outcome(&newer).await, pb::ApplyOutcome::Updated);

    assert_eq!(reason(&served.apply(&spec).await.unwrap_err()).1, "STALE_GENERATION");
    let mut reused = newer.clone();
    reused.machine.vcpus = 3;
    let refused = served.apply(&reused).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "REUSED_GENERATION".to_owned()));
    let precondition = refused.get_details_precondition_failure().unwrap();
    assert_eq!(precondition.violations[0].subject, "spec.generation");

    let got = served.guests().get_guest(pb::GetGuestRequest { uid: spec.uid.to_string() }).await.unwrap();
    let got = got.into_inner().guest.unwrap();
    assert_eq!(got.spec, Some(render::guest(&newer)));
    assert_eq!(got.status.unwrap().phase(), pb::GuestPhase::Accepted);
}

#[tokio::test]
async fn a_dry_run_judges_and_writes_nothing() {
    let served = Served::start().await;
    let request = |spec: &GuestSpec| pb::ApplyGuestRequest { spec: Some(render::guest(spec)), dry_run: true };
    let mut spec = guest("worker-0");
    let judged = served.guests().apply_guest(request(&spec)).await.unwrap().into_inner();
    assert_eq!(judged.outcome(), pb::ApplyOutcome::Created);
    spec.machine.memory = ByteSize::bytes(1 << 50);
    let judged = served.guests().apply_guest(request(&spec)).await.unwrap_err();
    assert_eq!(judged.code(), Code::ResourceExhausted);
    assert!(served.ledger.snapshot().guests.is_empty());
}

#[tokio::test]
async fn a_guest_beyond_the_host_is_refused_with_the_numbers() {
    let served = Served::start().await;
    let mut spec = guest("worker-0");
    spec.machine.memory = ByteSize::bytes(1 << 50);
    let refused = served.apply(&spec).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "HOST_FULL".to_owned()));
    assert!(refused.message().starts_with("memory is short by "), "{}", refused.message());
    assert_eq!(refused.get_details_quota_failure().unwrap().violations[0].subject, "host:host-a/memory");
    assert!(served.ledger.snapshot().guests.is_empty());
}

#[tokio::test]
async fn of_many_who_want_one_address_at_once_one_gets_it() {
    let served = Served::start().await;
    let guests = (0..16).map(|number| GuestSpec {
        network: Some(NetworkInterface { address: Ipv4Addr::new(10, 7, 0, 10), mac_address: None }),
        ..guest(&format!("worker-{number}"))
    });
    let guests: Vec<GuestSpec> = guests.collect();
    let answers = join_all(guests.iter().map(|spec| served.apply(spec))).await;
    let refused: Vec<_> =
        answers.iter().filter_map(|answer| answer.as_ref().err()).map(|status| reason(status).1).collect();
    assert_eq!(refused, ["ADDRESS_TAKEN"; 15]);
    assert_eq!(served.ledger.snapshot().guests.len(), 1);
}

#[tokio::test]
async fn a_change_that_needs_a_restart_says_so_where_a_qemu_runs() {
    let served = Served::start().await;
    let spec = guest("worker-0");
    served.apply(&spec).await.unwrap();
    let second = next(&spec, |spec| spec.machine.vcpus = 2);
    assert_eq!(served.apply(&second).await.unwrap().restart_required_by, Vec::<String>::new());

    let process = ProcessStatus {
        pid: 1,
        started_at: jiff::Timestamp::now(),
        accelerator: ChosenAccelerator::Tcg,
        qemu_version: "10.0.2".to_owned(),
    };
    served.observed.publish_guest(spec.uid, GuestStatus { process: Some(process), ..GuestStatus::default() });
    let third = next(&second, |spec| spec.machine.vcpus = 3);
    assert_eq!(served.apply(&third).await.unwrap().restart_required_by, ["machine"]);
    let fourth = next(&third, |spec| spec.labels = [("a".to_owned(), "b".to_owned())].into());
    assert_eq!(served.apply(&fourth).await.unwrap().restart_required_by, Vec::<String>::new());
}

#[tokio::test]
async fn a_delete_is_written_down_and_may_be_repeated() {
    let served = Served::start().await;
    let spec = guest("worker-0");
    let delete = async || served.guests().delete_guest(pb::DeleteGuestRequest { uid: spec.uid.to_string() }).await;
    assert_eq!(reason(&delete().await.unwrap_err()), (Code::NotFound, "GUEST_NOT_FOUND".to_owned()));
    served.apply(&spec).await.unwrap();
    delete().await.unwrap();
    delete().await.unwrap();
    assert!(served.ledger.snapshot().guests[&spec.uid].deleting);
    assert_eq!(reason(&served.apply(&spec).await.unwrap_err()).1, "DELETING");
}

#[tokio::test]
async fn a_list_leaves_the_documents_of_seeds_out_and_get_has_them() {
    let served = Served::start().await;
    let mut spec = guest("worker-0");
    let kind = SeedKind::CloudInit { user_data: "#cloud-config\n".to_owned(), vendor_data: String::new() };
    spec.seed = Some(Seed { kind, ntp_servers: vec!["ntp.example".to_owned()] });
    served.apply(&spec).await.unwrap();
    served.apply(&GuestSpec { cluster: "other".parse().unwrap(), ..guest("b") }).await.unwrap();

    let request = pb::ListGuestsRequest { cluster: "acme".to_owned() };
    let listed = served.guests().list_guests(request).await.unwrap().into_inner();
    assert_eq!(listed.guests.len(), 1);
    let seed = listed.guests[0].spec.clone().unwrap().seed.unwrap();
    assert_eq!(seed.kind, Some(pb::seed::Kind::CloudInit(pb::CloudInit::default())));
    assert_eq!(seed.ntp_servers, ["ntp.example"]);

    let request = pb::GetGuestRequest { uid: spec.uid.to_string() };
    let got = served.guests().get_guest(request).await.unwrap().into_inner().guest.unwrap();
    assert_eq!(got.spec, Some(render::guest(&spec)));
}

#[tokio::test]
async fn a_cordon_survives_and_holds_new_guests_off() {
    let served = Served::start().await;
    let cordon = pb::CordonHostRequest { cordoned: true };
    let host = served.hosts().cordon_host(cordon).await.unwrap().into_inner().host.unwrap();
    assert!(host.cordoned);
    assert_eq!(host.name, "host-a");
    let condition = host.conditions.iter().find(|condition| condition.r#type == "AcceptsGuests").unwrap();
    assert_eq!(condition.status(), pb::ConditionStatus::False);
    assert_eq!(reason(&served.apply(&guest("worker-0")).await.unwrap_err()).1, "HOST_CORDONED");
    assert!(served.ledger.host().borrow().cordoned);
}

#[tokio::test]
async fn what_is_left_of_the_host_shrinks_with_each_guest() {
    let served = Served::start().await;
    let available = async || {
        let host = served.hosts().get_host(pb::GetHostRequest {}).await.unwrap().into_inner().host.unwrap();
        host.available.unwrap()
    };
    let before = available().await;
    let spec = guest("worker-0");
    served.apply(&spec).await.unwrap();
    let after = available().await;
    assert_eq!(before.vcpus - after.vcpus, 1);
    // With QEMU's own.
    assert_eq!(before.memory_bytes - after.memory_bytes, spec.machine.memory.get() + ByteSize::mib(96).get());
}

#[tokio::test]
async fn a_host_tells_what_stands_against_guests_and_networks() {
    let served = Served::start().await;
    let host = served.hosts().get_host(pb::GetHostRequest {}).await.unwrap().into_inner().host.unwrap();
    assert_eq!(host.guest_overhead_bytes, ByteSize::mib(96).get());
    assert_eq!(host.networks, ["192.0.2.0/24"], "the network, not the address; and loopback is nobody's");
    assert_eq!(host.foreign_vnis, [7]);
}

#[tokio::test]
async fn what_was_acknowledged_is_on_disk() {
    let served = Served::start().await;
    let spec = guest("worker-0");
    served.apply(&spec).await.unwrap();
    let directory = served.paths(&spec).state().ancestors().nth(2).unwrap().join("ledger");
    let reread = Ledger::open(&directory).unwrap();
    assert_eq!(reread.snapshot().guests.get(&spec.uid).map(Arc::as_ref).unwrap().spec, spec);
}
