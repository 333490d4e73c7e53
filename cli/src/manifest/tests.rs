use goliath_proto::agent::v1::{Accelerator, CertificateVolume, Guest, Network, boot, disk, seed};

use super::*;
use crate::output::structured::Notation;

const GUEST: &str = include_str!("../../../docs/examples/guest.yaml");
const NETWORK: &str = include_str!("../../../docs/examples/network.yaml");

fn source(text: &str) -> Rc<Source> {
    Rc::new(Source { name: "guest.yaml".to_owned(), text: text.to_owned() })
}

fn parsed(text: &str) -> Vec<Document> {
    parse(&source(text), Path::new(".")).unwrap_or_else(|problems| panic!("{}", problem::report(&problems)))
}

fn mistakes(text: &str) -> String {
    match parse(&source(text), Path::new(".")) {
        Ok(_) => panic!("no mistake was found"),
        Err(problems) => problem::report(&problems),
    }
}

fn guest(text: &str) -> GuestManifest {
    match parsed(text).swap_remove(0).item {
        Item::Guest(guest) => *guest,
        Item::Network(_) => panic!("a guest"),
    }
}

fn network(text: &str) -> NetworkManifest {
    match parsed(text).swap_remove(0).item {
        Item::Network(network) => network,
        Item::Guest(_) => panic!("a network"),
    }
}

#[test]
fn the_example_of_a_guest_says_what_it_seems_to_say() {
    let manifest = guest(GUEST);
    assert_eq!((manifest.uid, manifest.generation), (None, None));
    let spec = manifest.spec("uid", 3);
    assert_eq!((spec.uid.as_str(), spec.generation, spec.cluster.as_str()), ("uid", 3, "acme"));
    let machine = spec.machine.unwrap();
    assert_eq!((machine.vcpus, machine.memory_bytes, machine.accelerator()), (2, 2 << 30, Accelerator::Auto));
    assert!(
        matches!(spec.boot.unwrap().method, Some(boot::Method::Firmware(firmware)) if firmware.firmware.is_empty())
    );
    assert!(matches!(&spec.disks[1].kind, Some(disk::Kind::Data(data)) if data.serial == "etcd"));
    assert!(
        matches!(spec.seed.unwrap().kind, Some(seed::Kind::CloudInit(seed)) if seed.user_data.starts_with("#cloud-config\n"))
    );
    assert_eq!(spec.certificates[0].ttl.unwrap().seconds, 720 * 3600);
    assert_eq!(CertificateVolume::try_from(spec.certificate_volume), Ok(CertificateVolume::Virtiofs));
    assert_eq!(spec.labels["role"], "worker");
}

#[test]
fn the_example_of_a_network_says_what_it_seems_to_say() {
    let manifest = network(NETWORK);
    let (spec, peers) = (manifest.spec(1), manifest.peers(2).unwrap());
    assert_eq!((spec.cluster.as_str(), spec.vni, spec.mtu, spec.egress), ("acme", 7001, 0, true));
    assert_eq!((peers.generation, peers.peers.len()), (2, 1));
    assert_eq!(peers.peers[0].guests[0].ipv4_address, "10.7.0.11");
}

#[test]
fn what_get_prints_can_be_applied_and_means_the_same() {
    let spec = guest(GUEST).spec("11111111-2222-3333-4444-555555555555", 7);
    let held =
        Guest { spec: Some(spec.clone()), status: Some(goliath_proto::agent::v1::GuestStatus::default()), revision: 9 };
    for notation in [Notation::Yaml, Notation::Json] {
        let manifest = guest(&notation.one(&render::GuestForm::from(&held)));
        assert_eq!(manifest.generation, None, "the next apply chooses it");
        assert_eq!(manifest.spec(&manifest.uid.unwrap().to_string(), 7), spec);
    }
    let manifest = network(NETWORK);
    let held = Network { spec: Some(manifest.spec(3)), peers: manifest.peers(4), status: None };
    let again = network(&Notation::Yaml.one(&render::NetworkForm::from(&held)));
    assert_eq!((again.spec(3), again.peers(4)), (manifest.spec(3), manifest.peers(4)));
    assert_eq!((again.generation, again.peers_generation), (None, None));
}

