use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::*;

fn templates() -> &'static Templates {
    static TEMPLATES: OnceLock<Templates> = OnceLock::new();
    TEMPLATES.get_or_init(|| Templates::load(None).unwrap())
}

fn manifest(name: &str) -> Value {
    let pool = |name: &str| {
        json!({
            "name": name, "replicas": 2, "machine": { "vcpus": 1, "memory": "1GiB" }, "image": "registry.example/worker:1",
            "disks": [{ "root": { "size": "8GiB" } }],
        })
    };
    json!({
        "apiVersion": "goliath.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": name },
        "spec": {
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "ingress": {},
            "network": { "cidr": "10.7.0.0/24" },
            "masters": {
                "replicas": 3, "machine": { "vcpus": 2, "memory": "2GiB" }, "image": "registry.example/master:1",
                "disks": [{ "root": {} }, { "data": { "serial": "etcd", "size": "8GiB" } }],
            },
            "workers": [pool("default"), pool("fast")],
        },
    })
}

/// The manifest with a value put at a JSON pointer; `null` takes it away.
fn with(mut manifest: Value, pointer: &str, value: &Value) -> Cluster {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = manifest.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Array(items), _) => items[field.parse::<usize>().unwrap()] = value.clone(),
        (Value::Object(fields), Value::Null) => drop(fields.remove(field)),
        (Value::Object(fields), _) => drop(fields.insert(field.to_owned(), value.clone())),
        _ => panic!("{pointer}"),
    }
    serde_json::from_value(manifest).unwrap()
}

fn host_with(name: &str, address: &str, networks: &[&str]) -> Arc<Host> {
    Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "goliath.dev/v1alpha1", "kind": "Host", "metadata": { "name": name },
            "spec": { "address": address }, "status": { "networks": networks },
        }))
        .unwrap(),
    )
}

fn problems(cluster: &Cluster, clusters: &[Cluster], hosts: &[Arc<Host>]) -> Vec<String> {
    let clusters: Vec<_> = clusters.iter().cloned().map(Arc::new).collect();
    let view = View { clusters: &clusters, hosts, templates: templates() };
    super::cluster(cluster, &view).into_iter().map(|problem| format!("{} {}", problem.path, problem.message)).collect()
}

#[test]
fn a_cluster_that_can_be_has_no_problems() {
    let cluster = with(manifest("acme"), "/spec/paused", &json!(false));
    let hosts = [host_with("host-a", "host-a:7411", &["192.0.2.0/24"])];
    let none: [&str; 0] = [];
    assert_eq!(problems(&cluster, &[], &hosts), none);
    assert_eq!(problems(&cluster, std::slice::from_ref(&cluster), &hosts), none, "applied again");
    let other = with(manifest("beta"), "/spec/paused", &json!(false));
    assert_eq!(problems(&cluster, &[other], &hosts), none, "clusters may use the same addresses");
}

