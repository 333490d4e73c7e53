use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    super::{
        Action, DISCARD_MASTER_DATA,
        change::{Blueprint, Change, configuration},
        group::Group,
    },
    world::{World, manifest, now, pool, root_disk},
};
use crate::objects::{Cluster, ConditionStatus, Guest, ResourceExt as _, SeedKind};

fn names(actions: &[Action]) -> Vec<String> {
    let name = |action: &Action| match action {
        Action::KeepCluster => "keep".to_owned(),
        Action::ReleaseCluster => "release".to_owned(),
        Action::CreateAuthority(_) => "+authority".to_owned(),
        Action::UpdateAuthority(_) => "~authority".to_owned(),
        Action::DeleteAuthority(_) => "-authority".to_owned(),
        Action::CreateGuest(guest) => format!("+{}", guest.name_any()),
        Action::UpdateGuest(guest) => format!("~{}", guest.name_any()),
        Action::DeleteGuest(guest) => format!("-{}", guest.name_any()),
        Action::CreateCertificate(certificate) => format!("+{}", certificate.name_any()),
        Action::UpdateCertificate(certificate) | Action::CertificateStatus(certificate) => {
            format!("~{}", certificate.name_any())
        }
        Action::DeleteCertificate(certificate) => format!("-{}", certificate.name_any()),
    };
    actions.iter().map(name).collect()
}

fn decided(world: &World) -> Vec<String> {
    names(&world.decide().unwrap().actions)
}

/// Reason and message of one of the cluster's conditions.
fn told(world: &World, type_: &str) -> (ConditionStatus, String, String) {
    let status = world.decide().unwrap().status;
    let condition = status.conditions.get(type_).unwrap();
    (condition.status, condition.reason.clone(), condition.message.clone())
}

fn set(world: &mut World, guest: &str, type_: &str, status: ConditionStatus, message: &str) {
    let guest = Arc::make_mut(world.guests.get_mut(guest).unwrap());
    guest.status.get_or_insert_default().conditions.set(type_, status, "Reason", message, None, now());
}

fn three_and_two() -> Value {
    manifest(3, &[pool("default", 2, &root_disk())])
}

#[test]
fn a_cluster_comes_up_in_order() {
    let mut world = World::new(three_and_two());
    assert_eq!(decided(&world), ["keep"]);
    world.reconcile(usize::MAX);
    assert_eq!(decided(&world), ["+authority"]);
    assert_eq!(told(&world, "Progressing").1, "WaitsForNetwork");
    world.reconcile(usize::MAX);
    world.network();
    assert_eq!(decided(&world), [] as [&str; 0]);
    assert_eq!(told(&world, "Progressing").1, "WaitsForAuthority");
    world.issuer();
    assert_eq!(decided(&world), ["+acme.master-0", "+acme.master-1", "+acme.master-2"]);
    world.reconcile(usize::MAX);
    let message = "workers wait for the masters: acme.master-0 waits for a host";
    assert_eq!(told(&world, "Progressing"), (ConditionStatus::True, "WaitsForMasters".to_owned(), message.to_owned()));
    world.finish();
    let status = world.cluster.as_ref().unwrap().status.clone().unwrap();
    assert_eq!((status.masters.ready, status.workers.ready), (3, 2));
    assert_eq!(status.api_endpoint.unwrap().to_string(), "10.7.0.1:6443");
    assert_eq!(told(&world, "Progressing").1, "Complete");
}

#[test]
fn every_master_is_told_of_all_even_when_the_operator_died_among_them() {
    let mut world = World::new(three_and_two());
    world.reconcile(usize::MAX);
    world.reconcile(usize::MAX);
    world.network();
    world.issuer();
    world.reconcile(1);
    world.reconcile(usize::MAX);
    let members = |guest: &Guest| {
        let SeedKind::CloudInit(seed) = &guest.spec.seed.as_ref().unwrap().kind else { panic!("another language") };
        let text = seed.user_data.as_str();
        text[text.find("--initial-cluster=").unwrap()..].split(' ').next().unwrap().to_owned()
    };
    let told: BTreeSet<_> = world.guests.values().map(|guest| members(guest)).collect();
    let expected = "--initial-cluster=master-0=https://10.7.0.2:2380,master-1=https://10.7.0.3:2380,master-2=https://10.7.0.4:2380";
    assert_eq!(told.into_iter().collect::<Vec<_>>(), [expected]);
}

