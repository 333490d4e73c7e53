//! Disks, and what guests start from.

use std::collections::HashMap;

use super::Problems;
use crate::{
    controllers::cluster::group::Group,
    objects::{Boot, ClusterSpec, Disk, DiskSize, GuestRole, SeedTemplate, Template},
};

/// What agents take.
const LARGEST: u64 = 64 << 40;
/// The certificate volume's, where a guest gets it as a disk.
const RESERVED_SERIAL: &str = "goliath-certs";
/// Where the operator's own template for masters keeps etcd.
const ETCD_SERIAL: &str = "etcd";
const MASTER_TEMPLATE: &str = "master.cloud-config";

pub(super) fn check(problems: &mut Problems, cluster: &ClusterSpec) {
    for (number, group) in Group::all(cluster).iter().enumerate() {
        let path = path_of(number);
        check_disks(problems, &format!("{path}.disks"), group.disks);
        let has_root = group.disks.iter().any(|disk| matches!(disk, Disk::Root(_)));
        if matches!(group.boot, Boot::Firmware(_)) && !has_root {
            let message = "must have a root disk, since firmware has nothing else to start from: add `- root: {}`, or \
                           set `boot: {kernel: {}}`";
            problems.add(format!("{path}.disks"), message);
        }
        let has_etcd =
            group.disks.iter().any(|disk| matches!(disk, Disk::Data(data) if data.serial.as_str() == ETCD_SERIAL));
        if group.role == GuestRole::Master && is_own_template(group.seed) && !has_etcd {
            let message = format!(
                "must have a data disk for etcd, which the template {MASTER_TEMPLATE} mounts: add `- data: {{serial: \
                 {ETCD_SERIAL}, size: 8GiB}}`"
            );
            problems.add(format!("{path}.disks"), message);
        }
    }
}

/// Where a group is in the manifest.
pub(super) fn path_of(group: usize) -> String {
    group.checked_sub(1).map_or_else(|| "spec.masters".to_owned(), |pool| format!("spec.workers[{pool}]"))
}

fn is_own_template(seed: &SeedTemplate) -> bool {
    let SeedTemplate::CloudInit(source) = seed else { return false };
    matches!(&source.template, Template::Name(name) if name.as_str() == MASTER_TEMPLATE)
}

fn check_disks(problems: &mut Problems, path: &str, disks: &[Disk]) {
    let mut root = None;
    let mut serials: HashMap<&str, usize> = HashMap::new();
    for (index, disk) in disks.iter().enumerate() {
        match disk {
            Disk::Root(disk) => {
                if let Some(first) = root.replace(index) {
                    problems.add(format!("{path}[{index}]"), format!("is a second root disk: {path}[{first}] is one"));
                }
                size(problems, &format!("{path}[{index}].root.size"), disk.size);
            }
            Disk::Data(disk) => {
                let serial_path = format!("{path}[{index}].data.serial");
                if disk.serial.as_str() == RESERVED_SERIAL {
                    problems.add(&serial_path, format!("is {RESERVED_SERIAL}, which is the certificate volume's"));
                }
                if let Some(first) = serials.get(disk.serial.as_str()) {
                    problems.add(&serial_path, format!("is {}, which is that of {path}[{first}] too", disk.serial));
                } else {
                    serials.insert(disk.serial.as_str(), index);
                }
                size(problems, &format!("{path}[{index}].data.size"), Some(disk.size));
            }
        }
    }
}

fn size(problems: &mut Problems, path: &str, size: Option<DiskSize>) {
    if let Some(size) = size.filter(|size| size.bytes() > LARGEST) {
        problems.add(path, format!("is {size}: 64TiB at most are allowed"));
    }
}
