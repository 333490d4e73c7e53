//! Guests on simulated hosts that fail, under an operator that is killed.

use std::time::Duration;

use proptest::prelude::*;

use super::condition::{DELETING, HOST_REACHABLE, READY};
use crate::{
    agents::simulated::Faults,
    controllers::tests::{Lab, guest},
    objects::{ConditionStatus, Guest, GuestPhase, Host, ResourceExt as _},
};

const HOSTS: [&str; 3] = ["host-a", "host-b", "host-c"];

fn name(slot: usize) -> String {
    format!("acme.default-{slot}")
}

#[test]
fn a_guest_runs_where_it_is_bound_changes_in_place_and_goes() {
    let lab = Lab::new(&HOSTS);
    lab.create(&guest("acme.default-0", Some("host-b")));
    lab.until(|lab| lab.unfinished(&HOSTS));
    let seen = lab.get::<Guest>("acme.default-0").unwrap().status.unwrap();
    assert_eq!(seen.phase, Some(GuestPhase::Running));
    assert!(seen.conditions.is_true(HOST_REACHABLE) && seen.conditions.is_true("Applied"));

    lab.change::<Guest>("acme.default-0", |guest| guest.spec.image = "registry.example/debian:13".parse().unwrap());
    lab.until(|lab| lab.unfinished(&HOSTS));
    assert_eq!(lab.world.starts(), 2);

    lab.delete::<Guest>("acme.default-0");
    lab.until(|lab| lab.get::<Guest>("acme.default-0").map(|guest| format!("{:?}", guest.status)));
    assert_eq!(lab.unfinished(&HOSTS), None);
}

