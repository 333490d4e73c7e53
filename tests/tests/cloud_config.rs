//! The templates in cloud-config/ render to what cloud-init and Ignition accept, and only when every value is given.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests may fail by a panic")]

use std::{path::Path, process::Command};

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig};

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_loader(minijinja::path_loader(Path::new(env!("CARGO_MANIFEST_DIR")).join("../cloud-config")));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap());
    environment
}

fn values() -> Value {
    context! {
        cluster => context! {
            name => "acme",
            domain => "cluster.local",
            api => "https://10.7.0.1:6443",
            pod_cidr => "10.100.0.0/16",
            service_cidr => "10.101.0.0/16",
            dns => "10.101.0.10",
            etcd => [
                context! { name => "master-1", address => "10.7.0.11" },
                context! { name => "master-2", address => "10.7.0.12" },
            ],
        },
        node => context! { name => "master-1", address => "10.7.0.11" },
        ntp_servers => ["10.7.0.1"],
    }
}

fn render(template: &str, values: Value) -> Result<String, minijinja::Error> {
    environment().get_template(template)?.render(values)
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
    for template in ["master.cloud-config", "worker.cloud-config"] {
        let document = render(template, values()).unwrap();
        assert!(document.starts_with("#cloud-config\n"), "{template}");
        assert_eq!(complaint_of_cloud_init(&document), None, "{template}:\n{document}");
    }
}

#[test]
fn cloud_init_refuses_a_document_that_a_template_must_not_give() {
    let document = render("worker.cloud-config", values()).unwrap().replace("runcmd:", "runcmd: 7\nruncmds:");
    let complaint = complaint_of_cloud_init(&document).expect("cloud-init's validation finds nothing");
    assert!(complaint.contains("runcmd"), "{complaint}");
}

#[test]
fn every_file_arrives_as_it_was_written() {
    let document = render("master.cloud-config", values()).unwrap();
    let document: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
    let etcd = written(&document, "/etc/systemd/system/etcd.service");
    assert!(etcd.contains("--initial-cluster=master-1=https://10.7.0.11:2380,master-2=https://10.7.0.12:2380 \\\n"));
    let apiserver = written(&document, "/etc/systemd/system/kube-apiserver.service");
    assert!(apiserver.contains("--etcd-servers=https://10.7.0.11:2379,https://10.7.0.12:2379 \\\n"), "{apiserver}");
    let kubeconfig: serde_json::Value =
        serde_saphyr::from_str(written(&document, "/etc/kubernetes/scheduler.kubeconfig")).unwrap();
    assert_eq!(kubeconfig["clusters"][0]["cluster"]["server"], "https://10.7.0.1:6443");
    assert_eq!(kubeconfig["users"][0]["user"]["client-key"], "/run/goliath/certs/scheduler/tls.key");
}

#[test]
fn a_value_cannot_leave_its_place_in_the_document() {
    let hostile = "acme\"\n  - path: /etc/shadow\n    content: {{ node }} # ";
    let document = render(
        "worker.cloud-config",
        context! {
            cluster => context! { domain => hostile, ..values().get_attr("cluster").unwrap() },
            ..values()
        },
    );
    let document = document.unwrap();
    let parsed: serde_json::Value = serde_saphyr::from_str(&document).unwrap();
    assert_eq!(parsed["write_files"].as_array().unwrap().len(), 4, "{document}");
    let kubelet: serde_json::Value = serde_saphyr::from_str(written(&parsed, "/etc/kubernetes/kubelet.yaml")).unwrap();
    assert_eq!(kubelet["clusterDomain"], hostile);
}

#[test]
fn the_ignition_document_is_json_whose_files_decode() {
    let document: serde_json::Value =
        serde_json::from_str(&render("worker.ignition", values()).unwrap()).expect("the document is not JSON");
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

#[test]
fn a_value_that_is_not_given_is_an_error_that_names_its_place() {
    for template in ["master.cloud-config", "worker.cloud-config", "worker.ignition"] {
        let incomplete =
            context! { cluster => context! { name => "acme" }, node => context! {}, ntp_servers => [""; 0] };
        let error = render(template, incomplete).unwrap_err();
        let undefined = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .filter_map(|error| error.downcast_ref::<minijinja::Error>())
            .find(|error| error.kind() == ErrorKind::UndefinedError)
            .unwrap_or_else(|| panic!("{template}: {error:?}"));
        assert!(undefined.line().is_some(), "{template}: {undefined:?}");
    }
}
