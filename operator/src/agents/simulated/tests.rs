//! The simulation behaves as the API promises.

use goliath_proto::agent::v1::watch_guests_response::Kind;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::agents::{Agent as _, RefusalKind, dial};

const LIMITS: Limits = Limits {
    connect: Duration::from_millis(200),
    call: Duration::from_millis(200),
    doctor: Duration::from_millis(200),
    keep_alive: Duration::from_millis(200),
};
/// Longer than anything takes there.
const LONG: Duration = Duration::from_millis(400);

fn capacity() -> pb::Capacity {
    pb::Capacity { vcpus: 64, memory_bytes: 64 << 30, disk_bytes: 1 << 40 }
}

fn world() -> World {
    let world = World::new(Paces::fast(), LIMITS);
    world.add_host("host-a", capacity());
    world.add_host("host-b", capacity());
    world
}

fn target(host: &str) -> Target {
    Target { host: host.parse().unwrap(), address: format!("{host}:7443").parse().unwrap(), server_name: None }
}

fn uid(number: u128) -> GuestUid {
    Uuid::from_u128(number).to_string().parse().unwrap()
}

fn spec(number: u128, generation: u64) -> pb::GuestSpec {
    pb::GuestSpec {
        uid: uid(number).to_string(),
        generation,
        name: format!("worker-{number}"),
        cluster: "acme".to_owned(),
        machine: Some(pb::Machine { vcpus: 2, memory_bytes: 2 << 30, ..pb::Machine::default() }),
        image: "registry.example/debian:12".to_owned(),
        ..pb::GuestSpec::default()
    }
}

async fn phase(agent: &SimulatedAgent, number: u128) -> pb::GuestPhase {
    agent.guest(uid(number)).await.unwrap().status.unwrap().phase()
}

