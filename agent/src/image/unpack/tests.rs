use std::io::Write;

use proptest::prelude::*;

use super::*;

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind, size: 0 }
}

fn place(path: &str) -> Result<Placed, ImageError> {
    placed(&entry(path, EntryKind::File))
}

#[test]
fn the_agreed_places_are_found_with_and_without_a_leading_dot() {
    for (path, expected) in [
        ("disk/debian.qcow2", Placed::At(Place::Disk("debian.qcow2".into()))),
        ("./disk/debian.raw", Placed::At(Place::Disk("debian.raw".into()))),
        ("disk//disk.img", Placed::At(Place::Disk("disk.img".into()))),
        ("boot/vmlinuz", Placed::At(Place::Kernel)),
        ("boot/initrd", Placed::At(Place::Initrd)),
        ("boot/cmdline", Placed::At(Place::CommandLine)),
        ("boot/grub/grub.cfg", Placed::Elsewhere),
        ("usr/share/disk/debian.qcow2", Placed::Elsewhere),
        ("disk/.wh.debian.qcow2", Placed::Removal("disk/debian.qcow2".into())),
        ("disk/.wh..wh..opq", Placed::Removal("disk".into())),
        (".wh.boot", Placed::Removal("boot".into())),
    ] {
        assert_eq!(place(path).unwrap(), expected, "{path}");
    }
    assert_eq!(placed(&entry("disk/", EntryKind::Directory)).unwrap(), Placed::Elsewhere);
    let inner = entry("usr/lib64", EntryKind::Symlink(b"lib".to_vec()));
    assert_eq!(placed(&inner).unwrap(), Placed::Elsewhere);
}

#[test]
fn what_leads_out_is_refused_with_its_name() {
    let symlink = |target: &str| EntryKind::Symlink(target.into());
    let hard_link = |target: &str| EntryKind::HardLink(target.into());
    for (path, kind, reason) in [
        ("../disk/a.qcow2", EntryKind::File, "leads out"),
        ("disk/../../a.qcow2", EntryKind::File, "leads out"),
        ("/disk/a.qcow2", EntryKind::File, "leads out"),
        ("/", EntryKind::Directory, "leads out"),
        ("disk/a.qcow2", symlink("b.qcow2"), "is a link"),
        ("disk/a.qcow2", hard_link("disk/b.qcow2"), "is a link"),
        ("disk", symlink("usr"), "is a link"),
        ("boot", symlink("usr/boot"), "is a link"),
        ("boot/vmlinuz", symlink("/vmlinuz"), "is a link"),
        ("etc/passwd", symlink("/etc/passwd"), "link out"),
        ("etc/passwd", symlink("../../etc/passwd"), "link out"),
        ("etc/passwd", hard_link("../etc/passwd"), "link out"),
        ("etc/passwd", hard_link("/etc/passwd"), "link out"),
        ("dev/sda", EntryKind::Device, "device"),
        ("disk", EntryKind::File, "out of place"),
        ("boot", EntryKind::File, "out of place"),
        ("disk/a/b.qcow2", EntryKind::File, "out of place"),
        ("disk/a.vmdk", EntryKind::File, "must end in"),
        ("disk/.wh.", EntryKind::File, "no name"),
        ("disk/.wh...", EntryKind::File, "no name"),
    ] {
        let said = placed(&entry(path, kind.clone())).unwrap_err().to_string();
        assert!(said.contains(reason), "{path} {kind:?}: {said:?} does not say {reason:?}");
    }
}

#[test]
fn a_whiteout_removes_from_the_layers_below_only() {
    let file = |name: &str| (Place::Disk(name.into()), PathBuf::from(name));
    let mut files = Files::from([file("old.raw"), (Place::Kernel, "kernel".into())]);
    Changes { files: Files::from([file("new.raw")]), removed: vec!["disk".into()], unpacked: 0 }.apply(&mut files);
    assert_eq!(files, Files::from([file("new.raw"), (Place::Kernel, "kernel".into())]));
    Changes { files: Files::new(), removed: vec!["disk/new".into(), "boot/vmlinuz".into()], unpacked: 0 }
        .apply(&mut files);
    assert_eq!(files, Files::from([file("new.raw")]));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(bytes: &[u8], compression: Compression, budget: u64) -> Result<Vec<u8>, Fault> {
    let mut read = Vec::new();
    decompressed(bytes, compression, budget)?.read_to_end(&mut read)?;
    Ok(read)
}

#[test]
fn compressed_streams_of_several_members_are_read_whole() {
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let gzipped = [gzip(b"one "), gzip(b"two")].concat();
    assert_eq!(read(&gzipped, Compression::Gzip, 100).unwrap(), b"one two");
    assert_eq!(read(&[zstd(b"one "), zstd(b"two")].concat(), Compression::Zstd, 100).unwrap(), b"one two");
}

#[test]
fn garbage_behind_a_compressed_stream_and_a_cut_stream_are_errors() {
    let gzipped = gzip(&[7; 5000]);
    let zstandard = zstd::encode_all(&[7; 5000][..], 1).unwrap();
    for (bytes, compression) in [(gzipped, Compression::Gzip), (zstandard, Compression::Zstd)] {
        for damaged in
            [[&bytes[..], b"garbage"].concat(), [&bytes[..], &[0; 3]].concat(), bytes[..bytes.len() - 1].to_vec()]
        {
            let ended = read(&damaged, compression, 10_000);
            assert!(matches!(ended, Err(Fault::Stream(_))), "{compression:?}: {ended:?}");
        }
    }
}

#[test]
fn a_bomb_ends_at_the_budget() {
    let bomb = gzip(&vec![0; 1 << 20]);
    assert!(bomb.len() < 1 << 17);
    let ended = read(&bomb, Compression::Gzip, 1 << 19);
    assert!(matches!(ended, Err(Fault::Final(ImageError::Refused { .. }))), "{ended:?}");
}

proptest! {
    #[test]
    fn no_path_is_placed_outside_the_agreed_places(path in "[./a-z]{0,24}|disk/[./a-z]{0,12}raw") {
        if let Ok(Placed::At(place)) = place(&path) {
            let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
            prop_assert_eq!(names.join("/"), place.path());
            prop_assert!(!path.starts_with('/') && !names.contains(&".."));
        }
    }
}
