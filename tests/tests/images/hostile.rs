//! Images that mean harm, or are damaged: each is refused with a reason, and nothing is left of it.

use std::fs;

use goliath_agent::image::{ImageErrorKind, ImageSelector};
use goliath_lab::{
    oci_image::{OciImage, Packing, archive, archive_of},
    registry::Registry,
};
use serde_json::json;
use tar::EntryType;

use crate::{Store, noise, qcow2_disk, qemu_img, raw_disk};

const QCOW2: &str = "disk/guest.qcow2";

fn layer(archive: Vec<u8>) -> OciImage {
    OciImage::of_layers(vec![(Packing::Plain.media_type(), archive)]).unwrap()
}

fn disk(content: &[u8]) -> OciImage {
    OciImage::container(&[(QCOW2, content)], Packing::Gzip).unwrap()
}

fn of_one_entry(kind: EntryType, path: &str, link: &str) -> OciImage {
    layer(archive_of(kind, path, link, b"").unwrap())
}

/// An image like `{good}`, whose layer has its bytes changed before it is packed up again under a right hash.
fn repacked(packing: Packing, change: impl FnOnce(&mut Vec<u8>)) -> OciImage {
    let mut packed = packing.pack(&archive(&[("disk/guest.raw", &raw_disk(1))]).unwrap()).unwrap();
    change(&mut packed);
    OciImage::of_layers(vec![(packing.media_type(), packed)]).unwrap()
}