#[test]
fn every_mistake_is_told_at_once_where_it_stands() {
    insta::assert_snapshot!(mistakes(
        "\
apiVersion: goliath.dev/v1alpha1
kind: Guest
metadata:
  name: worker-0
  clutser: acme
spec:
  image: registry.example/tiny
  machine:
    vcpus: two
    memry: 512MiB
    accelerator: kmv
  boot:
    kernel: {}
    firmware: {}
  disks:
    - root: {size: 4GB}
    - data: {serial: etcd}
  network: 10.7.0.10
  certificates:
    - name: kubelet
      issuer: vault
      commonName: worker
      ipAddresses: [10.7.0.300]
      ttl: 30
  lifecycle:
    restartOnChange: \"yes\"
---
apiVersion: goliath.dev/v2
kind: Gues
"
    ));
}

#[test]
fn what_is_not_yaml_is_shown_where_it_stops_to_be() {
    insta::assert_snapshot!(mistakes("kind: Guest\nmetadata:\n  name: [worker-0\nspec: {}\n"));
}

#[test]
fn a_list_is_not_a_manifest() {
    assert!(mistakes("- a\n").contains("guest.yaml:1:1: must be a mapping of fields, not a list"));
}

#[test]
fn what_the_agent_says_of_a_field_is_shown_where_it_stands() {
    let documents = parsed(GUEST);
    insta::assert_snapshot!(documents[0].complaint("spec.machine.memory_bytes", "is 2 GiB: the host has 1 GiB left"));
}

#[test]
fn one_guest_described_twice_is_a_mistake() {
    let documents = parsed(&format!("{GUEST}---\n{GUEST}"));
    let problems = twice(&documents);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].problem.message, "guest acme/worker-0 was described before, in guest.yaml:2");
}

#[test]
fn a_uid_is_derived_from_cluster_and_name_for_ever() {
    // Were this to change, every guest without a uid in its manifest would become another one.
    assert_eq!(derived_uid("acme", "worker-0").to_string(), "6cb9bd42-be52-5e73-9cbf-ca56a4b0cd3e");
    assert_ne!(derived_uid("acme", "worker-0"), derived_uid("acme", "worker-1"));
}

#[test]
fn a_seed_may_stand_in_a_file_beside_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("guest.yaml");
    let text = GUEST.replace("userData: |", "userDataFile: seed.yaml\n      #");
    let text: String = text
        .lines()
        .filter(|line| !line.contains("#cloud-config") && !line.contains("packages"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    std::fs::write(&file, text).unwrap();
    let missing = read(std::slice::from_ref(&file)).unwrap_err().to_string();
    assert!(
        missing.contains("spec.seed.cloudInit.userDataFile") && missing.contains("seed.yaml cannot be read"),
        "{missing}"
    );
    std::fs::write(directory.path().join("seed.yaml"), "#!/bin/sh\n").unwrap();
    let documents = read(&[file]).unwrap();
    let Item::Guest(guest) = &documents[0].item else { panic!("a guest") };
    assert!(
        matches!(guest.spec("", 1).seed.unwrap().kind, Some(seed::Kind::CloudInit(seed)) if seed.user_data == "#!/bin/sh\n")
    );
}

#[test]
fn networks_go_before_guests() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    std::fs::write(&one, GUEST).unwrap();
    std::fs::write(&other, NETWORK).unwrap();
    let titles: Vec<String> = read(&[one, other]).unwrap().iter().map(|document| document.item.title()).collect();
    assert_eq!(titles, ["network acme", "guest acme/worker-0"]);
}

#[test]
fn nothing_to_apply_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("empty.yaml");
    std::fs::write(&file, "# nothing\n---\n").unwrap();
    assert!(matches!(read(&[file]), Err(ManifestError::Empty(_))));
}
