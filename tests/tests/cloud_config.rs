//! The templates in cloud-config/, rendered as the operator renders them, are what cloud-init and Ignition accept.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests may fail by a panic")]

use std::{collections::BTreeMap, process::Command};

use goliath_operator::{
    objects::{ClusterSpec, GuestIndex, GuestRole, SeedKind, SeedTemplate},
    render::{Inputs, Member, Node, Templates},
};
use serde_json::json;

fn spec() -> ClusterSpec {
    serde_json::from_value(json!({
        "kubernetes": {
            "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16",
            "oidc": { "issuerUrl": "https://login.example/%7Eacme", "clientId": "\"$HOME\\", "usernamePrefix": "oidc:" },
        },
        "network": { "cidr": "10.7.0.0/24", "ntpServers": ["10.7.0.1"] },
        "masters": { "replicas": 1, "machine": { "vcpus": 2, "memory": "2GiB" }, "image": "registry.example/master:1" },
        "workers": [{
            "name": "default", "replicas": 1, "machine": { "vcpus": 1, "memory": "1GiB" },
            "image": "registry.example/worker:1", "labels": { "disk": "ssd" },
        }],
    }))
    .unwrap()
}

/// What a guest is given, as its seed has it.
fn rendered(role: GuestRole, template: &SeedTemplate) -> String {
    let (spec, none) = (spec(), BTreeMap::new());
    let (name, pool, labels) = match role {
        GuestRole::Master => ("master-0", None, &none),
        GuestRole::Worker => ("default-0", Some(&spec.workers[0].name), &spec.workers[0].labels),
    };
    let node = Node { name, address: [10, 7, 0, 11].into(), role, pool, index: GuestIndex::SMALLEST, labels };
    let masters = [Member { name: "master-0".to_owned(), address: [10, 7, 0, 11].into() }];
    let inputs =
        Inputs { cluster: "acme", spec: &spec, gateway_address: [10, 7, 0, 1].into(), masters: &masters, node };
    let seed = Templates::load(None).unwrap().seed(template, &inputs).unwrap();
    match seed.kind {
        SeedKind::CloudInit(cloud_init) => cloud_init.user_data.as_str().to_owned(),
        SeedKind::Ignition(document) => document.as_str().to_owned(),
    }
}

/// What cloud-init itself says of a document: nothing where it is valid.
fn complaint_of_cloud_init(document: &str) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document).unwrap();
    let output = Command::new("cloud-init")
        .args(["schema", "--config-file"])
        .arg(file.path())
        .output()
        .expect("cloud-init cannot be run: `make setup` installs it");
    (!output.status.success()).then(|| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The content of a file that a cloud-config document writes.
fn written<'d>(document: &'d serde_json::Value, path: &str) -> &'d str {
    let files = document["write_files"].as_array().unwrap();
    files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("no {path}"))["content"].as_str().unwrap()
}

#[test]
fn cloud_init_accepts_what_the_templates_give() {
    let spec = spec();
    for (role, template) in [(GuestRole::Master, &spec.masters.seed), (GuestRole::Worker, &spec.workers[0].seed)] {
        let document = rendered(role, template);
        assert!(document.starts_with("#cloud-config\n"), "{document}");
        assert_eq!(complaint_of_cloud_init(&document), None, "{document}");
    }
}

#[test]
fn cloud_init_refuses_a_document_that_a_template_must_not_give() {
    let document = rendered(GuestRole::Worker, &spec().workers[0].seed);
    let document = document.replace("runcmd:", "runcmd: 7\nruncmds:");
    let complaint = complaint_of_cloud_init(&document).expect("cloud-init's validation finds nothing");
    assert!(complaint.contains("runcmd"), "{complaint}");
}

#[test]
fn every_file_arrives_as_it_was_written() {
    let document = rendered(GuestRole::Master, &spec().masters.seed);
    let document: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
    let etcd = written(&document, "/etc/systemd/system/etcd.service");
    assert!(etcd.contains("--initial-cluster=master-0=https://10.7.0.11:2380 \\\n"));
    let kubeconfig: serde_json::Value =
        serde_saphyr::from_str(written(&document, "/etc/kubernetes/scheduler.kubeconfig")).unwrap();
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://10.7.0.1:6443");
    assert_eq!(kubeconfig["users"][0]["user"]["client-key"], "/run/goliath/certs/scheduler/tls.key");
}

#[test]
fn a_value_cannot_leave_its_place_in_a_unit() {
    let document = rendered(GuestRole::Master, &spec().masters.seed);
    let document: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
    let unit = written(&document, "/etc/systemd/system/kube-apiserver.service");
    // systemd reads quotes and backslashes as C does, `%` as a specifier, `$` as a variable.
    assert!(unit.contains("  \"--oidc-issuer-url=https://login.example/%%7Eacme\" \\\n"), "{unit}");
    assert!(unit.contains("  \"--oidc-client-id=\\\"$$HOME\\\\\" \\\n"), "{unit}");
}

#[test]
fn the_ignition_document_is_json_whose_files_decode() {
    let template = json!({ "ignition": { "template": { "name": "worker.ignition" } } });
    let document = rendered(GuestRole::Worker, &serde_json::from_value(template).unwrap());
    let document: serde_json::Value = serde_json::from_str(&document).expect("the document is not JSON");
    assert_eq!(document["ignition"]["version"], "3.4.0");
    let files = document["storage"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    for file in files {
        let source = file["contents"]["source"].as_str().unwrap();
        let encoded = source.strip_prefix("data:,").expect("a data URL");
        assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()), "{encoded}");
    }
    let units = document["systemd"]["units"].as_array().unwrap();
    assert!(units.iter().any(|unit| unit["contents"].as_str().is_some_and(|text| text.contains("Type=virtiofs"))));
}
