use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(n: u8) -> Digest {
    Digest::from_sha256(&[n; 32])
}

fn blob(n: u8, media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(n).to_string(), "size": 100 + u64::from(n)})
}

fn image(config: &str, layers: &[&str]) -> Value {
    let layers: Vec<Value> = layers.iter().zip(1..).map(|(media_type, n)| blob(n, media_type)).collect();
    json!({"schemaVersion": 2, "config": blob(0, config), "layers": layers})
}

fn read(document: &Value) -> Result<Document, ImageError> {
    parse(document.to_string().as_bytes())
}

fn refusal(document: &Value) -> String {
    read(document).unwrap_err().to_string()
}

const CONTAINER: &str = "application/vnd.oci.image.config.v1+json";

#[test]
fn layers_of_a_container_image_are_read_in_order_with_their_compression() {
    let document = image(
        CONTAINER,
        &[
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ],
    );
    let Ok(Document::Manifest(Contents::Container { layers, .. })) = read(&document) else { panic!() };
    let found: Vec<_> = layers.iter().map(|layer| (layer.blob.size, layer.compression)).collect();
    assert_eq!(found, [(101, Compression::None), (102, Compression::Gzip), (103, Compression::Zstd)]);
}

#[test]
fn every_generation_of_ironcore_media_types_is_read() {
    for (config, types) in [
        (
            "application/vnd.ironcore.image.config.v1alpha1+json",
            [
                "application/vnd.ironcore.image.rootfs.v1alpha1.rootfs",
                "application/vnd.ironcore.image.vmlinuz.v1alpha1.vmlinuz",
                "application/vnd.ironcore.image.initramfs.v1alpha1.initramfs",
                "application/vnd.ironcore.image.squashfs.v1alpha1.squashfs",
            ],
        ),
        (
            "application/vnd.onmetal.image.config.v1alpha1+json",
            [
                "application/vnd.onmetal.image.rootfs.v1alpha1.rootfs",
                "application/vnd.onmetal.image.vmlinuz.v1alpha1.vmlinuz",
                "application/vnd.onmetal.image.initramfs.v1alpha1.initramfs",
                "application/vnd.onmetal.image.squashfs.v1alpha1.squashfs",
            ],
        ),
        (
            "application/vnd.ironcore.image.config.v1+json",
            [
                "application/vnd.ironcore.image.rootfs",
                "application/vnd.ironcore.image.kernel",
                "application/vnd.ironcore.image.initramfs",
                "application/vnd.ironcore.image.squashfs",
            ],
        ),
    ] {
        let Ok(Document::Manifest(contents @ Contents::Artifact { .. })) = read(&image(config, &types)) else {
            panic!("{config}")
        };
        let sizes: Vec<u64> = contents.blobs().iter().map(|blob| blob.size).collect();
        assert_eq!(sizes, [101, 102, 103], "disk, kernel, initrd; the squashfs is not downloaded");
    }
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let rootfs = "application/vnd.ironcore.image.rootfs";
    for (document, reason) in [
        (json!([]), "is not one"),
        (json!({"schemaVersion": 1, "config": blob(0, CONTAINER), "layers": []}), "schema version 1"),
        (json!({"schemaVersion": 2}), "neither"),
        (json!({"schemaVersion": 2, "manifests": [], "config": blob(0, CONTAINER), "layers": []}), "neither"),
        (image(CONTAINER, &["application/octet-stream"]), "application/octet-stream"),
        (image(CONTAINER, &["application/vnd.oci.image.layer.v1.tar"; 129]), "129 layers"),
        (image(CONTAINER, &[rootfs, rootfs]), "two layers"),
        (image(rootfs, &["application/vnd.ironcore.image.surprise"]), "surprise"),
        (image(rootfs, &["application/vnd.oci.image.layer.v1.tar"]), "no ironcore image has"),
        (
            json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": digest(0).to_string(), "size": 2_000_000},
                   "layers": []}),
            "configuration has 2000000 bytes",
        ),
    ] {
        let said = refusal(&document);
        assert!(said.contains(reason), "{said:?} does not say {reason:?}");
    }
}

#[test]
fn a_descriptor_with_a_negative_size_or_another_digest_is_refused() {
    for (digest, size) in [
        (digest(1).to_string(), json!(-1)),
        ("sha512:00".to_owned(), json!(1)),
        ("sha256:../../etc/passwd".to_owned(), json!(1)),
    ] {
        let document = json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": digest, "size": size},
                              "layers": []});
        assert!(read(&document).is_err(), "{document}");
    }
}

fn entry(n: u8, platform: Option<(&str, &str)>, variant: Option<&str>) -> Descriptor {
    let mut entry = blob(n, "application/vnd.oci.image.manifest.v1+json");
    if let Some((os, architecture)) = platform {
        entry["platform"] = json!({"os": os, "architecture": architecture});
    }
    if let Some(variant) = variant {
        entry["annotations"] = json!({"variant": variant});
    }
    serde_json::from_value(entry).unwrap()
}

#[test]
fn of_an_index_the_manifest_for_linux_on_amd64_is_taken() {
    let chosen = |entries: &[Descriptor]| for_this_platform(entries).map(|entry| entry.size - 100).ok();
    let amd64 = Some(("linux", "amd64"));
    assert_eq!(chosen(&[entry(1, Some(("linux", "arm64")), None), entry(2, amd64, None)]), Some(2));
    assert_eq!(chosen(&[entry(1, amd64, Some("metal")), entry(2, amd64, Some("virtualization"))]), Some(2));
    assert_eq!(chosen(&[entry(1, None, None)]), Some(1));
    assert_eq!(chosen(&[entry(1, None, None), entry(2, None, None)]), None);
    assert_eq!(chosen(&[entry(1, Some(("windows", "amd64")), None)]), None);
    assert_eq!(chosen(&[]), None);
}

#[test]
fn a_container_image_for_another_machine_is_refused() {
    assert!(check_platform(br#"{"architecture":"amd64","os":"linux"}"#).is_ok());
    assert!(check_platform(b"{}").is_ok());
    let said = check_platform(br#"{"architecture":"arm64","os":"linux"}"#).unwrap_err().to_string();
    assert!(said.contains("linux/arm64"), "{said}");
    assert!(check_platform(b"\xff").is_err());
}

#[test]
fn a_command_line_is_one_line_of_text() {
    assert_eq!(command_line(b"console=ttyS0 quiet\n").unwrap(), Some("console=ttyS0 quiet".to_owned()));
    assert_eq!(command_line(b" \n").unwrap(), None);
    for bad in [&b"a\nb"[..], b"a\0b", b"\xff", &[b'x'; 2049]] {
        assert!(command_line(bad).is_err());
    }
    assert_eq!(configured_command_line(br#"{"commandLine":"ro"}"#).unwrap(), Some("ro".to_owned()));
    assert_eq!(configured_command_line(b"{}").unwrap(), None);
}

proptest! {
    #[test]
    fn no_bytes_crash_the_reader(bytes: Vec<u8>) {
        let _ = parse(&bytes);
        let _ = check_platform(&bytes);
        let _ = configured_command_line(&bytes);
    }
}
