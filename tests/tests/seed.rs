//! NoCloud seeds as cloud-init's own tools see them.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by a panic

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use goliath_agent::{
    spec::{GuestUid, MacAddress, Mtu},
    volume::{Link, SeedInput, nocloud_disk},
};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|reason| {
        panic!("{program} cannot be run ({reason}): install dosfstools, mtools and cloud-init")
    });
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn seed(user_data: &str) -> SeedInput {
    let uid: GuestUid = "11111111-2222-3333-4444-555555555555".parse().unwrap();
    SeedInput {
        uid,
        name: "worker-0".parse().unwrap(),
        cluster: "acme".parse().unwrap(),
        link: Some(Link {
            mac_address: MacAddress::of_guest(uid),
            address: Ipv4Addr::new(10, 7, 0, 11),
            cidr: "10.7.0.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 7, 0, 1),
            mtu: Mtu::try_from(1450).unwrap(),
            dns_servers: vec![Ipv4Addr::new(10, 7, 0, 2)],
        }),
        ntp_servers: vec!["ntp.example".to_owned()],
        user_data: user_data.to_owned(),
        vendor_data: String::new(),
    }
}

fn written(directory: &Path, input: &SeedInput) -> String {
    let image = directory.join("seed.img");
    fs::write(&image, nocloud_disk(input).unwrap()).unwrap();
    image.to_str().unwrap().to_owned()
}

#[test]
fn a_seed_is_a_sound_file_system_with_the_label_that_cloud_init_looks_for() {
    let directory = tempfile::tempdir().unwrap();
    for size in [0, 10_000, 3 << 20, 20 << 20] {
        let image = written(directory.path(), &seed(&"x".repeat(size)));
        run("fsck.vfat", &["-n", &image]);
        assert_eq!(run("blkid", &["-p", "-s", "LABEL", "-o", "value", &image]).trim(), "CIDATA", "{size}");
        assert_eq!(run("blkid", &["-p", "-s", "TYPE", "-o", "value", &image]).trim(), "vfat", "{size}");
    }
}

#[test]
fn cloud_init_makes_of_the_network_what_was_meant() {
    let directory = tempfile::tempdir().unwrap();
    let image = written(directory.path(), &seed(""));
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (config, output) = (file("network-config"), file("out"));
    run("mcopy", &["-i", &image, "::network-config", &config]);
    let mac = MacAddress::of_guest(seed("").uid).to_string();
    run(
        "cloud-init",
        &[
            "devel",
            "net-convert",
            "--network-data",
            &config,
            "--kind",
            "yaml",
            "--distro",
            "debian",
            "--output-kind",
            "networkd",
            "--directory",
            &output,
            "--mac",
            &format!("ens2,{mac}"),
        ],
    );
    let rendered = run("find", &[&output, "-name", "*.network", "-exec", "cat", "{}", ";"]);
    for line in
        [&format!("MACAddress={mac}"), "Address=10.7.0.11/24", "Gateway=10.7.0.1", "DNS=10.7.0.2", "MTUBytes=1450"]
    {
        assert!(rendered.contains(line), "{line:?} is missing in:\n{rendered}");
    }
}

#[test]
fn cloud_init_accepts_the_vendor_data_that_tells_of_time_servers() {
    let directory = tempfile::tempdir().unwrap();
    let image = written(directory.path(), &seed(""));
    let document = directory.path().join("vendor-data").to_str().unwrap().to_owned();
    run("mcopy", &["-i", &image, "::vendor-data", &document]);
    assert!(fs::read_to_string(&document).unwrap().contains("ntp.example"));
    run("cloud-init", &["schema", "--config-file", &document]);
}
