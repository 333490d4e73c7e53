//! Where systemd is PID 1, each QEMU gets a scope of its own, so that stopping the agent's unit leaves it.

use std::{path::Path, time::Duration};

use zbus::Variant;

use crate::spec::GuestUid;

/// sd_booted(3).
pub(super) fn systemd_is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

type Property<'a> = (&'a str, Variant<'a>);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[Property<'_>],
        auxiliary: &[(&str, &[Property<'_>])],
    ) -> zbus::Result<zbus::OwnedObjectPath>;
}

/// Moves a process into `goliath-guest-<uid>-<pid>.scope`. The pid keeps a leftover of an earlier start, which systemd
/// may not have collected yet, out of the way.
pub(super) async fn enter(uid: GuestUid, cluster_and_name: &str, pid: u32) -> Result<(), zbus::Error> {
    let moving = async {
        let connection = zbus::Connection::system().await?;
        let description = format!("Goliath guest {cluster_and_name}");
        let properties = [
            ("Description", Variant::from(description)),
            ("PIDs", Variant::from(vec![pid])),
            ("CollectMode", Variant::from("inactive-or-failed")),
            // When the machine goes down the agent ends first, and has its time to end guests by the contract.
            ("Before", Variant::from(vec!["goliath-agent.service"])),
            ("Slice", Variant::from("goliath.slice")),
        ];
        let name = format!("goliath-guest-{uid}-{pid}.scope");
        ManagerProxy::new(&connection).await?.start_transient_unit(&name, "fail", &properties, &[]).await
    };
    match tokio::time::timeout(Duration::from_secs(5), moving).await {
        Ok(result) => result.map(|_| ()),
        Err(_) => Err(zbus::Error::Failure("systemd did not answer within 5 s".to_owned())),
    }
}
