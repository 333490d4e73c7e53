//! Every shape of image, from a registry and from a layout.

use std::{fs, os::unix::fs::MetadataExt, process::Command};

use goliath_agent::{
    image::{DiskFormat, Image, ImageErrorKind},
    spec::ByteSize,
};
use goliath_lab::{
    oci_image::{OciImage, Packing},
    registry::Registry,
};

use crate::{Store, chain, noise, qcow2_disk, qemu_img, raw_disk};

/// Pulls an image from a registry and from a layout, and hands over what came of it.
async fn from_both(image: &OciImage, check: impl Fn(&Image)) {
    let registry = Registry::start().unwrap();
    let layout = tempfile::tempdir().unwrap();
    let references =
        [registry.push("team/guest", "v1", image).await.unwrap(), image.write_layout(layout.path(), "v1").unwrap()];
    for reference in references {
        let store = Store::open(&[registry.address()]);
        let pulled = store.pull(&reference).await.unwrap_or_else(|error| panic!("{reference}: {}", chain(&error)));
        assert!(pulled.references.contains(&reference));
        assert!(pulled.stored > ByteSize::default());
        check(&pulled);
        assert!(store.partials().is_empty(), "what was downloaded is unpacked and gone");
        assert!(crate::list(&store.directory.path().join("staging")).is_empty());
    }
}