async fn kind(applied: impl Future<Output = Result<pb::ApplyGuestResponse, AgentError>>) -> RefusalKind {
    match applied.await {
        Err(AgentError::Refused(refusal)) => refusal.kind,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_climbs_its_ladder_and_goes_when_it_is_deleted() {
    let world = world();
    let (agent, host) = dial(&world, &target("host-a")).await.unwrap();
    assert_eq!(host.name, "host-a");
    let list = agent.guests().await.unwrap();
    let mut watch = agent.watch_guests(list.revision).await.unwrap();
    agent.apply_guest(spec(1, 1)).await.unwrap();
    let mut phases = Vec::new();
    loop {
        let event = watch.next().await.unwrap();
        let status = event.guest.unwrap().status.unwrap();
        if phases.last() != Some(&status.phase()) {
            phases.push(status.phase());
        }
        if status
            .conditions
            .iter()
            .any(|condition| condition.r#type == "Booted" && condition.status() == pb::ConditionStatus::True)
        {
            break;
        }
    }
    assert_eq!(phases, [pb::GuestPhase::Preparing, pb::GuestPhase::Starting, pb::GuestPhase::Running]);
    agent.delete_guest(uid(1)).await.unwrap();
    let begun = tokio::time::Instant::now();
    loop {
        let event = watch.next().await.unwrap();
        if event.kind() == Kind::Deleted {
            break;
        }
    }
    assert!(begun.elapsed() >= Paces::fast().stop, "a stop takes time");
    assert!(matches!(agent.delete_guest(uid(1)).await, Err(AgentError::NotFound)));
    assert_eq!((world.starts(), world.doubled()), (1, Vec::new()));
}

#[tokio::test]
async fn generations_admission_and_cordons_are_as_the_api_promises() {
    let world = world();
    let agent = world.connect(&target("host-a")).await.unwrap();
    let outcome = |answer: pb::ApplyGuestResponse| answer.outcome();
    assert_eq!(outcome(agent.apply_guest(spec(1, 2)).await.unwrap()), pb::ApplyOutcome::Created);
    assert_eq!(outcome(agent.apply_guest(spec(1, 2)).await.unwrap()), pb::ApplyOutcome::Unchanged);
    assert_eq!(kind(agent.apply_guest(spec(1, 1))).await, RefusalKind::NewerGenerationHeld);
    let changed = pb::GuestSpec { image: "registry.example/debian:13".to_owned(), ..spec(1, 2) };
    assert_eq!(kind(agent.apply_guest(changed.clone())).await, RefusalKind::GenerationReused);
    let changed = pb::GuestSpec { generation: 3, ..changed };
    assert_eq!(outcome(agent.apply_guest(changed).await.unwrap()), pb::ApplyOutcome::Updated);
    let large = pb::Machine { vcpus: 2, memory_bytes: 63 << 30, ..pb::Machine::default() };
    let large = pb::GuestSpec { machine: Some(large), ..spec(2, 1) };
    assert_eq!(kind(agent.apply_guest(large)).await, RefusalKind::Full);
    agent.cordon(true).await.unwrap();
    assert_eq!(kind(agent.apply_guest(spec(2, 1))).await, RefusalKind::Cordoned);
    assert!(agent.apply_guest(spec(1, 4)).await.is_ok(), "a cordoned host keeps what it has");
    agent.delete_guest(uid(1)).await.unwrap();
    assert_eq!(kind(agent.apply_guest(spec(1, 5))).await, RefusalKind::Deleting);
}

#[tokio::test]
async fn a_guest_waits_for_its_network() {
    let world = world();
    let agent = world.connect(&target("host-a")).await.unwrap();
    let network = pb::NetworkInterface { ipv4_address: "10.7.0.2".to_owned(), mac_address: String::new() };
    agent.apply_guest(pb::GuestSpec { network: Some(network), ..spec(1, 1) }).await.unwrap();
    tokio::time::sleep(LONG).await;
    assert_eq!(phase(&agent, 1).await, pb::GuestPhase::Preparing);
    let network = pb::NetworkSpec { cluster: "acme".to_owned(), generation: 1, vni: 7, ..pb::NetworkSpec::default() };
    let request = pb::ApplyNetworkRequest { spec: Some(network), ..pb::ApplyNetworkRequest::default() };
    agent.apply_network(request).await.unwrap();
    tokio::time::sleep(LONG).await;
    assert_eq!(phase(&agent, 1).await, pb::GuestPhase::Running);
    let cluster = "acme".parse().unwrap();
    assert!(matches!(agent.delete_network(&cluster).await, Err(AgentError::Refused(_))), "a guest is in it");
}

#[tokio::test]
async fn a_watch_of_another_life_of_the_agent_is_out_of_range() {
    let world = world();
    let agent = world.connect(&target("host-a")).await.unwrap();
    let revision = agent.guests().await.unwrap().revision;
    let mut watch = agent.watch_guests(revision).await.unwrap();
    world.restart_agent("host-a");
    assert!(watch.next().await.unwrap_err().ends_connection());
    assert!(agent.host().await.unwrap_err().ends_connection());
    let agent = world.connect(&target("host-a")).await.unwrap();
    assert!(matches!(agent.watch_guests(revision).await, Err(AgentError::RevisionGone)));
}

#[tokio::test]
async fn another_host_that_answers_is_told_nothing() {
    let world = world();
    let wrong = Target { host: "host-a".parse().unwrap(), ..target("host-b") };
    let error = dial(&world, &wrong).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "asked for host-a, and the agent that answers calls itself \"host-b\": is the address right?"
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_had_its_effect_and_a_request_that_is_lost_had_none() {
    let world = world();
    for (faults, effect) in [
        (Faults { lost_replies: 100, ..Faults::default() }, true),
        (Faults { lost_requests: 100, ..Faults::default() }, false),
    ] {
        let agent = world.connect(&target("host-a")).await.unwrap();
        world.set_faults("host-a", faults);
        assert!(agent.apply_guest(spec(1, 1)).await.unwrap_err().ends_connection());
        assert_eq!(world.guests("host-a").contains(&uid(1)), effect);
        world.set_faults("host-a", Faults::default());
        let agent = world.connect(&target("host-a")).await.unwrap();
        let _ = agent.delete_guest(uid(1)).await;
        tokio::time::sleep(LONG).await;
    }
}

#[tokio::test]
async fn what_is_slow_is_not_done_after_its_connection_was_closed() {
    let world = world();
    world.set_faults("host-a", Faults { delay: Duration::from_millis(300), ..Faults::default() });
    let agent = world.connect(&target("host-a")).await.unwrap();
    assert!(matches!(agent.apply_guest(spec(1, 1)).await, Err(AgentError::NoAnswer(_))));
    drop(agent);
    tokio::time::sleep(LONG).await;
    assert!(world.guests("host-a").is_empty());
}

#[tokio::test]
async fn the_world_sees_a_guest_that_runs_twice() {
    let world = world();
    for host in ["host-a", "host-b"] {
        world.connect(&target(host)).await.unwrap().apply_guest(spec(1, 1)).await.unwrap();
    }
    tokio::time::sleep(LONG).await;
    assert_eq!(world.doubled(), [Doubled { uid: uid(1), hosts: [0, 1] }]);
}

/// Takes in what a watch tells within some time.
async fn drain(watch: &mut crate::agents::GuestWatch, known: &mut BTreeMap<String, pb::Guest>, time: Duration) {
    let told = async {
        loop {
            let event = watch.next().await.unwrap();
            let Some(guest) = event.guest.clone() else { continue };
            let uid = guest.spec.as_ref().unwrap().uid.clone();
            match event.kind() {
                Kind::Deleted => known.remove(&uid),
                _ => known.insert(uid, guest),
            };
        }
    };
    let _: Result<(), _> = tokio::time::timeout(time, told).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whoever lists once and then watches knows what one who lists again is told.
    #[test]
    fn a_watch_tells_everything(steps in prop::collection::vec((0_u128..4, 0_u8..3, 0_u64..12), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = world();
            let agent = world.connect(&target("host-a")).await.unwrap();
            let mut known: BTreeMap<String, pb::Guest> = BTreeMap::new();
            let mut watch = agent.watch_guests(0).await.unwrap();
            for (generation, (number, action, pause)) in (1..).zip(steps) {
                let _ = match action {
                    0 => agent.delete_guest(uid(number + 1)).await,
                    _ => agent.apply_guest(spec(number + 1, generation)).await.map(|_| ()),
                };
                drain(&mut watch, &mut known, Duration::from_millis(pause)).await;
            }
            tokio::time::sleep(LONG).await;
            drain(&mut watch, &mut known, Duration::from_millis(1)).await;
            let list = agent.guests().await.unwrap();
            let listed: BTreeMap<String, pb::Guest> =
                list.guests.into_iter().map(|guest| (guest.spec.clone().unwrap().uid, guest)).collect();
            assert_eq!(known, listed);
            assert_eq!(world.doubled(), []);
        });
    }
}
