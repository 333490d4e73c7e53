use proptest::prelude::*;
use tar::Builder;

use super::*;

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Fault> {
    let mut archive = Archive::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut content = Vec::new();
        archive.content().read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

fn refusal(bytes: &[u8]) -> String {
    match entries(bytes) {
        Err(Fault::Stream(error)) => error.to_string(),
        Err(Fault::Final(error)) => error.to_string(),
        Ok(found) => panic!("was read: {found:?}"),
    }
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn archive(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

#[test]
fn files_directories_and_links_are_told_apart() {
    let bytes = archive(|tar| {
        tar.append_data(&mut header(EntryType::Directory, 0), "disk/", io::empty()).unwrap();
        tar.append_data(&mut header(EntryType::Regular, 5), "disk/a.raw", &b"hello"[..]).unwrap();
        tar.append_link(&mut header(EntryType::Symlink, 0), "disk/b", "/etc/passwd").unwrap();
        tar.append_link(&mut header(EntryType::Link, 0), "disk/c", "../x").unwrap();
        tar.append_data(&mut header(EntryType::Char, 0), "dev/null", io::empty()).unwrap();
    });
    let found: Vec<_> =
        entries(&bytes).unwrap().into_iter().map(|(entry, content)| (show(&entry.path), entry.kind, content)).collect();
    assert_eq!(
        found,
        [
            ("disk/".to_owned(), EntryKind::Directory, vec![]),
            ("disk/a.raw".to_owned(), EntryKind::File, b"hello".to_vec()),
            ("disk/b".to_owned(), EntryKind::Symlink(b"/etc/passwd".to_vec()), vec![]),
            ("disk/c".to_owned(), EntryKind::HardLink(b"../x".to_vec()), vec![]),
            ("dev/null".to_owned(), EntryKind::Device, vec![]),
        ]
    );
}

#[test]
fn long_names_and_pax_records_hold_for_the_entry_that_follows() {
    let long = format!("disk/{}.raw", "x".repeat(300));
    let bytes = archive(|tar| {
        tar.append_data(&mut header(EntryType::Regular, 1), &long, &b"a"[..]).unwrap();
        tar.append_pax_extensions([("path", &b"disk/pax.raw"[..]), ("size", b"3")]).unwrap();
        // As Go writes a file too large for the header's own field.
        let mut zero = header(EntryType::Regular, 0);
        zero.set_path("short").unwrap();
        zero.set_cksum();
        tar.append(&zero, io::empty()).unwrap();
        let writer = tar.get_mut();
        writer.extend_from_slice(b"abc");
        writer.extend_from_slice(&[0; 509]);
        tar.append_data(&mut header(EntryType::Regular, 1), "plain", &b"c"[..]).unwrap();
    });
    let found: Vec<_> = entries(&bytes).unwrap().into_iter().map(|(entry, content)| (entry.path, content)).collect();
    assert_eq!(
        found,
        [
            (long.into_bytes(), b"a".to_vec()),
            (b"disk/pax.raw".to_vec(), b"abc".to_vec()),
            (b"plain".to_vec(), b"c".to_vec())
        ]
    );
}

#[test]
fn a_name_of_a_gigabyte_is_refused_before_it_is_read() {
    let mut long = header(EntryType::GNULongName, 1 << 30);
    long.set_cksum();
    assert!(refusal(long.as_bytes()).contains("1073741824 bytes"));
}

#[test]
fn damaged_truncated_and_sparse_archives_are_refused() {
    let good = archive(|tar| {
        tar.append_data(&mut header(EntryType::Regular, 600), "a", &[1; 600][..]).unwrap();
    });
    assert!(refusal(&good[..700]).contains("ends within a file"));
    assert!(refusal(&good[..100]).contains("ends within a header"));
    let mut damaged = good.clone();
    damaged[0] ^= 1;
    assert!(refusal(&damaged).contains("checksum"));
    let mut trailing = good.clone();
    trailing.extend_from_slice(b"surprise");
    assert!(refusal(&trailing).contains("follows"));
    let mut sparse = header(EntryType::GNUSparse, 0);
    sparse.set_path("disk/a.raw").unwrap();
    sparse.set_cksum();
    assert!(refusal(sparse.as_bytes()).contains("--sparse"));
    // Without the closing blocks an archive is whole all the same.
    assert_eq!(entries(&good[..512 + 1024]).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn what_the_builder_writes_is_read_back(files in prop::collection::vec(("[a-z]{1,40}(/[a-z]{1,150}){0,2}",
                                                    prop::collection::vec(any::<u8>(), 0..2000)), 0..6)) {
        let bytes = archive(|tar| for (path, content) in &files {
            tar.append_data(&mut header(EntryType::Regular, content.len() as u64), path, &content[..]).unwrap();
        });
        let found: Vec<_> = entries(&bytes).unwrap().into_iter()
            .map(|(entry, content)| (String::from_utf8(entry.path).unwrap(), content)).collect();
        prop_assert_eq!(found, files);
    }

    #[test]
    fn no_damage_crashes_the_reader(position in 0_usize..2048, value: u8) {
        let mut bytes = archive(|tar| {
            tar.append_pax_extensions([("path", &b"disk/pax.raw"[..])]).unwrap();
            tar.append_data(&mut header(EntryType::Regular, 5), "disk/a.raw", &b"hello"[..]).unwrap();
        });
        bytes[position] = value;
        let _ = entries(&bytes);
    }
}
