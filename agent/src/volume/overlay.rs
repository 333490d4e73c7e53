//! The header of a qcow2 overlay, written by ourselves: `qemu-img` takes as long for it as QEMU takes to start.
//!
//! An empty overlay is a header, one block of reference counts and an empty table: five clusters and no data. The format
//! is QEMU's `docs/interop/qcow2.txt`, version 3. Tests hold what is written against `qemu-img check`.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::{qemu::DiskFormat, spec::ByteSize};

const MAGIC: [u8; 4] = *b"QFI\xfb";
const VERSION: u32 = 3;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// One table of the second level maps this many bytes.
const MAPPED_BY_TABLE: u64 = CLUSTER * (CLUSTER / 8);
const HEADER_LENGTH: u32 = 104;
/// The header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The longest name of a backing file.
const LONGEST_NAME: usize = 1023;
/// QEMU's own limit for the table of the first level, 32 MiB, is far beyond this: 64 TiB of disk.
const LARGEST: ByteSize = ByteSize::bytes(64 << 40);

/// What an overlay's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Overlay {
    /// The disk's size as the guest sees it.
    pub(super) size: ByteSize,
    /// What it lies over.
    pub(super) base: PathBuf,
}

/// Writes an empty overlay.
pub(super) fn write(file: &mut File, base: &Path, base_format: DiskFormat, size: ByteSize) -> io::Result<()> {
    let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let name = base.as_os_str().as_bytes();
    if name.len() > LONGEST_NAME {
        return invalid(format!("the base's path has {} bytes: qcow2 takes {LONGEST_NAME}", name.len()));
    }
    if size > LARGEST || !size.get().is_multiple_of(512) {
        return invalid(format!("{size} is not a disk's size: at most {LARGEST} in sectors of 512 bytes"));
    }
    let tables = size.get().div_ceil(MAPPED_BY_TABLE);
    let table_clusters = (tables * 8).div_ceil(CLUSTER).max(1);
    // Header, table of reference counts, one block of them, table of the first level: in this order.
    let (counts_table, counts_block, first_level) = (CLUSTER, 2 * CLUSTER, 3 * CLUSTER);
    let clusters = 3 + table_clusters;

    let format = base_format.as_str().as_bytes();
    let padded = format.len().next_multiple_of(8);
    let name_offset = u64::from(HEADER_LENGTH) + 8 + padded as u64 + 8;

    let mut header = Vec::with_capacity(1 << 11);
    header.extend(MAGIC);
    header.extend(VERSION.to_be_bytes());
    header.extend(name_offset.to_be_bytes());
    header.extend(number(name.len())?.to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.get().to_be_bytes());
    header.extend(0_u32.to_be_bytes()); // not encrypted
    header.extend(number(tables)?.to_be_bytes());
    header.extend(first_level.to_be_bytes());
    header.extend(counts_table.to_be_bytes());
    header.extend(1_u32.to_be_bytes()); // clusters of that table
    header.extend(0_u32.to_be_bytes()); // no snapshots,
    header.extend(0_u64.to_be_bytes()); // nowhere
    header.extend([0; 24]); // no features, incompatible, compatible or cleared by writers
    header.extend(4_u32.to_be_bytes()); // reference counts of 2^4 bits
    header.extend(HEADER_LENGTH.to_be_bytes());
    header.extend(BACKING_FORMAT.to_be_bytes());
    header.extend(number(format.len())?.to_be_bytes());
    header.extend(format);
    header.resize(header.len() + padded - format.len(), 0);
    header.extend([0; 8]); // end of the extensions
    header.extend(name);

    file.write_all(&header)?;
    file.seek(SeekFrom::Start(counts_table))?;
    file.write_all(&counts_block.to_be_bytes())?;
    file.seek(SeekFrom::Start(counts_block))?;
    for _ in 0..clusters {
        file.write_all(&1_u16.to_be_bytes())?;
    }
    // The tables of the second level do not exist yet: zeros, which a hole is.
    file.set_len(clusters * CLUSTER)
}

/// Reads what an overlay's header says.
pub(super) fn read(file: &mut File) -> io::Result<Overlay> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut header = [0; 32];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    let [m0, m1, m2, m3, _, _, _, _, o @ ..] = header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(damaged("it is not a qcow2"));
    }
    let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3, _, _, _, _, s @ ..] = o;
    let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > LONGEST_NAME {
        return Err(damaged("the name of its backing file is too long"));
    }
    let mut name = vec![0; length];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut name)?;
    let base = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
    Ok(Overlay { size: ByteSize::bytes(u64::from_be_bytes(s)), base })
}

fn number<T: TryInto<u32>>(count: T) -> io::Result<u32> {
    count.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too large for a qcow2"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_overlay_reads_back_as_it_was_written(sectors in 1_u64..(LARGEST.get() / 512), name in "/[a-z/]{1,900}") {
            let mut file = tempfile::tempfile().unwrap();
            let overlay = Overlay { size: ByteSize::bytes(sectors * 512), base: name.into() };
            write(&mut file, &overlay.base, DiskFormat::Qcow2, overlay.size).unwrap();
            prop_assert_eq!(read(&mut file).unwrap(), overlay);
        }
    }

    #[test]
    fn a_size_that_no_disk_has_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        for bytes in [513, LARGEST.get() + 512, u64::MAX] {
            assert!(write(&mut file, Path::new("/base"), DiskFormat::Raw, ByteSize::bytes(bytes)).is_err());
        }
    }

    #[test]
    fn what_is_no_overlay_is_not_read_as_one() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        assert!(read(&mut file).is_err());
    }
}