#[test]
fn what_contradicts_itself_is_refused_with_its_field() {
    let long = "x".repeat(59);
    let inline = |text: &str| json!({ "cloudInit": { "template": { "inline": text } } });
    let table = [
        (
            "/spec/workers/1/name",
            json!("default"),
            "spec.workers[1].name is default, which is the name of spec.workers[0] too",
        ),
        (
            "/spec/workers/0/name",
            json!("master"),
            "spec.workers[0].name is \"master\", which is what masters are called",
        ),
        ("/spec/workers/0/name", json!(long), "spec.workers[0].name has 59 bytes: 58 leave room"),
        ("/spec/workers/0/labels", json!({ "a b": "c" }), "spec.workers[0].labels[\"a b\"] \"a b\" is not a name"),
        ("/spec/masters/labels", json!({ "a": "-" }), "spec.masters.labels[\"a\"] \"-\" is not a label's value"),
        (
            "/spec/workers/0/labels",
            json!({ "node-role.kubernetes.io/worker": "" }),
            "is in node-role.kubernetes.io, where kubelets may not set labels",
        ),
        ("/spec/workers/0/labels", json!({ "goliath.dev/pool": "x" }), "whose labels are the operator's own"),
        (
            "/spec/ingress",
            json!({ "pools": ["default", "slow"] }),
            "spec.ingress.pools[1] is slow, and no pool is called so",
        ),
        ("/spec/ingress", json!({ "healthPort": 30080 }), "spec.ingress.healthPort is 30080, which is httpPort too"),
        ("/spec/pki", json!({ "certificateTtl": "5s" }), "spec.pki.certificateTtl is 5s: 10s to"),
        ("/spec/pki", json!({ "caTtl": "720h" }), "spec.pki.caTtl is 720h: it must be longer than"),
        ("/spec/masters/shutdownGrace", json!("2h"), "spec.masters.shutdownGrace is 2h: 1h at most"),
        ("/spec/workers/0/disks", json!([]), "spec.workers[0].disks must have a root disk, since firmware"),
        ("/spec/masters/disks", json!([{ "root": {} }]), "spec.masters.disks must have a data disk for etcd"),
        (
            "/spec/workers/0/disks",
            json!([{ "root": {} }, { "root": {} }]),
            "spec.workers[0].disks[1] is a second root disk",
        ),
        (
            "/spec/workers/0/disks",
            json!([{ "root": {} }, { "data": { "serial": "a", "size": "1GiB" } }, { "data": { "serial": "a", "size": "1GiB" } }]),
            "spec.workers[0].disks[2].data.serial is a, which is that of spec.workers[0].disks[1] too",
        ),
        (
            "/spec/workers/0/disks",
            json!([{ "root": {} }, { "data": { "serial": "goliath-certs", "size": "1GiB" } }]),
            "which is the certificate volume's",
        ),
        (
            "/spec/workers/0/disks",
            json!([{ "root": { "size": "65TiB" } }]),
            "spec.workers[0].disks[0].root.size is 65TiB",
        ),
        ("/spec/network/cidr", json!("127.0.0.0/8"), "spec.network.cidr 127.0.0.0/8 is not for machines"),
        ("/spec/network/cidr", json!("10.7.0.0/29"), "spec.network.cidr 10.7.0.0/29 has 6 addresses"),
        ("/spec/network/cidr", json!("10.7.0.0/30"), "spec.network.cidr is a /30"),
        (
            "/spec/network/cidr",
            json!("10.100.7.0/24"),
            "spec.kubernetes.podCidr overlaps: the cluster's network 10.100.7.0/24 overlaps the pods' network 10.100.0.0/16",
        ),
        (
            "/spec/kubernetes/serviceCidr",
            json!("10.100.1.0/24"),
            "spec.kubernetes.serviceCidr overlaps: the pods' network",
        ),
        ("/spec/kubernetes/serviceCidr", json!("10.101.0.0/29"), "spec.kubernetes.serviceCidr is a /29"),
        ("/spec/kubernetes/podCidr", json!("10.100.0.0/23"), "has room for 2 of the 4 workers"),
        ("/spec/kubernetes/podCidr", json!("169.254.0.0/17"), "which overlaps 169.254.0.0/16"),
        (
            "/spec/network/dnsServers",
            json!(["224.0.0.1"]),
            "spec.network.dnsServers[0] is 224.0.0.1, which no server has",
        ),
        (
            "/spec/masters/seed",
            inline("#cloud-config\nhostname: {{ cluster.nam }}\n"),
            "spec.masters.seed.cloudInit.template template inline, line 2: `cluster.nam` is undefined",
        ),
        (
            "/spec/workers/1/seed",
            inline("{{ values.a }}"),
            "spec.workers[1].seed.cloudInit.template template inline, line 1",
        ),
        (
            "/spec/workers/0/seed",
            json!({ "ignition": { "template": { "name": "none.ignition" } } }),
            "spec.workers[0].seed.ignition.template template none.ignition: there is none of this name",
        ),
    ];
    for (pointer, value, expected) in table {
        let found = problems(&with(manifest("acme"), pointer, &value), &[], &[]);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{pointer} {value}: {found:#?}");
        assert_eq!(found.len(), 1, "{pointer} {value}: {found:#?}");
    }
}

#[test]
fn what_stands_against_a_cluster_is_told() {
    let mut other = with(manifest("beta"), "/spec/paused", &json!(false));
    other.status = serde_json::from_value(json!({ "network": { "vni": 5000, "gatewayAddress": "10.7.0.1" } })).unwrap();
    let cluster = with(manifest("acme"), "/spec/network/vni", &json!(5000));
    assert_eq!(
        problems(&cluster, &[other], &[]),
        ["spec.network.vni is 5000, which is that of cluster beta: take another one, or leave it out"]
    );
    let hosts = [host_with("host-a", "host-a:7411", &["192.0.2.0/24", "10.7.0.128/25"])];
    assert_eq!(
        problems(&with(manifest("acme"), "/spec/paused", &json!(false)), &[], &hosts),
        [
            "spec.network.cidr overlaps on host host-a: the cluster's network 10.7.0.0/24 overlaps the host's own network \
          10.7.0.128/25"
        ]
    );
}

#[test]
fn what_a_cluster_keeps_for_life_is_not_changed() {
    let mut before = with(manifest("acme"), "/spec/paused", &json!(false));
    before.status =
        serde_json::from_value(json!({ "network": { "vni": 5000, "gatewayAddress": "10.7.0.1" } })).unwrap();
    let table = [
        ("/spec/network/cidr", json!("10.8.0.0/24"), "spec.network.cidr is 10.7.0.0/24 and cannot become 10.8.0.0/24"),
        ("/spec/network/vni", json!(6000), "spec.network.vni is 6000, and the cluster's network was made with 5000"),
        ("/spec/kubernetes/podCidr", json!("10.102.0.0/16"), "spec.kubernetes.podCidr is"),
        ("/spec/kubernetes/serviceCidr", json!("10.102.0.0/16"), "spec.kubernetes.serviceCidr is"),
        ("/spec/masters/replicas", json!(5), "spec.masters.replicas is 3 and cannot become 5"),
        ("/spec/pki", json!({ "issuer": "local" }), "spec.pki.issuer is vault and cannot become local"),
    ];
    for (pointer, value, expected) in table {
        let found = problems(&with(manifest("acme"), pointer, &value), std::slice::from_ref(&before), &[]);
        assert!(
            matches!(found.as_slice(), [problem] if problem.starts_with(expected)),
            "{pointer} {value}: {found:#?}"
        );
    }
    let bigger = with(manifest("acme"), "/spec/workers/0/replicas", &json!(9));
    assert!(problems(&bigger, &[before], &[]).is_empty());
}

#[test]
fn a_host_is_added_once() {
    let view = |hosts: &[Arc<Host>]| {
        let host = host_with("host-a", "192.0.2.1:7411", &[]);
        host_problems(&host, hosts)
    };
    assert!(view(&[host_with("host-a", "192.0.2.1:7411", &[])]).is_empty());
    assert_eq!(
        view(&[host_with("host-b", "192.0.2.1:7411", &[])]),
        ["spec.address is 192.0.2.1:7411, which is the address of host host-b"]
    );
}

fn host_problems(host: &Host, hosts: &[Arc<Host>]) -> Vec<String> {
    let view = View { clusters: &[], hosts, templates: templates() };
    super::host(host, &view).into_iter().map(|problem| format!("{} {}", problem.path, problem.message)).collect()
}
