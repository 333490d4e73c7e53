//! Hosts that are simulated, and an operator that keeps in touch.

use super::condition::{DOCTOR, REACHABLE, READY};
use crate::{
    controllers::tests::{Lab, host},
    objects::{ConditionStatus, Host},
};

/// What a Host's condition says.
fn says(lab: &Lab, name: &str, type_: &str) -> Option<(ConditionStatus, String)> {
    let status = lab.get::<Host>(name)?.status?;
    status.conditions.get(type_).map(|condition| (condition.status, condition.reason.clone()))
}

fn until_true(lab: &Lab, name: &str, type_: &str) {
    lab.until(|lab| {
        let said = says(lab, name, type_);
        (!matches!(said, Some((ConditionStatus::True, _)))).then(|| format!("{type_} of {name}: {said:?}"))
    });
}

#[test]
fn a_host_tells_what_it_has_and_is_ready() {
    let lab = Lab::new(&["host-a"]);
    until_true(&lab, "host-a", READY);
    until_true(&lab, "host-a", DOCTOR);
    let status = lab.get::<Host>("host-a").unwrap().status.unwrap();
    assert_eq!(status.capacity.unwrap().vcpus, 64);
    assert!(status.heartbeat_time.is_some() && status.underlay_address.is_some());
    assert!(lab.is_connected("host-a"));
}

#[test]
fn one_connection_is_kept_and_made_again_when_it_breaks() {
    let lab = Lab::new(&["host-a"]);
    until_true(&lab, "host-a", READY);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(lab.world.connections("host-a"), 1);
    lab.world.restart_agent("host-a");
    lab.until(|lab| (lab.world.connections("host-a") < 2).then(|| "it is not dialled again".to_owned()));
    lab.until(|lab| (!lab.is_connected("host-a")).then(|| "it is not connected again".to_owned()));
    assert_eq!(says(&lab, "host-a", REACHABLE).unwrap().0, ConditionStatus::True, "a moment is no loss");
}

#[test]
fn another_machine_at_the_address_is_told_nothing_until_the_address_is_mended() {
    let lab = Lab::new(&["host-a"]);
    let mut wrong = host("host-b");
    wrong.spec.address = "host-a:7443".parse().unwrap();
    lab.create(&wrong);
    lab.until(|lab| {
        let said = says(lab, "host-b", REACHABLE);
        (said != Some((ConditionStatus::False, "WrongHost".to_owned()))).then(|| format!("{said:?}"))
    });
    assert!(!lab.is_connected("host-b"));
    lab.world.add_host("host-b", goliath_proto::agent::v1::Capacity::default());
    lab.change::<Host>("host-b", |host| host.spec.address = "host-b:7443".parse().unwrap());
    until_true(&lab, "host-b", REACHABLE);
}

#[test]
fn the_connection_goes_with_the_host() {
    let lab = Lab::new(&["host-a"]);
    until_true(&lab, "host-a", READY);
    lab.delete::<Host>("host-a");
    lab.until(|lab| lab.is_connected("host-a").then(|| "it is still connected".to_owned()));
}
