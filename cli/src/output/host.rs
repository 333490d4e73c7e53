//! The host as a row.

use goliath_proto::agent::v1::{Accelerator, Host};

use super::{
    table::{Cell, Table},
    text::{or_dash, size},
};
use crate::style::Tone;

pub(crate) fn table(host: &Host, wide: bool) -> Table {
    let mut heading = vec!["NAME", "STATE", "GUESTS", "VCPUS FREE", "MEMORY FREE", "DISK FREE", "ACCEL"];
    if wide {
        heading.extend(["UNDERLAY", "AGENT", "QEMU", "KERNEL", "BOOT ID"]);
    }
    let mut table = Table::new(heading);
    let capacity = host.capacity.unwrap_or_default();
    let available = host.available.unwrap_or_default();
    let mut row: Vec<Cell> = vec![
        host.name.clone().into(),
        if host.cordoned { Cell::new("cordoned", Tone::Warn) } else { Cell::new("open", Tone::Good) },
        host.guests.to_string().into(),
        format!("{} of {}", available.vcpus, capacity.vcpus).into(),
        format!("{} of {}", size(available.memory_bytes), size(capacity.memory_bytes)).into(),
        format!("{} of {}", size(available.disk_bytes), size(capacity.disk_bytes)).into(),
        accelerator(host.accelerator()).into(),
    ];
    if wide {
        let versions = host.versions.clone().unwrap_or_default();
        row.extend([
            or_dash(&host.underlay_address).into(),
            or_dash(&versions.agent).into(),
            or_dash(&versions.qemu).into(),
            or_dash(&versions.kernel).into(),
            Cell::from(or_dash(&host.boot_id)),
        ]);
    }
    table.row(row);
    table
}

/// What runs vCPUs here.
pub(crate) fn accelerator(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg",
        Accelerator::Auto | Accelerator::Unspecified => "not known yet",
    }
}