/// What each image is, and a part of the reason for which it is refused.
fn table() -> Vec<(&'static str, OciImage, &'static str)> {
    let raw = raw_disk(1);
    let backed = qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", "{}", "1M"]);
    let elsewhere =
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", "data_file=elsewhere,data_file_raw=on", "{}", "1M"]);
    let mut broken = qcow2_disk(1);
    // Where the L1 table is, and how long: beyond anything.
    broken[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    let good = disk(&qcow2_disk(1));
    let encrypted = qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "--object",
        "secret,id=key,data=secret",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
        "{}",
        "1M",
    ]);
    vec![
        ("a path with ..", of_one_entry(EntryType::Regular, "disk/../../etc/guest.raw", ""), "leads out"),
        ("an absolute path", of_one_entry(EntryType::Regular, "/disk/guest.raw", ""), "leads out"),
        ("a disk that is a symlink", of_one_entry(EntryType::Symlink, QCOW2, "/etc/shadow"), "is a link"),
        ("a disk that is a hard link", of_one_entry(EntryType::Link, QCOW2, "../../etc/shadow"), "is a link"),
        ("a kernel that is a symlink", of_one_entry(EntryType::Symlink, "boot/vmlinuz", "vmlinuz-6"), "is a link"),
        ("a symlink in place of /disk", of_one_entry(EntryType::Symlink, "disk", "/etc"), "is a link"),
        ("a symlink out elsewhere", of_one_entry(EntryType::Symlink, "etc/x", "../../x"), "link out"),
        ("a hard link out elsewhere", of_one_entry(EntryType::Link, "etc/x", "/etc/shadow"), "link out"),
        ("a device", of_one_entry(EntryType::Block, "disk/sda.raw", ""), "is a device"),
        ("a pipe", of_one_entry(EntryType::Fifo, "disk/pipe.raw", ""), "is a device"),
        ("a sparse entry", of_one_entry(EntryType::GNUSparse, "disk/guest.raw", ""), "--sparse"),
        ("an unknown entry", of_one_entry(EntryType::new(b'Q'), "disk/guest.raw", ""), "unknown tar type"),
        ("nothing in it", of_one_entry(EntryType::Directory, "disk", ""), "neither a disk"),
        ("two disks", layer(archive(&[("disk/a.raw", &raw[..]), ("disk/b.raw", &raw)]).unwrap()), "more than one disk"),
        (
            "two disks in two layers",
            OciImage::of_layers(vec![
                (Packing::Plain.media_type(), archive(&[("disk/a.raw", &raw[..])]).unwrap()),
                (Packing::Plain.media_type(), archive(&[("disk/b.raw", &raw[..])]).unwrap()),
            ])
            .unwrap(),
            "more than one disk",
        ),
        ("a disk of an unknown kind", layer(archive(&[("disk/a.vmdk", &raw[..])]).unwrap()), "must end in"),
        ("an initrd without a kernel", layer(archive(&[("boot/initrd", &raw[..])]).unwrap()), "no kernel"),
        (
            "a command line of two lines",
            layer(archive(&[("boot/vmlinuz", &b"kernel"[..]), ("boot/cmdline", b"quiet\ninit=/bin/sh")]).unwrap()),
            "control characters",
        ),
        ("an empty disk", layer(archive(&[("disk/guest.raw", &b""[..])]).unwrap()), "is empty"),
        (
            "a bomb of zeros",
            OciImage::container(&[("disk/guest.raw", &vec![0; 65 << 20])], Packing::Gzip).unwrap(),
            "max_disk_mib",
        ),
        ("a qcow2 with a backing file", disk(&backed), "backing file"),
        ("a qcow2 with its data elsewhere", disk(&elsewhere), "another file"),
        ("an encrypted qcow2", disk(&encrypted), "encrypted"),
        ("a qcow2 that is larger than it may be", disk(&qcow2_disk(65)), "max_disk_mib"),
        ("a qcow2 that is a text", disk(b"#!/bin/sh\n"), "does not begin like one"),
        ("a qcow2 with a broken table", disk(&broken), "qemu-img cannot read"),
        ("a cut gzip layer", repacked(Packing::Gzip, |bytes| bytes.truncate(bytes.len() / 2)), "cannot be unpacked"),
        ("a cut zstd layer", repacked(Packing::Zstd, |bytes| bytes.truncate(bytes.len() / 2)), "cannot be unpacked"),
        ("a cut plain layer", repacked(Packing::Plain, |bytes| bytes.truncate(9999)), "cannot be unpacked"),
        ("garbage behind gzip", repacked(Packing::Gzip, |bytes| bytes.extend(*b"garbage")), "cannot be unpacked"),
        ("garbage behind zstd", repacked(Packing::Zstd, |bytes| bytes.extend(*b"garbage")), "cannot be unpacked"),
        ("garbage behind tar", repacked(Packing::Plain, |bytes| bytes.extend(*b"garbage")), "cannot be unpacked"),
        (
            "zstd that says it is gzip",
            OciImage::of_layers(vec![(Packing::Gzip.media_type(), Packing::Zstd.pack(&raw).unwrap())]).unwrap(),
            "cannot be unpacked",
        ),
        ("no archive at all", layer(noise(4096, 9)), "cannot be unpacked"),
        (
            "a size that says too little",
            good.clone().with_manifest(|manifest| manifest["layers"][0]["size"] = json!(100)).unwrap(),
            "states",
        ),
        (
            "a size that says too much",
            good.clone().with_manifest(|manifest| manifest["layers"][0]["size"] = json!(1 << 20)).unwrap(),
            "states",
        ),
        (
            "a configuration of two MiB",
            good.clone().with_manifest(|manifest| manifest["config"]["size"] = json!(2 << 20)).unwrap(),
            "configuration has",
        ),
        (
            "a manifest of five MiB",
            good.clone()
                .with_manifest(|manifest| manifest["annotations"] = json!({"long": "x".repeat(5 << 20)}))
                .unwrap(),
            "more than",
        ),
        (
            "a layer of an unknown type",
            OciImage::of_layers(vec![("application/x-executable", b"x".to_vec())]).unwrap(),
            "neither a tar archive",
        ),
        (
            "an image for another machine",
            OciImage::of_blobs(
                ("application/vnd.oci.image.config.v1+json", br#"{"architecture":"arm64","os":"linux"}"#.to_vec()),
                vec![(Packing::Plain.media_type(), archive(&[("disk/guest.raw", &raw[..])]).unwrap())],
            )
            .unwrap(),
            "linux/arm64",
        ),
        (
            "an ironcore disk that is too large",
            OciImage::of_blobs(
                ("application/vnd.ironcore.image.config.v1+json", b"{}".to_vec()),
                vec![("application/vnd.ironcore.image.rootfs", vec![0; 65 << 20])],
            )
            .unwrap(),
            "max_disk_mib",
        ),
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
            assert_eq!(what, "a manifest of five MiB");
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
    let bad = of_one_entry(EntryType::Symlink, QCOW2, "/etc/shadow");
    store.refusal(&bad.write_layout(layout.path(), "v1").unwrap()).await;
    let found = store.store.find(&ImageSelector::Digest(image.digest.clone())).unwrap();
    assert_eq!(found, image, "the tag still means the image that works");
}
