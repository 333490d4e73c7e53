use std::time::Duration;

use anyhow::Result;
use goliath_lab::{Guest, Lab, console::Console, guest::GuestPlan, program, run};
use goliath_proto::agent::v1::{CloudInit, Disk, RootDisk, Seed, disk, seed};
use serde_json::json;

const USER_DATA: &str =
    "#cloud-config\nwrite_files:\n  - path: /etc/goliath-was-here\n    content: told by user data\n";
/// 43 s on a quiet machine with two processors.
const BOOT_LIMIT: Duration = Duration::from_mins(4);

/// The image, with room to work, and user data of the test's own.
fn debian(plan: GuestPlan, user_data: &str) -> Result<GuestPlan> {
    let cloud_init = CloudInit { user_data: user_data.to_owned(), vendor_data: String::new() };
    Ok(plan.image(format!("oci-layout:{}", program::image_layout("debian")?.display())).with(|spec| {
        spec.machine.get_or_insert_default().memory_bytes = 768 << 20;
        spec.machine.get_or_insert_default().vcpus = 2;
        spec.disks.push(Disk { kind: Some(disk::Kind::Root(RootDisk { size_bytes: 4 << 30 })) });
        spec.seed = Some(Seed { kind: Some(seed::Kind::CloudInit(cloud_init)), ntp_servers: Vec::new() });
    }))
}

/// Its console, with a shell that reads.
async fn shell(guest: &Guest) -> Result<Console> {
    guest.until_within(BOOT_LIMIT, "booted", |status| goliath_lab::guest::is_true(status, "Booted")).await?;
    // What is typed before the shell reads is lost.
    guest.until_it_says("root@debian-0:~#").await?;
    guest.console().await
}

async fn answers(console: &mut Console, command: &str, answer: &str) -> Result<()> {
    console.send(&format!("{command}; echo done-$?")).await?;
    let said = console.expect_within(Duration::from_mins(1), "done-0").await?;
    assert!(said.contains(answer), "{command}: {said:?}");
    Ok(())
}

#[test]
fn a_debian_guest_boots_until_cloud_init_is_done() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let plan = cluster.guest("debian-0").certificate("local", Duration::from_hours(1));
        let guest = debian(plan, USER_DATA)?.on(&host).apply().await?;
        let mut console = shell(&guest).await?;
        for (command, answer) in [
            ("cloud-init status --wait", "status: done"),
            ("cat /etc/goliath-was-here", "told by user data"),
            ("hostname", "debian-0"),
            ("ls /run/goliath/certs/node", "tls.crt"),
            ("df -h --output=size / | tail -1", "3.9G"),
            ("cat /sys/class/net/e*/mtu", "1450"),
        ] {
            answers(&mut console, command, answer).await?;
        }
        Ok(())
    });
}

/// The files that the docs give to guests with systemd.
fn certificate_disk_files() -> String {
    let file = |path: &str, permissions: &str, content: &str| json!({"path": path, "permissions": permissions, "content": content});
    let config = json!({
        "write_files": [
            file(
                "/etc/udev/rules.d/90-goliath-certs.rules",
                "0644",
                include_str!("../../../docs/examples/certificate-disk/90-goliath-certs.rules"),
            ),
            file(
                "/etc/systemd/system/goliath-certs.service",
                "0644",
                include_str!("../../../docs/examples/certificate-disk/goliath-certs.service"),
            ),
            file(
                "/usr/local/sbin/goliath-certs",
                "0755",
                include_str!("../../../docs/examples/certificate-disk/goliath-certs"),
            ),
        ],
        "runcmd": [
            ["systemctl", "daemon-reload"],
            ["udevadm", "control", "--reload"],
            // The disk was there before the rule.
            ["udevadm", "trigger", "--settle", "--action=change", "--subsystem-match=block"],
        ],
    });
    format!("#cloud-config\n{config}\n")
}

#[test]
fn a_debian_guest_follows_its_certificate_disk_with_the_files_of_the_docs() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let plan = cluster.guest("debian-0").certificate("local", Duration::from_hours(1)).certificates_on_disk();
        let guest = debian(plan, &certificate_disk_files())?.on(&host).apply().await?;
        let mut console = shell(&guest).await?;
        answers(&mut console, "cloud-init status --wait", "status: done").await?;
        let holds = |serial: &str| {
            // openssl shows a number, without zeros before it.
            let serial = serial.replace(':', "");
            let serial = serial.trim_start_matches('0');
            let read = "openssl x509 -in /run/goliath/certs/node/tls.crt -noout -serial";
            format!("until {read} | grep -i {serial}; do sleep 1; done")
        };
        let first = guest.certificates().await?.swap_remove(0).serial_number;
        answers(&mut console, &holds(&first), "").await?;
        answers(&mut console, "stat -c %a /run/goliath/certs/node/tls.key", "00").await?;
        let second = guest.rotate_certificates().await?.swap_remove(0).serial_number;
        assert_ne!(first, second);
        answers(&mut console, &holds(&second), "").await?;
        answers(&mut console, "ls -d /run/goliath/certs.* | wc -l", "1").await?;
        answers(&mut console, "grep -c GOLIATHCERT /proc/mounts || true", "0").await?;
        Ok(())
    });
}
