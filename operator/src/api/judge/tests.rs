use serde_json::{Value, json};

use super::*;

fn rules() -> Rules {
    Rules { issuers: BTreeSet::from(["vault".parse().unwrap()]), templates: Templates::load(None).unwrap() }
}

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.96.0.0/16", "podCidr": "10.244.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": { "replicas": 1, "machine": { "vcpus": 1, "memory": "512MiB" }, "image": "registry.example/node:1" },
            "workers": [{
                "name": "small", "replicas": 2, "machine": { "vcpus": 1, "memory": "512MiB" },
                "image": "registry.example/node:1",
            }],
        },
    })
}

fn host(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Host", "metadata": { "name": name }, "spec": { "address": address },
    })
}

fn fleet(there: &[Value]) -> Fleet {
    let mut fleet = Fleet::default();
    for manifest in there {
        let object = AnyObject::from_json(manifest.clone()).unwrap();
        match object.kind() {
            Kind::Cluster => drop(fleet.clusters.insert(object.name().to_owned(), object.decode().unwrap())),
            Kind::Host => drop(fleet.hosts.insert(object.name().to_owned(), object.decode().unwrap())),
            _ => drop(fleet.authorities.insert(object.name().to_owned())),
        }
    }
    fleet
}

/// The fields that are told of, each with its object's place.
fn told(there: &[Value], wanted: &[Value]) -> Vec<(usize, String)> {
    let objects: Vec<_> = wanted.iter().map(|manifest| AnyObject::from_json(manifest.clone()).unwrap()).collect();
    let problems = fleet(there).judge(&rules(), &objects);
    problems.into_iter().map(|(index, problem)| (index, problem.path)).collect()
}

fn told_of(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut manifest = cluster("acme");
    change(&mut manifest["spec"]);
    told(&[], &[manifest]).into_iter().map(|(_, path)| path).collect()
}

#[test]
fn a_good_cluster_has_nothing_against_it() {
    assert_eq!(told_of(|_| ()), Vec::<String>::new());
    // Other clusters may use the same networks inside.
    assert_eq!(told(&[cluster("other"), host("host-a", "host-a.example:7443")], &[cluster("acme")]), []);
}

#[test]
fn what_a_cluster_cannot_be_is_told_by_its_field() {
    type Change = fn(&mut Value);
    let cases: &[(Change, &[&str])] = &[
        (|spec| spec["kubernetes"]["podCidr"] = "10.7.0.0/16".into(), &["spec.kubernetes.podCidr"]),
        (|spec| spec["kubernetes"]["serviceCidr"] = "10.244.3.0/24".into(), &["spec.kubernetes.serviceCidr"]),
        (|spec| spec["network"]["cidr"] = "10.7.0.0/30".into(), &["spec.network.cidr"]),
        (|spec| spec["workers"][0]["replicas"] = 300.into(), &["spec.network.cidr"]),
        (|spec| spec["workers"][0]["name"] = "master".into(), &["spec.workers[0].name"]),
        (|spec| spec["workers"] = json!([spec["workers"][0], spec["workers"][0]]), &["spec.workers[1].name"]),
        (|spec| spec["ingress"] = json!({ "pools": ["small", "large"] }), &["spec.ingress.pools[1]"]),
        (|spec| spec["pki"] = json!({ "issuer": "other" }), &["spec.pki.issuer"]),
        (|spec| spec["pki"] = json!({ "caTtl": "10h", "certificateTtl": "11h" }), &["spec.pki.certificateTtl"]),
        (
            |spec| spec["masters"]["seed"] = json!({ "cloudInit": { "template": { "name": "none" } } }),
            &["spec.masters.seed.cloudInit.template.name"],
        ),
        (
            |spec| {
                let inline = "#cloud-config\nhostname: {{ node.nmae }}\n";
                spec["workers"][0]["seed"] = json!({ "cloudInit": { "template": { "inline": inline } } });
            },
            &["spec.workers[0].seed.cloudInit.template.inline"],
        ),
    ];
    for (index, (change, fields)) in cases.iter().enumerate() {
        assert_eq!(told_of(change), *fields, "case {index}");
    }
}

