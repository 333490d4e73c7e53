use std::time::Duration;

use goliath_lab::{Lab, program, run};
use goliath_proto::agent::v1::{CloudInit, Disk, RootDisk, Seed, disk, seed};

const USER_DATA: &str =
    "#cloud-config\nwrite_files:\n  - path: /etc/goliath-was-here\n    content: told by user data\n";
/// 43 s on a quiet machine with two processors.
const BOOT_LIMIT: Duration = Duration::from_mins(4);

#[test]
fn a_debian_guest_boots_until_cloud_init_is_done() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let plan = cluster.guest("debian-0").certificate("local", Duration::from_hours(1));
        let plan = plan.image(format!("oci-layout:{}", program::image_layout("debian")?.display())).with(|spec| {
            spec.machine.get_or_insert_default().memory_bytes = 768 << 20;
            spec.machine.get_or_insert_default().vcpus = 2;
            spec.disks.push(Disk { kind: Some(disk::Kind::Root(RootDisk { size_bytes: 4 << 30 })) });
            let cloud_init = CloudInit { user_data: USER_DATA.to_owned(), vendor_data: String::new() };
            spec.seed = Some(Seed { kind: Some(seed::Kind::CloudInit(cloud_init)), ntp_servers: Vec::new() });
        });
        let guest = plan.on(&host).apply().await?;
        guest.until_within(BOOT_LIMIT, "booted", |status| goliath_lab::guest::is_true(status, "Booted")).await?;

        // What is typed before the shell reads is lost.
        guest.until_it_says("root@debian-0:~#").await?;
        let mut console = guest.console().await?;
        for (command, answer) in [
            ("cloud-init status --wait", "status: done"),
            ("cat /etc/goliath-was-here", "told by user data"),
            ("hostname", "debian-0"),
            ("ls /run/goliath/certs/node", "tls.crt"),
            ("df -h --output=size / | tail -1", "3.9G"),
            ("cat /sys/class/net/e*/mtu", "1450"),
        ] {
            console.send(&format!("{command}; echo done-$?")).await?;
            let said = console.expect_within(Duration::from_mins(1), "done-0").await?;
            assert!(said.contains(answer), "{command}: {said:?}");
        }
        Ok(())
    });
}