#[test]
fn a_guest_of_a_lost_host_stays_as_it_was_seen_and_does_not_go() {
    let lab = Lab::new(&HOSTS);
    lab.create(&guest("acme.default-0", Some("host-b")));
    lab.until(|lab| lab.unfinished(&HOSTS));
    lab.fail("host-b", Faults { unreachable: true, ..Faults::default() });
    let status = |lab: &Lab| lab.get::<Guest>("acme.default-0").unwrap().status.unwrap();
    lab.until(|lab| {
        let status = status(lab);
        let lost = status.conditions.get(HOST_REACHABLE).is_some_and(|host| host.status == ConditionStatus::False);
        (!lost).then(|| format!("the loss is not told: {status:?}"))
    });
    let seen = status(&lab);
    assert_eq!(seen.phase, Some(GuestPhase::Running), "as it was seen last");
    assert_eq!(seen.conditions.get(READY).unwrap().status, ConditionStatus::Unknown);
    let host = lab.get::<Host>("host-b").unwrap().status.unwrap();
    assert_eq!(host.conditions.get("Reachable").unwrap().status, ConditionStatus::False);

    lab.delete::<Guest>("acme.default-0");
    lab.until(|lab| {
        let deleting = status(lab).conditions.get(DELETING).cloned();
        deleting.as_ref().is_none_or(|deleting| deleting.reason != "WaitsForHost").then(|| format!("{deleting:?}"))
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(lab.get::<Guest>("acme.default-0").is_some(), "nobody said that it is gone");
    assert_eq!(lab.world.guests("host-b").len(), 1);

    lab.fail("host-b", Faults::default());
    lab.until(|lab| lab.get::<Guest>("acme.default-0").map(|guest| format!("{:?}", guest.status)));
    assert!(lab.world.guests("host-b").is_empty());
}

#[test]
fn a_guest_whose_host_was_forgotten_goes_to_another_and_is_deleted_where_it_was_when_that_comes_back() {
    let lab = Lab::new(&HOSTS);
    lab.create(&guest("acme.default-0", Some("host-b")));
    lab.until(|lab| lab.unfinished(&HOSTS));
    lab.world.power_off("host-b");
    // As `host forget` does.
    lab.delete::<Host>("host-b");
    lab.change::<Guest>("acme.default-0", |guest| guest.spec.binding = None);
    let bound = crate::controllers::tests::guest("acme.default-0", Some("host-c")).spec.binding;
    lab.change::<Guest>("acme.default-0", |guest| guest.spec.binding.clone_from(&bound));
    lab.until(|lab| lab.unfinished(&["host-a", "host-c"]));
    assert_eq!(lab.world.doubled(), []);

    // It is mended, and its agent begins where it ended.
    lab.world.power_on("host-b");
    lab.create(&crate::controllers::tests::host("host-b"));
    lab.until(|lab| lab.unfinished(&HOSTS));
}

#[test]
fn a_guest_that_somebody_deleted_at_its_agent_is_made_anew() {
    let lab = Lab::new(&HOSTS);
    lab.create(&guest("acme.default-0", Some("host-b")));
    lab.until(|lab| lab.unfinished(&HOSTS));
    let uid = *lab.world.guests("host-b").first().unwrap();
    lab.world.delete_by_hand("host-b", uid);
    lab.until(|lab| (lab.world.starts() < 2).then(|| "it does not come back".to_owned()));
    lab.until(|lab| lab.unfinished(&HOSTS));
}

#[test]
fn a_stranger_is_told_of_and_left_alone() {
    let lab = Lab::new(&HOSTS);
    let stranger = goliath_proto::agent::v1::GuestSpec {
        uid: uuid::Uuid::new_v4().to_string(),
        generation: 1,
        name: "default-7".to_owned(),
        cluster: "acme".to_owned(),
        ..Default::default()
    };
    lab.world.intrude("host-a", stranger).unwrap();
    lab.until(|lab| {
        let status = lab.get::<Host>("host-a").unwrap().status.unwrap_or_default();
        let strangers = status.conditions.get("Strangers").cloned();
        (!strangers.as_ref().is_some_and(|found| found.message.contains("of cluster acme has no Guest")))
            .then(|| format!("{strangers:?}"))
    });
    lab.create(&guest("acme.default-0", Some("host-a")));
    lab.until(|lab| (lab.world.starts() < 2).then(|| "the guest does not start beside it".to_owned()));
    assert_eq!(lab.world.guests("host-a").len(), 2);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Create(usize, usize),
    Change(usize),
    Delete(usize),
    Cut(usize),
    Noise(usize, u8, u8),
    Slow(usize, u64),
    Heal(usize),
    RestartAgent(usize),
    Reboot(usize),
    Kill,
    Start,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (slot, host) = (0..4_usize, 0..HOSTS.len());
    prop_oneof![
        6 => (slot.clone(), host.clone()).prop_map(|(slot, host)| Step::Create(slot, host)),
        3 => slot.clone().prop_map(Step::Change),
        4 => slot.prop_map(Step::Delete),
        1 => host.clone().prop_map(Step::Cut),
        2 => (host.clone(), 0..40_u8, 0..40_u8).prop_map(|(host, lost, unheard)| Step::Noise(host, lost, unheard)),
        1 => (host.clone(), 1..150_u64).prop_map(|(host, delay)| Step::Slow(host, delay)),
        2 => host.clone().prop_map(Step::Heal),
        1 => host.clone().prop_map(Step::RestartAgent),
        1 => host.prop_map(Step::Reboot),
        2 => Just(Step::Kill),
        4 => Just(Step::Start),
        6 => (0..40_u64).prop_map(Step::Wait),
    ]
}

fn take(lab: &mut Lab, step: Step) {
    match step {
        Step::Create(slot, host) => {
            if lab.get::<Guest>(&name(slot)).is_none() {
                lab.create(&guest(&name(slot), Some(HOSTS[host])));
            }
        }
        Step::Change(slot) => lab.change::<Guest>(&name(slot), |guest| {
            let vcpus = 3 - u64::from(guest.spec.machine.vcpus.get());
            guest.spec.machine.vcpus = vcpus.try_into().unwrap();
        }),
        Step::Delete(slot) => lab.delete::<Guest>(&name(slot)),
        Step::Cut(host) => lab.fail(HOSTS[host], Faults { unreachable: true, ..Faults::default() }),
        Step::Noise(host, lost_requests, lost_replies) => {
            lab.fail(HOSTS[host], Faults { lost_requests, lost_replies, ..Faults::default() });
        }
        Step::Slow(host, delay) => {
            lab.fail(HOSTS[host], Faults { delay: Duration::from_millis(delay), ..Faults::default() });
        }
        Step::Heal(host) => lab.fail(HOSTS[host], Faults::default()),
        Step::RestartAgent(host) => lab.world.restart_agent(HOSTS[host]),
        Step::Reboot(host) => lab.world.reboot(HOSTS[host]),
        Step::Kill => lab.kill_operator(),
        Step::Start => lab.start_operator(),
        Step::Wait(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    /// Whatever fails and whenever, no guest ever runs twice at one time, and in the end hosts run what objects say.
    #[test]
    fn no_guest_runs_twice_and_in_the_end_all_is_as_declared(steps in prop::collection::vec(step(), 1..40)) {
        let mut lab = Lab::new(&HOSTS);
        for step in steps {
            take(&mut lab, step);
        }
        for host in HOSTS {
            lab.fail(host, Faults::default());
        }
        lab.start_operator();
        lab.until(|lab| lab.unfinished(&HOSTS));
        prop_assert_eq!(lab.world.doubled(), []);
        for guest in lab.list::<Guest>() {
            lab.delete::<Guest>(&guest.name_any());
        }
        lab.until(|lab| lab.list::<Guest>().first().map(|guest| format!("{} stays", guest.name_any())));
        prop_assert!(HOSTS.iter().all(|host| lab.world.guests(host).is_empty()));
    }
}
