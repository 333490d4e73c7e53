//! Images that mean harm, or are damaged: each is refused with a reason, and nothing is left of it.

use std::fs;

use goliath_agent::image::{ImageErrorKind, ImageSelector};
use goliath_lab::{
    oci_image::{OciImage, Packing, archive, archive_of},
    registry::Registry,
};
use serde_json::{Value, json};
use tar::EntryType;

use crate::{Store, noise, qcow2_disk, qemu_img, raw_disk};

const QCOW2: &str = "disk/guest.qcow2";
const FIVE_MIB: &str = "a manifest of five MiB";

fn layer(packing: Packing, packed: Vec<u8>) -> OciImage {
    OciImage::of_layers(vec![(packing.media_type(), packed)]).unwrap()
}

fn files(files: &[(&str, &[u8])]) -> OciImage {
    OciImage::container(files, Packing::Plain).unwrap()
}

fn entry(kind: EntryType, path: &str, link: &str) -> OciImage {
    layer(Packing::Plain, archive_of(kind, path, link, b"").unwrap())
}

fn disk(content: &[u8]) -> OciImage {
    OciImage::container(&[(QCOW2, content)], Packing::Gzip).unwrap()
}

/// A good layer, changed after it was packed, under the hash that it then has.
fn changed(packing: Packing, change: impl FnOnce(&mut Vec<u8>)) -> OciImage {
    let mut packed = packing.pack(&archive(&[("disk/guest.raw", &raw_disk(1))]).unwrap()).unwrap();
    change(&mut packed);
    layer(packing, packed)
}

fn manifest(change: impl FnOnce(&mut Value)) -> OciImage {
    disk(&qcow2_disk(1)).with_manifest(change).unwrap()
}

/// What an image is, and a part of the reason for which it is refused.
type Case = (&'static str, OciImage, &'static str);

fn table() -> Vec<Case> {
    [archives(), collections(), disks(), streams(), manifests()].into_iter().flatten().collect()
}

/// One entry each.
fn archives() -> Vec<Case> {
    vec![
        ("a path with ..", entry(EntryType::Regular, "disk/../../etc/guest.raw", ""), "leads out"),
        ("an absolute path", entry(EntryType::Regular, "/disk/guest.raw", ""), "leads out"),
        ("a disk that is a symlink", entry(EntryType::Symlink, QCOW2, "/etc/shadow"), "is a link"),
        ("a disk that is a hard link", entry(EntryType::Link, QCOW2, "../../etc/shadow"), "is a link"),
        ("a kernel that is a symlink", entry(EntryType::Symlink, "boot/vmlinuz", "vmlinuz-6"), "is a link"),
        ("a symlink in place of /disk", entry(EntryType::Symlink, "disk", "/etc"), "is a link"),
        ("a symlink out elsewhere", entry(EntryType::Symlink, "etc/x", "../../x"), "link out"),
        ("a hard link out elsewhere", entry(EntryType::Link, "etc/x", "/etc/shadow"), "link out"),
        ("a device", entry(EntryType::Block, "disk/sda.raw", ""), "is a device"),
        ("a pipe", entry(EntryType::Fifo, "disk/pipe.raw", ""), "is a device"),
        ("a sparse entry", entry(EntryType::GNUSparse, "disk/guest.raw", ""), "--sparse"),
        ("an unknown entry", entry(EntryType::new(b'Q'), "disk/guest.raw", ""), "unknown tar type"),
        ("nothing in it", entry(EntryType::Directory, "disk", ""), "neither a disk"),
    ]
}

/// What files an image has.
fn collections() -> Vec<Case> {
    let raw = raw_disk(1);
    let plain = |name| (Packing::Plain.media_type(), archive(&[(name, &raw[..])]).unwrap());
    let in_two_layers = OciImage::of_layers(vec![plain("disk/a.raw"), plain("disk/b.raw")]).unwrap();
    let lines = b"quiet\ninit=/bin/sh";
    vec![
        ("two disks", files(&[("disk/a.raw", &raw), ("disk/b.raw", &raw)]), "more than one disk"),
        ("two disks in two layers", in_two_layers, "more than one disk"),
        ("a disk of an unknown kind", files(&[("disk/a.vmdk", &raw)]), "must end in"),
        ("an initrd without a kernel", files(&[("boot/initrd", &raw)]), "no kernel"),
        ("two lines", files(&[("boot/vmlinuz", b"kernel"), ("boot/cmdline", lines)]), "control characters"),
        ("an empty disk", files(&[("disk/guest.raw", b"")]), "is empty"),
    ]
}

