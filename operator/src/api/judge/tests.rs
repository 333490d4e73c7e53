use serde_json::{Value, json};

use super::*;

fn rules() -> Rules {
    Rules { issuers: BTreeSet::from(["vault".parse().unwrap()]), templates: Arc::new(Templates::load(None).unwrap()) }
}

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.96.0.0/16", "podCidr": "10.244.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": {
                "replicas": 1, "machine": { "vcpus": 1, "memory": "512MiB" }, "image": "registry.example/node:1",
                "disks": [{ "root": {} }, { "data": { "serial": "etcd", "size": "8GiB" } }],
            },
        },
    })
}

fn host(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Host", "metadata": { "name": name }, "spec": { "address": address },
    })
}

fn authority(name: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "CertificateAuthority", "metadata": { "name": name },
        "spec": { "cluster": name, "issuer": "vault", "ttl": "720h" },
    })
}

/// The fields that are told of, each with its object's place.
fn told(there: &[Value], wanted: &[Value]) -> Vec<(usize, String)> {
    let objects = |manifests: &[Value]| -> Vec<_> {
        manifests.iter().map(|manifest| AnyObject::from_json(manifest.clone()).unwrap()).collect()
    };
    let mut before = There::default();
    for object in objects(there) {
        before.take(&object);
    }
    let problems = rules().beside(&before, &objects(wanted));
    problems.into_iter().map(|(index, problem)| (index, problem.path)).collect()
}

#[test]
fn what_is_good_has_nothing_against_it() {
    let wanted = [cluster("acme"), host("host-a", "192.0.2.1:7443"), authority("other")];
    assert_eq!(told(&[], &wanted), []);
    assert_eq!(told(&wanted, &wanted), [], "nor has it the second time");
}

#[test]
fn objects_of_one_call_are_judged_beside_each_other() {
    let with_vni = |name: &str, vni: u32| {
        let mut cluster = cluster(name);
        cluster["spec"]["network"]["vni"] = vni.into();
        cluster
    };
    let vni = |index| (index, "spec.network.vni".to_owned());
    assert_eq!(told(&[], &[with_vni("one", 7), with_vni("two", 7)]), [vni(0), vni(1)]);
    assert_eq!(told(&[with_vni("one", 7)], &[with_vni("two", 7)]), [vni(0)]);
    // One that gives its VNI up in the same call leaves it to the other.
    assert_eq!(told(&[with_vni("one", 7)], &[with_vni("one", 8), with_vni("two", 7)]), []);
    let address = |index| (index, "spec.address".to_owned());
    let twice = [host("host-a", "192.0.2.1:7443"), host("host-b", "192.0.2.1:7443")];
    assert_eq!(told(&[], &twice), [address(0), address(1)]);
    assert_eq!(told(&twice[..1], &twice[1..]), [address(0)]);
}

#[test]
fn an_issuer_must_be_configured() {
    let mut cluster = cluster("acme");
    cluster["spec"]["pki"] = json!({ "issuer": "other" });
    assert_eq!(told(&[], &[cluster]), [(0, "spec.pki.issuer".to_owned())]);
}

#[test]
fn an_authority_of_its_own_stands_apart_from_clusters() {
    assert_eq!(told(&[cluster("acme")], &[authority("acme")]), [(0, "metadata.name".to_owned())]);
    assert_eq!(told(&[], &[cluster("acme"), authority("acme")]), [(1, "metadata.name".to_owned())]);
}
