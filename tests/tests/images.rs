//! `scripts/oci-layout` packs guest images that registries' tools read, the same for the same files.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests may fail by a panic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/oci-layout")
}

fn image_files(directory: &Path) {
    fs::create_dir(directory.join("boot")).unwrap();
    fs::write(directory.join("boot/vmlinuz"), vec![7; 70_000]).unwrap();
    fs::write(directory.join("boot/cmdline"), "console=ttyS0\n").unwrap();
}

/// Packs and gives the manifest's digest.
fn pack(directory: &Path, layout: &Path, compression: &str) -> String {
    let output = Command::new(program())
        .args([directory, layout])
        .args([compression, "dev.goliath.kernel=linux 6.12"])
        .output()
        .expect("scripts/oci-layout cannot be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_same_files_give_the_same_digest_whenever_they_were_written() {
    let scratch = tempfile::tempdir().unwrap();
    let digests = ["first", "second"].map(|name| {
        let directory = scratch.path().join(name);
        fs::create_dir(&directory).unwrap();
        image_files(&directory);
        let written = SystemTime::now() - Duration::from_secs(if name == "first" { 1_000_000 } else { 1 });
        fs::File::open(directory.join("boot/vmlinuz")).unwrap().set_modified(written).unwrap();
        pack(&directory, &scratch.path().join(format!("{name}-layout")), "gzip")
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn skopeo_reads_the_layout_by_its_tag_and_gets_the_files_back() {
    for compression in ["gzip", "none"] {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("files");
        fs::create_dir(&directory).unwrap();
        image_files(&directory);
        let (layout, copy) = (scratch.path().join("layout"), scratch.path().join("copy"));
        let digest = pack(&directory, &layout, compression);
        let copied = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet"])
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("dir:{}", copy.display()))
            .output()
            .expect("skopeo cannot be run: `make setup` installs it");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let manifest = fs::read(copy.join("manifest.json")).unwrap();
        assert_eq!(digest, format!("sha256:{}", sha256sum(&copy.join("manifest.json"))));
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
        let listing = Command::new("tar").arg("-tf").arg(copy.join(layer)).output().unwrap();
        assert_eq!(String::from_utf8(listing.stdout).unwrap(), "./\n./boot/\n./boot/cmdline\n./boot/vmlinuz\n");
    }
}

fn sha256sum(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}
