//! Images as rows.

use goliath_proto::agent::v1::Image;
use jiff::Timestamp;

use super::{
    table::{Cell, Table},
    text::{age, or_dash, short_digest, size},
};

pub(crate) fn table(images: &[Image], wide: bool, now: Timestamp) -> Table {
    let mut heading = vec!["REFERENCE", "DIGEST", "STORED", "DISK", "BOOT", "USED BY", "PULLED"];
    if wide {
        heading.push("COMMAND LINE");
    }
    let mut table = Table::new(heading);
    for image in images {
        let disk = image.disk.as_ref().map(|disk| format!("{} {}", disk.format, size(disk.virtual_size_bytes)));
        let boot = match (image.has_kernel, image.has_initrd) {
            (true, true) => "kernel+initrd",
            (true, false) => "kernel",
            (false, _) => "firmware",
        };
        let mut row: Vec<Cell> = vec![
            or_dash(&image.references.join("\n")).into(),
            if wide { image.digest.clone() } else { short_digest(&image.digest) }.into(),
            size(image.stored_bytes).into(),
            disk.unwrap_or_else(|| "-".to_owned()).into(),
            boot.into(),
            used_by(image.used_by.len()).into(),
            age(image.pulled_at, now).into(),
        ];
        if wide {
            row.push(or_dash(&image.command_line).into());
        }
        table.row(row);
    }
    table
}

fn used_by(guests: usize) -> String {
    match guests {
        0 => "-".to_owned(),
        1 => "1 guest".to_owned(),
        _ => format!("{guests} guests"),
    }
}