#[test]
fn what_a_guest_waits_for_is_told() {
    let mut world = World::settled(three_and_two());
    set(&mut world, "acme.default-1", "Ready", ConditionStatus::False, "");
    set(&mut world, "acme.default-1", "ImageReady", ConditionStatus::False, "10 % of 400 MiB");
    let message = "1 of 2 are ready; acme.default-1: ImageReady is false: 10 % of 400 MiB";
    assert_eq!(told(&world, "WorkersReady").2, message);
    assert_eq!(told(&world, "Ready").1, "WorkersNotReady");
    assert_eq!(told(&world, "MastersReady").0, ConditionStatus::True);
}

#[test]
fn another_image_goes_from_master_to_master_then_from_worker_to_worker() {
    let mut world = World::settled(three_and_two());
    world.edit(|cluster| {
        cluster.spec.masters.image = "registry.example/master:2".parse().unwrap();
        cluster.spec.workers[0].image = "registry.example/worker:2".parse().unwrap();
    });
    let mut order = Vec::new();
    for _ in 0..100 {
        let disruptions =
            decided(&world).into_iter().filter(|name| name.starts_with("-acme.") || name.starts_with("~acme.master"));
        order.extend(disruptions.filter(|name| name.matches('.').count() == 1));
        world.reconcile(usize::MAX);
        for number in 0..world.guests.len() {
            world.progress(number);
        }
    }
    // A master keeps its disks and starts again; a worker's root disk lies on the image.
    assert_eq!(order, ["~acme.master-2", "~acme.master-1", "~acme.master-0", "-acme.default-1", "-acme.default-0"]);
}

#[test]
fn one_that_serves_waits_for_the_others_and_says_for_which() {
    let mut world = World::settled(three_and_two());
    set(&mut world, "acme.default-0", "Ready", ConditionStatus::False, "it panicked");
    world.edit(|cluster| cluster.spec.masters.machine.memory = "4GiB".parse().unwrap());
    assert_eq!(decided(&world), [] as [&str; 0]);
    let message = "acme.master-2 is next to follow (machine), when all others are ready: acme.default-0: Ready is false: it panicked";
    assert_eq!(told(&world, "Progressing"), (ConditionStatus::True, "RollingOut".to_owned(), message.to_owned()));
}

#[test]
fn a_change_that_an_agent_refuses_stops_there_and_can_be_taken_back() {
    let mut world = World::settled(three_and_two());
    world.edit(|cluster| cluster.spec.masters.machine.memory = "900GiB".parse().unwrap());
    assert_eq!(decided(&world), ["~acme.master-2"]);
    world.reconcile(usize::MAX);
    // The guest runs on as it was.
    set(&mut world, "acme.master-2", "Applied", ConditionStatus::False, "the host lacks 800 GiB of memory");
    assert_eq!(decided(&world), [] as [&str; 0]);
    let message = told(&world, "Progressing").2;
    assert!(message.ends_with("acme.master-2: Applied is false: the host lacks 800 GiB of memory"), "{message}");
    world.edit(|cluster| cluster.spec.masters.machine.memory = "3GiB".parse().unwrap());
    assert_eq!(decided(&world), ["~acme.master-2"], "its own remedy comes before all others");
}