fn disks() -> Vec<Case> {
    let create = |options: &[&str]| qemu_img(&[&["create", "-q", "-f", "qcow2"], options, &["{}", "1M"]].concat());
    let backed = create(&["-u", "-b", "/etc/passwd", "-F", "raw"]);
    let elsewhere = create(&["-o", "data_file=elsewhere,data_file_raw=on"]);
    let luks = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let encrypted = create(&["--object", "secret,id=key,data=secret", "-o", luks]);
    let mut broken = qcow2_disk(1);
    // The length of the L1 table, beyond anything.
    broken[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    let bomb = OciImage::container(&[("disk/guest.raw", &vec![0; 65 << 20])], Packing::Gzip).unwrap();
    let config = ("application/vnd.ironcore.image.config.v1+json", b"{}".to_vec());
    let root = ("application/vnd.ironcore.image.rootfs", vec![0; 65 << 20]);
    vec![
        ("a bomb of zeros", bomb, "max_disk_mib"),
        ("an ironcore disk that is too large", OciImage::of_blobs(config, vec![root]).unwrap(), "max_disk_mib"),
        ("a qcow2 with a backing file", disk(&backed), "backing file"),
        ("a qcow2 with its data elsewhere", disk(&elsewhere), "another file"),
        ("an encrypted qcow2", disk(&encrypted), "encrypted"),
        ("a qcow2 that is larger than it may be", disk(&qcow2_disk(65)), "max_disk_mib"),
        ("a qcow2 that is a text", disk(b"#!/bin/sh\n"), "does not begin like one"),
        ("a qcow2 with a broken table", disk(&broken), "qemu-img cannot read"),
    ]
}

fn streams() -> Vec<Case> {
    let cut = |packing| changed(packing, |bytes| bytes.truncate(bytes.len() / 2));
    let followed = |packing| changed(packing, |bytes| bytes.extend(*b"garbage"));
    let disguised = layer(Packing::Gzip, Packing::Zstd.pack(&raw_disk(1)).unwrap());
    vec![
        ("a cut gzip layer", cut(Packing::Gzip), "cannot be unpacked"),
        ("a cut zstd layer", cut(Packing::Zstd), "cannot be unpacked"),
        ("a cut plain layer", cut(Packing::Plain), "cannot be unpacked"),
        ("garbage behind gzip", followed(Packing::Gzip), "cannot be unpacked"),
        ("garbage behind zstd", followed(Packing::Zstd), "cannot be unpacked"),
        ("garbage behind tar", followed(Packing::Plain), "cannot be unpacked"),
        ("zstd that says it is gzip", disguised, "cannot be unpacked"),
        ("no archive at all", layer(Packing::Plain, noise(4096, 9)), "cannot be unpacked"),
    ]
}

fn manifests() -> Vec<Case> {
    let config = br#"{"architecture":"arm64","os":"linux"}"#.to_vec();
    let raw = archive(&[("disk/guest.raw", &raw_disk(1))]).unwrap();
    let foreign = OciImage::of_blobs(
        ("application/vnd.oci.image.config.v1+json", config),
        vec![(Packing::Plain.media_type(), raw)],
    );
    let unknown = OciImage::of_layers(vec![("application/x-executable", b"x".to_vec())]);
    vec![
        ("a size that says too little", manifest(|json| json["layers"][0]["size"] = json!(100)), "states"),
        ("a size that says too much", manifest(|json| json["layers"][0]["size"] = json!(1 << 20)), "states"),
        ("a configuration of two MiB", manifest(|json| json["config"]["size"] = json!(2 << 20)), "configuration has"),
        (FIVE_MIB, manifest(|json| json["annotations"] = json!({"long": "x".repeat(5 << 20)})), "more than"),
        ("a layer of an unknown type", unknown.unwrap(), "neither a tar archive"),
        ("an image for another machine", foreign.unwrap(), "linux/arm64"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_layout() {
    let store = Store::open(&[]);
    for (what, image, reason) in table() {
        let layout = tempfile::tempdir().unwrap();
        let (said, error) = store.refusal(&image.write_layout(layout.path(), "v1").unwrap()).await;
        assert_eq!(error.kind(), ImageErrorKind::Refused, "{what}: {said}");
        assert!(said.contains(reason), "{what}: {said:?} does not say {reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_registry() {
    let registry = Registry::start().unwrap();
    let store = Store::open(&[registry.address()]);
    for (position, (what, image, reason)) in table().into_iter().enumerate() {
        // What the registry itself refuses cannot come from it.
        let Ok(reference) = registry.push("team/hostile", &format!("v{position}"), &image).await else {
            assert_eq!(what, FIVE_MIB);
            continue;
        };
        let (said, error) = store.refusal(&reference).await;
        assert_eq!(error.kind(), ImageErrorKind::Refused, "{what}: {said}");
        assert!(said.contains(reason), "{what}: {said:?} does not say {reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_changed_where_it_is_kept() {
    let registry = Registry::start().unwrap();
    let store = Store::open(&[registry.address()]);
    for (packing, tag) in [(Packing::Plain, "plain"), (Packing::Gzip, "gzip"), (Packing::Zstd, "zstd")] {
        let content = noise(3 << 20, 7);
        let image = OciImage::container(&[("disk/guest.raw", &content)], packing).unwrap();
        let reference = registry.push("team/changed", tag, &image).await.unwrap();
        let file = registry.blob_file(&image.layer(0).unwrap());
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
        let (said, error) = store.refusal(&reference).await;
        assert_eq!(error.kind(), ImageErrorKind::Refused);
        assert!(said.contains("has the hash"), "{packing:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_shorter_or_longer_than_its_manifest_says() {
    let registry = Registry::start().unwrap();
    let store = Store::open(&[registry.address()]);
    let content = noise(1 << 20, 8);
    let image = OciImage::container(&[("disk/guest.raw", &content)], Packing::Plain).unwrap();
    let reference = registry.push("team/cut", "v1", &image).await.unwrap();
    let file = registry.blob_file(&image.layer(0).unwrap());
    let bytes = fs::read(&file).unwrap();
    for changed in [bytes[..bytes.len() - 100].to_vec(), [&bytes[..], b"more"].concat()] {
        fs::write(&file, changed).unwrap();
        let (said, error) = store.refusal(&reference).await;
        assert_eq!(error.kind(), ImageErrorKind::Refused);
        assert!(said.contains("its manifest states"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_or_configuration_that_was_changed_where_it_is_kept() {
    let layout = tempfile::tempdir().unwrap();
    let image = disk(&qcow2_disk(1));
    let reference = image.write_layout(layout.path(), "v1").unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&image.head).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let store = Store::open(&[]);
    for digest in [config, image.digest()] {
        let path = layout.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        let mut bytes = fs::read(&path).unwrap();
        bytes.push(b' ');
        fs::write(&path, bytes).unwrap();
        let (said, error) = store.refusal(&reference).await;
        assert_eq!(error.kind(), ImageErrorKind::Refused);
        assert!(said.contains("has the hash"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&[]);
    let reference = format!("oci-layout:{}", directory.path().display());
    assert_eq!(store.refusal(&reference).await.1.kind(), ImageErrorKind::NotFound);
    // Opening a pipe must not wait for a writer.
    nix::unistd::mkfifo(&directory.path().join("index.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(store.refusal(&reference).await.1.kind(), ImageErrorKind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_image_does_not_disturb_the_one_that_is_there() {
    let layout = tempfile::tempdir().unwrap();
    let good = disk(&qcow2_disk(2));
    let store = Store::open(&[]);
    let image = store.pull(&good.write_layout(layout.path(), "v1").unwrap()).await.unwrap();
    let bad = entry(EntryType::Symlink, QCOW2, "/etc/shadow");
    store.refusal(&bad.write_layout(layout.path(), "v1").unwrap()).await;
    let found = store.store.find(&ImageSelector::Digest(image.digest.clone())).unwrap();
    assert_eq!(found, image, "the tag still means the image that works");
}