fn read(path: Option<&std::path::PathBuf>) -> Vec<u8> {
    fs::read(path.expect("the file is there")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_image_with_a_qcow2_disk() {
    let content = qcow2_disk(32);
    let image = OciImage::container(&[("disk/guest.qcow2", &content)], Packing::Gzip).unwrap();
    from_both(&image, |pulled| {
        assert_eq!(pulled.digest.to_string(), image.digest());
        let disk = pulled.disk.as_ref().unwrap();
        assert_eq!((disk.format, disk.virtual_size), (DiskFormat::Qcow2, ByteSize::mib(32)));
        assert!(fs::read(&disk.path).unwrap() == content);
        assert_eq!((&pulled.kernel, &pulled.initrd, &pulled.command_line), (&None, &None, &None));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_disk_keeps_its_holes_and_nobody_may_write_it() {
    let content = raw_disk(48);
    let image = OciImage::container(&[("disk/guest.raw", &content)], Packing::Zstd).unwrap();
    from_both(&image, |pulled| {
        let disk = pulled.disk.as_ref().unwrap();
        assert_eq!((disk.format, disk.virtual_size), (DiskFormat::Raw, ByteSize::mib(48)));
        assert!(fs::read(&disk.path).unwrap() == content);
        let metadata = fs::metadata(&disk.path).unwrap();
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks for half a MiB of data", metadata.blocks());
        assert_eq!(metadata.mode() & 0o7777, 0o444);
        assert_eq!(fs::metadata(disk.path.parent().unwrap()).unwrap().mode() & 0o7777, 0o755);
        assert!(pulled.stored < ByteSize::MIB);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_either_format_may_be_called_img() {
    for (content, format) in [(qcow2_disk(8), DiskFormat::Qcow2), (raw_disk(8), DiskFormat::Raw)] {
        let image = OciImage::container(&[("disk/disk.img", &content)], Packing::Plain).unwrap();
        from_both(&image, |pulled| assert_eq!(pulled.disk.as_ref().unwrap().format, format)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_image_with_kernel_initrd_and_command_line_boots_directly() {
    let (kernel, initrd) = (noise(300_000, 1), noise(500_000, 2));
    let files: [(&str, &[u8]); 3] =
        [("./boot/vmlinuz", &kernel), ("./boot/initrd", &initrd), ("./boot/cmdline", b"console=ttyS0 quiet\n")];
    let image = OciImage::container(&files, Packing::Gzip).unwrap();
    from_both(&image, |pulled| {
        assert!(read(pulled.kernel.as_ref()) == kernel);
        assert!(read(pulled.initrd.as_ref()) == initrd);
        assert_eq!(pulled.command_line.as_deref(), Some("console=ttyS0 quiet"));
        assert_eq!(pulled.disk, None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_laid_over_each_other() {
    let pack = |files: &[(&str, &[u8])]| {
        let archive = goliath_lab::oci_image::archive(files).unwrap();
        (Packing::Gzip.media_type(), Packing::Gzip.pack(&archive).unwrap())
    };
    let (old, new) = (raw_disk(4), raw_disk(5));
    let image = OciImage::of_layers(vec![
        pack(&[("disk/old.raw", &old), ("boot/vmlinuz", b"old kernel"), ("boot/initrd", b"initrd")]),
        pack(&[("disk/.wh.old.raw", b""), ("boot/vmlinuz", b"new kernel")]),
        pack(&[("disk/new.raw", &new), ("usr/share/doc/readme", b"is not kept")]),
    ])
    .unwrap();
    from_both(&image, |pulled| {
        assert!(fs::read(&pulled.disk.as_ref().unwrap().path).unwrap() == new);
        assert_eq!(read(pulled.kernel.as_ref()), b"new kernel");
        assert_eq!(read(pulled.initrd.as_ref()), b"initrd");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_ironcore_and_of_onmetal_before_it() {
    let (disk, kernel, initrd) = (raw_disk(6), noise(100_000, 3), noise(200_000, 4));
    for (prefix, suffixes) in [
        ("ironcore", ["rootfs", "kernel", "initramfs", "squashfs"]),
        (
            "ironcore",
            [
                "rootfs.v1alpha1.rootfs",
                "vmlinuz.v1alpha1.vmlinuz",
                "initramfs.v1alpha1.initramfs",
                "squashfs.v1alpha1.squashfs",
            ],
        ),
        (
            "onmetal",
            [
                "rootfs.v1alpha1.rootfs",
                "vmlinuz.v1alpha1.vmlinuz",
                "initramfs.v1alpha1.initramfs",
                "squashfs.v1alpha1.squashfs",
            ],
        ),
    ] {
        let types = suffixes.map(|suffix| format!("application/vnd.{prefix}.image.{suffix}"));
        let config_type = format!("application/vnd.{prefix}.image.config.v1alpha1+json");
        let image = OciImage::of_blobs(
            (&config_type, br#"{"commandLine":"root=LABEL=ROOT ro"}"#.to_vec()),
            vec![
                (&types[0], disk.clone()),
                (&types[1], kernel.clone()),
                (&types[2], initrd.clone()),
                (&types[3], noise(1000, 5)),
            ],
        )
        .unwrap();
        from_both(&image, |pulled| {
            let found = pulled.disk.as_ref().unwrap();
            assert_eq!((found.format, found.virtual_size), (DiskFormat::Raw, ByteSize::mib(6)));
            assert!(fs::read(&found.path).unwrap() == disk);
            assert!(read(pulled.kernel.as_ref()) == kernel);
            assert!(read(pulled.initrd.as_ref()) == initrd);
            assert_eq!(pulled.command_line.as_deref(), Some("root=LABEL=ROOT ro"));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_image_for_this_kind_of_machine_is_taken() {
    let image = |mib| OciImage::container(&[("disk/guest.raw", &raw_disk(mib))], Packing::Gzip).unwrap();
    let (arm, amd) = (image(3), image(4));
    let index = OciImage::index(&[("linux/arm64", arm), ("linux/amd64", amd.clone())]).unwrap();
    from_both(&index, |pulled| assert_eq!(pulled.digest.to_string(), amd.digest())).await;

    let foreign = OciImage::index(&[("linux/arm64", image(3))]).unwrap();
    let layout = tempfile::tempdir().unwrap();
    let (said, error) = Store::open(&[]).refusal(&foreign.write_layout(layout.path(), "v1").unwrap()).await;
    assert_eq!(error.kind(), ImageErrorKind::Refused);
    assert!(said.contains("linux/arm64"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_pushed_as_zstd_is_read() {
    let registry = Registry::start().unwrap();
    let layout = tempfile::tempdir().unwrap();
    let content = qemu_img(&["create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "{}", "16M"]);
    let image = OciImage::container(&[("disk/guest.qcow2", &content)], Packing::Plain).unwrap();
    image.write_layout(layout.path(), "v1").unwrap();
    let target = format!("{}/team/guest:zstd", registry.address());
    let status = Command::new("skopeo")
        .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--dest-compress-format=zstd"])
        .arg(format!("oci:{}:v1", layout.path().display()))
        .arg(format!("docker://{target}"))
        .status();
    assert!(status.expect("skopeo cannot be run: install skopeo").success());
    let store = Store::open(&[registry.address()]);
    let pulled = store.pull(&target).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(fs::read(&pulled.disk.as_ref().unwrap().path).unwrap() == content);
    assert_ne!(pulled.digest.to_string(), image.digest(), "skopeo packed it anew");
}