#[test]
fn a_guest_that_its_host_turns_away_is_made_again_for_another() {
    let mut world = World::settled(three_and_two());
    let refuse = |world: &mut World, reason: &str, since: i64| {
        let guest = Arc::make_mut(world.guests.get_mut("acme.master-1").unwrap());
        let since = jiff::Timestamp::from_second(now().as_second() - since).unwrap();
        guest.status = None;
        let conditions = &mut guest.status.get_or_insert_default().conditions;
        conditions.set("Applied", ConditionStatus::False, reason, "it lacks 2 GiB of memory", None, since);
    };
    refuse(&mut world, "HostFull", 29);
    assert_eq!(decided(&world), [] as [&str; 0], "room may come");
    refuse(&mut world, "Invalid", 1000);
    assert_eq!(decided(&world), [] as [&str; 0], "another host would say the same");
    refuse(&mut world, "HostFull", 30);
    assert_eq!(decided(&world), ["-acme.master-1"], "though it has data disks: they are nowhere");
    let guest = Arc::make_mut(world.guests.get_mut("acme.master-1").unwrap());
    guest.status.get_or_insert_default().observed_generation = Some(2);
    assert_eq!(decided(&world), [] as [&str; 0], "it was there");
}

#[test]
fn guests_that_a_manifest_broke_are_mended_at_once() {
    let mut world = World::settled(three_and_two());
    for guest in ["acme.default-0", "acme.default-1"] {
        set(&mut world, guest, "Ready", ConditionStatus::False, "the image does not boot");
    }
    world.edit(|cluster| cluster.spec.workers[0].image = "registry.example/worker:2".parse().unwrap());
    assert_eq!(decided(&world), ["-acme.default-0", "-acme.default-1"]);
    set(&mut world, "acme.default-0", "HostReachable", ConditionStatus::False, "no heartbeat for 40 s");
    assert_eq!(decided(&world), ["-acme.default-1"], "one that cannot be seen may well serve");
}

#[test]
fn a_masters_data_is_not_thrown_away_unasked() {
    let mut manifest = three_and_two();
    manifest["spec"]["masters"]["disks"].as_array_mut().unwrap().push(json!({ "root": { "size": "8GiB" } }));
    let mut world = World::settled(manifest);
    world.edit(|cluster| cluster.spec.masters.image = "registry.example/master:2".parse().unwrap());
    assert_eq!(decided(&world), [] as [&str; 0]);
    let (status, reason, message) = told(&world, "Progressing");
    assert_eq!((status, reason.as_str()), (ConditionStatus::False, "DataWouldBeLost"));
    assert!(
        message.ends_with("allow it by the annotation goliath.dev/discard-master-data=2 on the cluster"),
        "{message}"
    );
    let allow = |generation: &str, cluster: &mut Cluster| {
        cluster.metadata.annotations = Some([(DISCARD_MASTER_DATA.to_owned(), generation.to_owned())].into());
    };
    world.edit(|cluster| allow("1", cluster));
    assert_eq!(decided(&world), [] as [&str; 0], "allowed for another change");
    world.edit(|cluster| allow("2", cluster));
    assert_eq!(decided(&world), ["-acme.master-2"]);
}

#[test]
fn fewer_guests_are_those_with_the_lowest_indexes() {
    let mut world = World::settled(manifest(3, &[pool("default", 5, &root_disk())]));
    world.edit(|cluster| cluster.spec.workers[0].replicas = 2_u64.try_into().unwrap());
    assert_eq!(decided(&world), ["-acme.default-4", "-acme.default-3", "-acme.default-2"]);
    world.edit(|cluster| cluster.spec.masters.replicas = crate::objects::MasterCount::One);
    assert_eq!(decided(&world)[3..], ["-acme.master-2"]);
}

#[test]
fn nothing_is_done_to_a_cluster_that_is_paused() {
    let mut world = World::settled(three_and_two());
    world.edit(|cluster| {
        cluster.spec.paused = true;
        cluster.spec.workers.clear();
    });
    assert_eq!(decided(&world), [] as [&str; 0]);
    assert_eq!(told(&world, "Progressing").1, "Paused");
    world.delete();
    assert_eq!(decided(&world), [] as [&str; 0]);
    assert_eq!(told(&world, "Deleting").1, "Paused");
}

