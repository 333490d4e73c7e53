use std::os::unix::fs::PermissionsExt as _;

use x509_parser::prelude::*;

use super::*;

fn arguments(directory: &Path) -> InitArguments {
    InitArguments {
        directory: directory.to_owned(),
        host_name: "host-a".to_owned(),
        addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        ttl: Duration::from_hours(24),
    }
}

fn certificate(file: &Path) -> Pem {
    parse_x509_pem(&fs::read(file).unwrap()).unwrap().1
}

#[test]
fn the_ca_vouches_for_a_host_with_its_addresses_and_an_operator() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("pki");
    init(&arguments(&directory)).unwrap();
    let ca = certificate(&directory.join("ca.crt"));
    let ca = ca.parse_x509().unwrap();
    for (name, server, client) in [("host.crt", true, false), ("operator.crt", false, true)] {
        let pem = certificate(&directory.join(name));
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.issuer(), ca.subject(), "{name}");
        assert!(!certificate.is_ca() && certificate.validity().is_valid(), "{name}");
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((usage.server_auth, usage.client_auth), (server, client), "{name}");
    }
    let pem = certificate(&directory.join("host.crt"));
    let host = pem.parse_x509().unwrap();
    let names = &host.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.contains(&GeneralName::DNSName("host-a")));
    assert!(names.contains(&GeneralName::IPAddress(&[192, 0, 2, 10])));
    assert_eq!(names.len(), 3);
}

#[test]
fn keys_are_for_their_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("pki");
    init(&arguments(&directory)).unwrap();
    for name in ["ca.key", "host.key", "operator.key"] {
        assert_eq!(fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn what_is_there_is_never_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("pki");
    init(&arguments(&directory)).unwrap();
    let before = fs::read(directory.join("ca.key")).unwrap();
    let error = init(&arguments(&directory)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Refused);
    assert_eq!(fs::read(directory.join("ca.key")).unwrap(), before);
}

#[test]
fn what_is_no_host_name_makes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("pki");
    let wrong = InitArguments { host_name: "../host".to_owned(), ..arguments(&directory) };
    assert_eq!(init(&wrong).unwrap_err().exit_code(), ExitCode::Usage);
    assert!(!directory.exists());
}

#[test]
fn the_next_steps_are_printed() {
    insta::assert_snapshot!(next_steps(&arguments(Path::new("/etc/goliath/pki"))));
}
