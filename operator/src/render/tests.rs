use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::objects::{ClusterSpec, GuestIndex, GuestRole};

fn spec() -> ClusterSpec {
    serde_json::from_value(json!({
        "kubernetes": { "version": "1.35.4", "apiPort": 7443, "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
        "network": { "cidr": "10.7.0.0/24", "ntpServers": ["ntp.example"] },
        "masters": {
            "replicas": 3, "machine": { "vcpus": 2, "memory": "2GiB" }, "image": "registry.example/kubernetes:1.35.4",
        },
        "workers": [{
            "name": "default", "replicas": 3, "machine": { "vcpus": 1, "memory": "1GiB" },
            "image": "registry.example/kubernetes:1.35.4", "labels": { "disk": "ssd", "rack": "7" },
        }],
    }))
    .unwrap()
}

fn masters() -> Vec<Member> {
    (0..3).map(|index| Member { name: format!("master-{index}"), address: [10, 7, 0, 2 + index].into() }).collect()
}

/// Renders for the first master, or the first worker.
fn seed_of(
    templates: &Templates,
    spec: &ClusterSpec,
    role: GuestRole,
    template: &SeedTemplate,
) -> Result<Seed, RenderError> {
    let pool = &spec.workers[0];
    let labels = BTreeMap::new();
    let node = match role {
        GuestRole::Master => Node {
            name: "master-0",
            address: [10, 7, 0, 2].into(),
            role,
            pool: None,
            index: GuestIndex::SMALLEST,
            labels: &labels,
        },
        GuestRole::Worker => Node {
            name: "default-0",
            address: [10, 7, 0, 5].into(),
            role,
            pool: Some(&pool.name),
            index: GuestIndex::SMALLEST,
            labels: &pool.labels,
        },
    };
    let gateway_address = [10, 7, 0, 1].into();
    templates.seed(template, &Inputs { cluster: "acme", spec, gateway_address, masters: &masters(), node })
}

fn own() -> Templates {
    Templates::load(None).unwrap()
}

fn cloud_init(template: &Value, values: &Value) -> SeedTemplate {
    serde_json::from_value(json!({ "cloudInit": { "template": template, "values": values } })).unwrap()
}

fn user_data(seed: &Seed) -> &str {
    match &seed.kind {
        SeedKind::CloudInit(cloud_init) => cloud_init.user_data.as_str(),
        SeedKind::Ignition(document) => document.as_str(),
    }
}

fn refusal(template: &str) -> String {
    let template = cloud_init(&json!({ "inline": template }), &json!({ "colour": "blue" }));
    seed_of(&own(), &spec(), GuestRole::Master, &template).unwrap_err().to_string()
}

/// The content of a file that a document writes.
fn written(document: &str, path: &str) -> String {
    let document: Value = serde_saphyr::from_str(document).unwrap();
    let files = document["write_files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("no {path}"));
    file["content"].as_str().unwrap().to_owned()
}

#[test]
fn a_master_is_told_of_etcd_and_where_the_api_answers() {
    let spec = spec();
    let seed = seed_of(&own(), &spec, GuestRole::Master, &spec.masters.seed).unwrap();
    let document = user_data(&seed);
    let etcd = written(document, "/etc/systemd/system/etcd.service");
    assert!(etcd.contains(
        "--initial-cluster=master-0=https://10.7.0.2:2380,master-1=https://10.7.0.3:2380,master-2=https://10.7.0.4:2380 "
    ));
    let api = written(document, "/etc/systemd/system/kube-apiserver.service");
    assert!(api.contains("--secure-port=7443 ") && api.contains("--advertise-address=10.7.0.2 "), "{api}");
    let kubeconfig = written(document, "/etc/kubernetes/scheduler.kubeconfig");
    assert!(kubeconfig.contains("server: \"https://10.7.0.1:7443\""), "{kubeconfig}");
    assert_eq!(seed.ntp_servers, ["ntp.example".parse().unwrap()]);
}

#[test]
fn a_worker_is_told_of_itself_in_both_languages() {
    let spec = spec();
    let seed = seed_of(&own(), &spec, GuestRole::Worker, &spec.workers[0].seed).unwrap();
    let kubelet = written(user_data(&seed), "/etc/systemd/system/kubelet.service");
    assert!(kubelet.contains("--hostname-override=default-0 ") && kubelet.contains("--node-ip=10.7.0.5"), "{kubelet}");
    assert!(kubelet.contains("--node-labels=disk=ssd,rack=7"), "{kubelet}");
    let configuration = written(user_data(&seed), "/etc/kubernetes/kubelet.yaml");
    assert!(configuration.contains("clusterDNS: [\"10.101.0.10\"]"), "{configuration}");

    let ignition = json!({ "ignition": { "template": { "name": "worker.ignition" } } });
    let seed = seed_of(&own(), &spec, GuestRole::Worker, &serde_json::from_value(ignition).unwrap()).unwrap();
    let document: Value = serde_json::from_str(user_data(&seed)).unwrap();
    let units = document["systemd"]["units"].as_array().unwrap();
    let kubelet = units.iter().find(|unit| unit["name"] == "kubelet.service").unwrap();
    assert!(kubelet["contents"].as_str().unwrap().contains("--hostname-override=default-0 "));
}

#[test]
fn oidc_reaches_the_api_where_it_is_asked_for() {
    let mut spec = spec();
    let options = |spec: &ClusterSpec| {
        let seed = seed_of(&own(), spec, GuestRole::Master, &spec.masters.seed).unwrap();
        let unit = written(user_data(&seed), "/etc/systemd/system/kube-apiserver.service");
        unit.lines().filter(|line| line.contains("--oidc-")).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    assert!(options(&spec).is_empty());
    spec.kubernetes.oidc = Some(
        serde_json::from_value(json!({
            "issuerUrl": "https://login.example", "clientId": "kubernetes", "groupsClaim": "groups",
        }))
        .unwrap(),
    );
    assert_eq!(
        options(&spec),
        [
            "\"--oidc-issuer-url=https://login.example\" \\",
            "\"--oidc-client-id=kubernetes\" \\",
            "\"--oidc-groups-claim=groups\" \\"
        ]
    );
}

#[test]
fn a_manifest_brings_values_and_templates_of_its_own() {
    let template = cloud_init(
        &json!({ "inline": "#cloud-config\nhostname: {{ node.name }}-{{ values.colour }}-{{ pools[0].name }}-{{ node.role }}\n" }),
        &json!({ "colour": "blue" }),
    );
    let seed = seed_of(&own(), &spec(), GuestRole::Master, &template).unwrap();
    assert_eq!(user_data(&seed), "#cloud-config\nhostname: master-0-blue-default-master\n");
}

#[test]
fn a_mistake_names_template_line_and_value() {
    let table = [
        ("#!/bin/sh\necho {{ cluster.nam }}\n", "template inline, line 2: `cluster.nam` is undefined"),
        ("{{ values.color }}", "template inline, line 1: `values.color` is undefined"),
        ("\n\n{% if %}", "template inline, line 3: syntax error: "),
        (
            "{% set user = nobody %}{% include 'files/kubeconfig' %}",
            "template files/kubeconfig, line 7: `nobody` is undefined (from inline:1)",
        ),
        ("{% include 'files/kubeconfig' %}", "template files/kubeconfig, line "),
        ("{% include 'files/none' %}", "template inline, line 1: "),
        ("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", "takes too long"),
        ("#cloud-config\nruncmd: [", "template inline: gives a document that is not YAML from line "),
    ];
    for (template, expected) in table {
        let refusal = refusal(template);
        assert!(refusal.contains(expected), "{template}: {refusal}");
    }
    let unknown = cloud_init(&json!({ "name": "wroker.cloud-config" }), &json!({}));
    assert_eq!(
        seed_of(&own(), &spec(), GuestRole::Worker, &unknown).unwrap_err().to_string(),
        "template wroker.cloud-config: there is none of this name: there are master.cloud-config, worker.cloud-config, \
         worker.ignition"
    );
}

#[test]
fn ignition_is_json_with_a_version() {
    let refusal = |text: &str| {
        let template = json!({ "ignition": { "template": { "inline": text } } });
        let template = serde_json::from_value(template).unwrap();
        seed_of(&own(), &spec(), GuestRole::Worker, &template).unwrap_err().problem
    };
    assert_eq!(refusal("{\"ignition\": "), "gives a document that is not JSON from line 1, column 13 on");
    assert_eq!(refusal("{}"), "gives a document that is no Ignition document: it lacks `ignition.version`");
}

#[test]
fn a_secret_value_is_in_no_error() {
    let template = cloud_init(
        &json!({ "inline": "#cloud-config\n{{ values.password }}: [\n{{ values.password + 1 }}{{ nothing }}" }),
        &json!({ "password": "hunter2" }),
    );
    let error = seed_of(&own(), &spec(), GuestRole::Worker, &template).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
}

#[test]
fn a_directory_adds_templates_and_replaces_them() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("files")).unwrap();
    fs::write(directory.path().join("files/sysctl.conf"), "# ours\n").unwrap();
    fs::write(directory.path().join("edge.cloud-config"), "#cloud-config\nhostname: {{ node.name }}\n").unwrap();
    let templates = Templates::load(Some(directory.path())).unwrap();
    let spec = spec();
    let seed = seed_of(&templates, &spec, GuestRole::Worker, &spec.workers[0].seed).unwrap();
    assert_eq!(written(user_data(&seed), "/etc/sysctl.d/90-kubernetes.conf"), "# ours\n");
    let edge = cloud_init(&json!({ "name": "edge.cloud-config" }), &json!({}));
    assert!(user_data(&seed_of(&templates, &spec, GuestRole::Worker, &edge).unwrap()).ends_with("default-0\n"));

    fs::write(directory.path().join("edge.cloud-config"), "#cloud-config\n{% endif %}").unwrap();
    let refusal = Templates::load(Some(directory.path())).unwrap_err().to_string();
    assert!(refusal.starts_with("template edge.cloud-config, line 2: syntax error"), "{refusal}");
    let missing = Templates::load(Some(&directory.path().join("none"))).unwrap_err().to_string();
    assert!(missing.ends_with("none cannot be read as a template"), "{missing}");
}