#[test]
fn a_deletion_goes_step_by_step_and_says_on_what_it_waits() {
    let mut world = World::settled(three_and_two());
    world.delete();
    assert_eq!(decided(&world).len(), 5);
    world.reconcile(usize::MAX);
    let message = "waits for 5 guests: acme.default-0 goes, which its host host-1 has to confirm; acme.default-1 goes, which \
                   its host host-1 has to confirm; acme.master-0 goes, which its host host-1 has to confirm; …";
    assert_eq!(told(&world, "Deleting"), (ConditionStatus::True, "WaitsForGuests".to_owned(), message.to_owned()));
    for _ in 0..5 {
        world.progress(0);
    }
    assert_eq!(decided(&world), [] as [&str; 0]);
    assert_eq!(told(&world, "Deleting").1, "WaitsForNetwork");
    world.network();
    assert_eq!(decided(&world), ["-authority"]);
    world.reconcile(usize::MAX);
    assert_eq!((decided(&world), told(&world, "Deleting").1), (Vec::new(), "WaitsForAuthority".to_owned()));
    world.issuer();
    assert_eq!(decided(&world), ["release"]);
    world.reconcile(usize::MAX);
    assert!(world.cluster.is_none());
}

#[test]
fn what_is_not_the_clusters_is_left_alone() {
    let mut world = World::settled(three_and_two());
    let mut guest = (*world.guests["acme.default-1"]).clone();
    guest.metadata.owner_references = None;
    world.guests.insert("acme.default-1".to_owned(), Arc::new(guest));
    world.edit(|cluster| cluster.spec.workers[0].image = "registry.example/worker:2".parse().unwrap());
    assert_eq!(decided(&world), [] as [&str; 0], "the place is taken, so the others wait");
    world.edit(|cluster| cluster.spec.workers.clear());
    assert!(!decided(&world).contains(&"-acme.default-1".to_owned()));
    let authority = world.authority.as_mut().unwrap();
    authority.metadata.owner_references = None;
    world.edit(|cluster| cluster.spec.pki.allowed_domains = vec!["acme.example".parse().unwrap()]);
    assert!(!decided(&world).contains(&"~authority".to_owned()), "somebody made this one");
}

#[test]
fn a_template_that_fails_is_told() {
    let mut manifest = three_and_two();
    manifest["spec"]["masters"]["seed"] = json!({ "cloudInit": { "template": { "inline": "{{ cluster.nam }}" } } });
    let mut world = World::new(manifest);
    world.reconcile(usize::MAX);
    world.reconcile(usize::MAX);
    world.network();
    world.issuer();
    assert_eq!(decided(&world), [] as [&str; 0]);
    let message = "acme.master-0: template inline, line 1: `cluster.nam` is undefined";
    assert_eq!(told(&world, "Progressing"), (ConditionStatus::False, "TemplateFailed".to_owned(), message.to_owned()));
}

#[test]
fn a_network_that_is_full_is_told() {
    let mut manifest = manifest(3, &[pool("default", 9, &root_disk())]);
    manifest["spec"]["network"]["cidr"] = json!("10.7.0.0/28");
    let mut world = World::new(manifest);
    for _ in 0..20 {
        world.reconcile(usize::MAX);
        world.network();
        world.issuer();
        (0..world.guests.len()).for_each(|number| world.progress(number));
    }
    assert_eq!(world.guests.len(), 12, "14 addresses, less the gateway's; the host's is outside");
    world.edit(|cluster| cluster.spec.workers[0].replicas = 20_u64.try_into().unwrap());
    let (status, reason, message) = told(&world, "Progressing");
    assert_eq!((status, reason.as_str()), (ConditionStatus::False, "NoAddress"));
    assert!(message.contains("10.7.0.0/28 has 14 addresses"), "{message}");
}

/// Another value would replace the guests of every operator that is upgraded.
#[test]
fn what_guests_were_made_with_is_the_same_in_every_version() {
    let cluster: Cluster = serde_json::from_value(three_and_two()).unwrap();
    let made_with = configuration(&cluster.spec, &cluster.spec.masters.seed);
    assert_eq!(made_with, "d99c41c5748c6084");
}

