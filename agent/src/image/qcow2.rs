//! Reads a qcow2 file's header before any other program does, and refuses what a base image must not have.
//!
//! QEMU, docs/interop/qcow2.rst: all numbers are big-endian.

use super::ImageError;
use crate::spec::ByteSize;

/// How a qcow2 file begins.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// What is looked at. The extensions could go on behind it in a file of very large clusters; what those could name takes
/// effect only by header fields, which are checked.
pub(super) const HEADER_LIMIT: usize = 64 << 10;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE_NAME: u32 = 0x4441_5441;
const END_OF_EXTENSIONS: u32 = 0;

/// Checks the file's first bytes ([`HEADER_LIMIT`], or the whole file); gives the virtual size.
pub(super) fn check(header: &[u8]) -> Result<ByteSize, ImageError> {
    let wrong = |what: &str| ImageError::refused(format!("its qcow2 disk {what}"));
    let cut = || wrong("ends within its header");
    if header.get(..4) != Some(&MAGIC) {
        return Err(wrong("does not begin like one"));
    }
    let version = u32_at(header, 4).ok_or_else(cut)?;
    let backing_offset = u64_at(header, 8).ok_or_else(cut)?;
    let cluster_bits = u32_at(header, 20).ok_or_else(cut)?;
    let virtual_size = u64_at(header, 24).ok_or_else(cut)?;
    let encryption = u32_at(header, 32).ok_or_else(cut)?;
    if backing_offset != 0 {
        return Err(wrong("has a backing file: flatten it with `qemu-img convert`"));
    }
    if encryption != 0 {
        return Err(wrong("is encrypted"));
    }
    if !(9..=21).contains(&cluster_bits) {
        return Err(wrong(&format!("has clusters of 2^{cluster_bits} bytes")));
    }
    let header_length = match version {
        2 => 72,
        3 => {
            let features = u64_at(header, 72).ok_or_else(cut)?;
            check_features(features)?;
            let length = u32_at(header, 100).ok_or_else(cut)?;
            if length < 104 || length > 1 << cluster_bits {
                return Err(wrong(&format!("claims a header of {length} bytes")));
            }
            length as usize
        }
        other => return Err(wrong(&format!("is of version {other}: 2 and 3 are read"))),
    };
    let first_cluster = header.get(..1 << cluster_bits).unwrap_or(header);
    check_extensions(first_cluster.get(header_length..).unwrap_or_default())?;
    Ok(ByteSize::bytes(virtual_size))
}

fn check_features(features: u64) -> Result<(), ImageError> {
    let wrong = |what: &str| ImageError::refused(format!("its qcow2 disk {what}"));
    if features & EXTERNAL_DATA != 0 {
        return Err(wrong("keeps its data in another file: flatten it with `qemu-img convert`"));
    }
    if features & CORRUPT != 0 {
        return Err(wrong("is marked corrupt: mend it with `qemu-img check -r all`"));
    }
    match features & !(DIRTY | COMPRESSION | EXTENDED_L2) {
        0 => Ok(()),
        unknown => Err(wrong(&format!("needs unknown features ({unknown:#x})"))),
    }
}

/// Each is a type, a length, and data padded to eight bytes.
fn check_extensions(mut rest: &[u8]) -> Result<(), ImageError> {
    while let (Some(kind), Some(length)) = (u32_at(rest, 0), u32_at(rest, 4)) {
        match kind {
            END_OF_EXTENSIONS => return Ok(()),
            BACKING_FORMAT => return Err(ImageError::refused("its qcow2 disk names a backing file's format")),
            DATA_FILE_NAME => return Err(ImageError::refused("its qcow2 disk names an external data file")),
            _ => {}
        }
        let padded = (length as usize).next_multiple_of(8).saturating_add(8);
        rest = rest.get(padded..).unwrap_or_default();
    }
    Ok(())
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|field| u32::from_be_bytes(*field))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|field| u64::from_be_bytes(*field))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..4].copy_from_slice(&MAGIC);
        put(&mut bytes, 4, &3_u32.to_be_bytes());
        put(&mut bytes, 20, &16_u32.to_be_bytes());
        put(&mut bytes, 24, &(1_u64 << 30).to_be_bytes());
        put(&mut bytes, 100, &112_u32.to_be_bytes());
        bytes
    }

    fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    #[test]
    fn a_plain_header_gives_the_virtual_size() {
        assert_eq!(check(&header()).unwrap(), ByteSize::GIB);
        let mut old = header();
        put(&mut old, 4, &2_u32.to_be_bytes());
        assert_eq!(check(&old[..72]).unwrap(), ByteSize::GIB);
    }

    #[test]
    fn what_leads_out_of_the_file_is_refused() {
        let extension = |kind: u32| [kind.to_be_bytes(), 5_u32.to_be_bytes()].concat();
        let feature_names = [&0x6803_f857_u32.to_be_bytes()[..], &48_u32.to_be_bytes()].concat();
        for (offset, value, reason) in [
            (0, b"VMDK".to_vec(), "does not begin"),
            (4, 4_u32.to_be_bytes().to_vec(), "version 4"),
            (8, 600_u64.to_be_bytes().to_vec(), "backing file"),
            (20, 40_u32.to_be_bytes().to_vec(), "2^40"),
            (32, 1_u32.to_be_bytes().to_vec(), "encrypted"),
            (72, EXTERNAL_DATA.to_be_bytes().to_vec(), "another file"),
            (72, CORRUPT.to_be_bytes().to_vec(), "corrupt"),
            (72, (1_u64 << 40).to_be_bytes().to_vec(), "unknown features"),
            (100, 8_u32.to_be_bytes().to_vec(), "header of 8"),
            (100, u32::MAX.to_be_bytes().to_vec(), "header of 4294967295"),
            (112, extension(BACKING_FORMAT), "backing file's format"),
            (112, extension(DATA_FILE_NAME), "external data file"),
            (112, [feature_names, vec![0; 48], extension(DATA_FILE_NAME)].concat(), "external data file"),
        ] {
            let mut bytes = header();
            put(&mut bytes, offset, &value);
            let said = check(&bytes).unwrap_err().to_string();
            assert!(said.contains(reason), "{said:?} does not say {reason:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_crash_the_check(noise: Vec<u8>, length in 0_usize..512, offset in 0_usize..500) {
            let mut bytes = header();
            let end = (offset + noise.len()).min(bytes.len());
            bytes[offset..end].copy_from_slice(&noise[..end - offset]);
            let _ = check(&bytes[..length]);
            let _ = check(&bytes);
        }
    }
}
