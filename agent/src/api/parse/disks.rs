//! A guest's disks.

use std::collections::HashMap;

use goliath_proto::agent::v1 as pb;
use goliath_server::violations::{Path, Violations};

use super::bounded;
use crate::spec::{ByteSize, DataDisk, DiskSerial, InvalidValue, RootDisk};

/// The root disk and data disks.
const MOST_DISKS: usize = 65;
/// What a guest reads and writes at once.
const SECTOR: u64 = 512;
const LARGEST: u64 = 64 << 40;
/// The certificate volume's, where a guest gets it as a disk.
const RESERVED_SERIAL: &str = "goliath-certs";

pub(super) struct Disks {
    pub(super) root: Option<RootDisk>,
    pub(super) data: Vec<DataDisk>,
}

pub(super) fn read(violations: &mut Violations, at: &Path, disks: &[pb::Disk]) -> Option<Disks> {
    let mut root = None;
    let mut data = Vec::new();
    let mut serials: HashMap<DiskSerial, usize> = HashMap::new();
    let mut complete = true;
    for (index, disk) in bounded(violations, at, disks, MOST_DISKS).iter().enumerate() {
        let at = at.index(index);
        match violations.required(&at, disk.kind.as_ref()) {
            Some(pb::disk::Kind::Root(disk)) => {
                violations.check(&at.field("root"), root.is_none(), || "is a second root disk".to_owned());
                let size = match disk.size_bytes {
                    0 => Some(None),
                    bytes => violations.take(&at.field("root.size_bytes"), size(bytes)).map(Some),
                };
                root = size.map(|size| RootDisk { size });
                complete &= root.is_some();
            }
            Some(pb::disk::Kind::Data(disk)) => match data_disk(violations, &at.field("data"), disk) {
                Some(disk) => {
                    if let Some(first) = serials.insert(disk.serial.clone(), index) {
                        violations.add(&at.field("data.serial"), format!("is that of disks[{first}] too"));
                    }
                    data.push(disk);
                }
                None => complete = false,
            },
            None => complete = false,
        }
    }
    complete.then_some(Disks { root, data })
}

fn data_disk(violations: &mut Violations, at: &Path, disk: &pb::DataDisk) -> Option<DataDisk> {
    let serial_at = at.field("serial");
    let serial: Option<DiskSerial> = violations.parse(&serial_at, &disk.serial);
    violations.check(&serial_at, disk.serial != RESERVED_SERIAL, || "is the certificate volume's".to_owned());
    let size = match disk.size_bytes {
        0 => Err(InvalidValue::new("must not be 0")),
        bytes => size(bytes),
    };
    let size = violations.take(&at.field("size_bytes"), size);
    Some(DataDisk { serial: serial?, size: size? })
}

fn size(bytes: u64) -> Result<ByteSize, InvalidValue> {
    if !bytes.is_multiple_of(SECTOR) {
        return Err(InvalidValue::new(format!("is {bytes}: it must be a multiple of {SECTOR}")));
    }
    if bytes > LARGEST {
        return Err(InvalidValue::new(format!(
            "is {}: {} are allowed",
            ByteSize::bytes(bytes),
            ByteSize::bytes(LARGEST)
        )));
    }
    Ok(ByteSize::bytes(bytes))
}