#[test]
fn a_change_takes_what_it_must_and_no_more() {
    let manifest = manifest(
        1,
        &[pool("default", 1, &json!([{ "root": { "size": "8GiB" } }, { "data": { "serial": "a", "size": "1GiB" } }]))],
    );
    let world = World::settled(manifest.clone());
    let guest = &world.guests["acme.default-0"];
    let effect = |pointer: &str, value: Value| {
        let mut changed = manifest.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        changed.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(field.to_owned(), value);
        let cluster: Cluster = serde_json::from_value(changed).unwrap();
        let network = world.cluster.as_ref().unwrap().status.clone().unwrap().network.unwrap();
        let groups = Group::all(&cluster.spec);
        match (Blueprint { cluster: &cluster, network: &network, group: &groups[1] }).change(guest).unwrap() {
            Change::None => "none".to_owned(),
            Change::Live(_) => "live".to_owned(),
            Change::Restart(_, fields) => format!("restart for {}", fields.join(", ")),
            Change::Replace(fields) => format!("replace for {}", fields.join(", ")),
        }
    };
    let disks = |root: Value, data: &[(&str, &str)]| {
        let data = data.iter().map(|(serial, size)| json!({ "data": { "serial": serial, "size": size } }));
        std::iter::once(json!({ "root": root })).chain(data).collect::<Value>()
    };
    let table = [
        ("/spec/paused", json!(false), "none"),
        ("/spec/masters/image", json!("registry.example/master:9"), "none"),
        ("/spec/workers/0/replicas", json!(7), "none"),
        ("/spec/workers/0/labels", json!({ "a": "b" }), "live"),
        ("/spec/workers/0/zones", json!(["b"]), "live"),
        ("/spec/workers/0/shutdownGrace", json!("5m"), "live"),
        ("/spec/pki", json!({ "certificateTtl": "24h" }), "live"),
        ("/spec/workers/0/machine", json!({ "vcpus": 2, "memory": "1GiB" }), "restart for machine"),
        ("/spec/workers/0/boot", json!({ "kernel": { "commandLine": "quiet" } }), "restart for boot"),
        (
            "/spec/workers/0/disks",
            disks(json!({ "size": "9GiB" }), &[("a", "2GiB"), ("b", "1GiB")]),
            "restart for disks",
        ),
        ("/spec/workers/0/disks", disks(json!({ "size": "7GiB" }), &[("a", "1GiB")]), "replace for disks"),
        ("/spec/workers/0/disks", disks(json!({}), &[("a", "1GiB")]), "replace for disks"),
        ("/spec/workers/0/disks", disks(json!({ "size": "8GiB" }), &[("b", "1GiB")]), "replace for disks"),
        ("/spec/workers/0/image", json!("registry.example/worker:2"), "replace for image"),
        ("/spec/kubernetes/version", json!("1.36.0"), "replace for configuration"),
        ("/spec/network/ntpServers", json!(["ntp.example"]), "replace for configuration"),
        ("/spec/masters/seed", json!({ "cloudInit": { "template": { "inline": "" } } }), "none"),
    ];
    for (pointer, value, expected) in table {
        assert_eq!(effect(pointer, value.clone()), expected, "{pointer} {value}");
    }
}

#[test]
fn a_certificate_tells_what_the_agent_tells() {
    let mut world = World::settled(manifest(1, &[]));
    set(&mut world, "acme.master-0", "CertificatesReady", ConditionStatus::False, "Vault is sealed");
    assert_eq!(decided(&world).len(), world.certificates.len());
    world.reconcile(usize::MAX);
    let certificate = &world.certificates["acme.master-0.etcd"];
    let ready = certificate.status.as_ref().unwrap().conditions.get("Ready").unwrap();
    assert_eq!((ready.status, ready.message.as_str()), (ConditionStatus::False, "Vault is sealed"));
}