#[test]
fn a_vni_is_one_clusters() {
    let with_vni = |name: &str, vni: u32| {
        let mut cluster = cluster(name);
        cluster["spec"]["network"]["vni"] = vni.into();
        cluster
    };
    let mut given = cluster("other");
    given["status"] = json!({ "network": { "vni": 5000, "gatewayAddress": "10.7.0.1" } });
    let vni = "spec.network.vni".to_owned();
    assert_eq!(told(&[given.clone()], &[with_vni("acme", 5000)]), [(0, vni.clone())]);
    assert_eq!(told(&[given.clone()], &[with_vni("acme", 5001)]), []);
    assert_eq!(told(&[], &[with_vni("one", 7), with_vni("two", 7)]), [(0, vni.clone()), (1, vni.clone())]);
    // Its own is its own, and stays.
    assert_eq!(told(&[given.clone()], &[with_vni("other", 5000)]), []);
    assert_eq!(told(&[given], &[with_vni("other", 5001)]), [(0, vni)]);
}

#[test]
fn a_hosts_own_address_is_no_clusters() {
    let mut seen = host("host-a", "host-a.example:7443");
    seen["status"] = json!({ "underlayAddress": "10.244.8.9" });
    assert_eq!(told(&[seen], &[cluster("acme")]), [(0, "spec.kubernetes.podCidr".to_owned())]);
    assert_eq!(told(&[host("host-a", "10.7.0.9:7443")], &[cluster("acme")]), [(0, "spec.network.cidr".to_owned())]);
}

#[test]
fn a_host_is_one_machine() {
    let address = "spec.address".to_owned();
    let there = [host("host-a", "192.0.2.1:7443")];
    assert_eq!(told(&there, &[host("host-b", "192.0.2.1:7443")]), [(0, address.clone())]);
    assert_eq!(told(&there, &[host("host-a", "192.0.2.1:7443"), host("host-b", "192.0.2.2:7443")]), []);
    let both = [host("host-c", "192.0.2.3:7443"), host("host-d", "192.0.2.3:7443")];
    assert_eq!(told(&there, &both), [(0, address.clone()), (1, address)]);
}

#[test]
fn what_guests_were_made_with_cannot_be_changed() {
    let changed = |change: fn(&mut Value)| {
        let mut manifest = cluster("acme");
        change(&mut manifest["spec"]);
        told(&[cluster("acme")], &[manifest]).into_iter().map(|(_, path)| path).collect::<Vec<_>>()
    };
    assert_eq!(changed(|spec| spec["network"]["cidr"] = "10.8.0.0/24".into()), ["spec.network.cidr"]);
    assert_eq!(changed(|spec| spec["kubernetes"]["dnsDomain"] = "other.local".into()), ["spec.kubernetes.dnsDomain"]);
    assert!(changed(|spec| spec["workers"][0]["replicas"] = 5.into()).is_empty());
    assert!(changed(|spec| spec["masters"]["replicas"] = 3.into()).is_empty());
}

#[test]
fn an_authority_of_its_own_stands_apart_from_clusters() {
    let authority = |name: &str| {
        json!({
            "apiVersion": "goliath.dev/v1alpha1", "kind": "CertificateAuthority", "metadata": { "name": name },
            "spec": { "cluster": name, "issuer": "vault", "ttl": "720h" },
        })
    };
    assert_eq!(told(&[], &[authority("acme")]), []);
    assert_eq!(told(&[cluster("acme")], &[authority("acme")]), [(0, "metadata.name".to_owned())]);
    assert_eq!(told(&[], &[cluster("acme"), authority("acme")]), [(1, "metadata.name".to_owned())]);
}
