//! All controllers together, on a real store with simulated hosts: from a manifest to guests that serve, through changes
//! and deaths of the operator at any instant, to nothing that is left.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::tests::Lab;
use crate::{
    agents::simulated::Faults,
    objects::{Certificate, CertificateAuthority, Cluster, Guest, GuestRole, ResourceExt},
};

const HOSTS: [&str; 3] = ["host-a", "host-b", "host-c"];

fn manifest(name: &str) -> Cluster {
    let guests = |replicas: u32, disks: Value| {
        json!({
            "replicas": replicas, "machine": { "vcpus": 1, "memory": "1GiB" }, "boot": { "kernel": {} },
            "image": "registry.example/debian:12", "disks": disks,
        })
    };
    let mut workers = guests(2, json!([{ "root": { "size": "8GiB" } }]));
    workers["name"] = json!("default");
    serde_json::from_value(json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": name },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": guests(3, json!([{ "data": { "serial": "etcd", "size": "8GiB" } }])),
            "workers": [workers],
            "pki": { "issuer": "local" },
        },
    }))
    .unwrap()
}

/// What keeps a cluster from being as its manifest says.
fn unfinished(lab: &Lab, name: &str) -> Option<String> {
    let cluster = lab.get::<Cluster>(name)?;
    let status = cluster.status.clone().unwrap_or_default();
    let told = |type_: &str| status.conditions.get(type_).map(|condition| condition.message.clone());
    let is_complete = status.conditions.get("Progressing").is_some_and(|condition| condition.reason == "Complete");
    let is_current = status.observed_generation == cluster.metadata.generation;
    let guests = lab.list::<Guest>().into_iter().filter(|guest| guest.spec.cluster.as_str() == name).count();
    let workers: usize = cluster.spec.workers.iter().map(|pool| usize::from(pool.replicas.get())).sum();
    let wanted = workers + usize::from(cluster.spec.masters.replicas.get());
    if !is_complete || !is_current || !status.conditions.is_true("Ready") || guests != wanted {
        return Some(format!("{name} has {guests} of {wanted}: {:?}; {:?}", told("Progressing"), told("Ready")));
    }
    lab.unfinished(&HOSTS)
}

/// So long nothing, and then the operator dies; another one comes.
fn kill(lab: &mut Lab, after: Duration) {
    std::thread::sleep(after);
    lab.kill_operator();
    lab.start_operator();
}

fn at_random() -> Duration {
    Duration::from_micros(fastrand::u64(0..60_000))
}

/// Each guest with its host.
fn places(lab: &Lab) -> BTreeSet<(String, String)> {
    let guests = lab.list::<Guest>();
    guests.iter().map(|guest| (guest.uid().unwrap(), guest.spec.host().unwrap().to_string())).collect()
}

fn check(lab: &Lab) {
    assert!(lab.world.doubled().is_empty(), "a uid ran twice: {:?}", lab.world.doubled());
    for cluster in lab.list::<Cluster>() {
        let name = cluster.name_any();
        let guests = lab.list::<Guest>().into_iter().filter(|guest| guest.spec.cluster.as_str() == name);
        let guests: Vec<_> = guests.collect();
        let masters = guests.iter().filter(|guest| guest.spec.role == GuestRole::Master);
        let hosts: BTreeSet<_> = masters.map(|guest| guest.spec.host().unwrap().to_string()).collect();
        assert_eq!(hosts.len(), 3, "masters share a host");
        let addresses: BTreeSet<_> =
            guests.iter().map(|guest| guest.spec.network.as_ref().unwrap().ipv4_address).collect();
        assert_eq!(addresses.len(), guests.len(), "guests share an address");
    }
}

#[test]
fn a_cluster_is_what_its_manifest_says_whatever_dies_on_the_way() {
    let mut lab = Lab::whole(&HOSTS);
    for name in ["acme", "beta"] {
        lab.create(&manifest(name));
    }
    for _ in 0..20 {
        kill(&mut lab, at_random());
    }
    lab.until(|lab| unfinished(lab, "acme").or_else(|| unfinished(lab, "beta")));
    check(&lab);
    let vnis: BTreeSet<_> =
        lab.list::<Cluster>().iter().map(|cluster| cluster.status.clone().unwrap().network.unwrap().vni).collect();
    assert_eq!(vnis.len(), 2);
    let before: BTreeSet<_> = lab.list::<Guest>().iter().map(|guest| guest.uid().unwrap()).collect();

    lab.change::<Cluster>("acme", |cluster| {
        cluster.spec.masters.machine.memory = "2GiB".parse().unwrap();
        cluster.spec.workers[0].image = "registry.example/debian:13".parse().unwrap();
        cluster.spec.workers[0].replicas = 4_u64.try_into().unwrap();
    });
    for _ in 0..20 {
        kill(&mut lab, at_random());
    }
    lab.until(|lab| unfinished(lab, "acme").or_else(|| unfinished(lab, "beta")));
    check(&lab);
    let after: BTreeSet<_> = lab.list::<Guest>().iter().map(|guest| guest.uid().unwrap()).collect();
    assert_eq!(before.difference(&after).count(), 2, "the workers of acme alone are others");

    lab.delete::<Cluster>("acme");
    for _ in 0..10 {
        kill(&mut lab, at_random());
    }
    lab.until(|lab| lab.get::<Cluster>("acme").map(|cluster| format!("{:#?}", cluster.status)));
    lab.until(|lab| unfinished(lab, "beta"));
    let left: Vec<_> = lab.list::<CertificateAuthority>().iter().map(ResourceExt::name_any).collect();
    assert_eq!(left, ["beta"]);
    assert!(lab.list::<Certificate>().iter().all(|certificate| certificate.spec.cluster.as_str() == "beta"));
    for host in HOSTS {
        assert!(lab.world.networks(host).keys().all(|network| network == "beta"), "{host} keeps a network");
    }
    assert!(lab.world.doubled().is_empty());
}

#[test]
fn agents_that_restart_and_hosts_that_fall_silent_change_nothing() {
    let lab = Lab::whole(&HOSTS);
    lab.create(&manifest("acme"));
    lab.until(|lab| unfinished(lab, "acme"));
    let before = places(&lab);
    let starts = lab.world.starts();
    lab.world.restart_agent("host-a");
    lab.fail("host-b", Faults { unreachable: true, ..Faults::default() });
    lab.until(|lab| {
        let lost = lab.list::<Guest>().into_iter().any(|guest| {
            guest.spec.host().map(AsRef::as_ref) == Some("host-b")
                && !guest.status.unwrap_or_default().conditions.is_true("HostReachable")
        });
        (!lost).then(|| "nobody noticed".to_owned())
    });
    lab.fail("host-b", Faults::default());
    lab.until(|lab| unfinished(lab, "acme"));
    let after = places(&lab);
    assert_eq!(before, after);
    assert_eq!(lab.world.starts(), starts, "a guest was started again");
    check(&lab);
}
