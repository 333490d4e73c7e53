//! Root disks as QEMU's own tools see them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, process::Command};

use goliath_agent::{
    qemu::DiskFormat,
    spec::ByteSize,
    volume::{Base, root_disk},
};
use serde_json::Value;

const QEMU_IMG: &str = "/usr/bin/qemu-img";

fn qemu_img(arguments: &[&str], path: &Path) -> Value {
    let output = Command::new(QEMU_IMG).args(arguments).arg(path).output();
    let output = output.expect("qemu-img is needed: run `make setup`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_overlay_of_ours_is_flawless_to_qemu_grows_and_holds_data() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.raw");
    std::fs::write(&base, vec![7; 1 << 20]).unwrap();
    let image = Base { path: &base, format: DiskFormat::Raw, size: ByteSize::mib(1) };

    for size in [None, Some(ByteSize::GIB), Some(ByteSize::bytes(3 << 40))] {
        let overlay = root_disk(directory.path(), image, size, Path::new(QEMU_IMG)).unwrap();
        let info = qemu_img(&["info", "-f", "qcow2", "--output=json"], &overlay);
        assert_eq!(info["virtual-size"], size.unwrap_or(ByteSize::MIB).get());
        assert_eq!(info["backing-filename"], base.to_str().unwrap());
        assert_eq!(info["backing-filename-format"], "raw");
        let check = qemu_img(&["check", "-f", "qcow2", "--output=json"], &overlay);
        assert_eq!(
            (&check["check-errors"], &check["corruptions"], &check["leaks"]),
            (&0.into(), &Value::Null, &Value::Null)
        );

        let wrote = Command::new("/usr/bin/qemu-io")
            .args(["-f", "qcow2", "-c", "read -P 7 0 512", "-c", "write -P 9 4096 512", "-c", "read -P 9 4096 512"])
            .arg(&overlay)
            .output()
            .expect("qemu-io is needed: run `make setup`");
        let said = String::from_utf8_lossy(&wrote.stdout);
        assert!(wrote.status.success() && !said.contains("failed"), "{said}");
    }
}
