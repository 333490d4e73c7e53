//! What QEMU takes beside its guest's memory: measured, told, and counted.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use goliath_lab::{Guest, Host, Lab, run};
use goliath_proto::agent::v1::{ApplyGuestRequest, GetHostRequest, GuestSpec};

const MIB: u64 = 1 << 20;
/// The first look comes half a minute after the agent's start.
const LIMIT: Duration = Duration::from_mins(2);

/// What the agent answers when it is asked for a guest that is not to be.
async fn ask(host: &Host, spec: &GuestSpec, memory_bytes: u64) -> Result<Result<(), tonic::Status>> {
    let mut spec = spec.clone();
    spec.machine.as_mut().context("a spec without a machine")?.memory_bytes = memory_bytes;
    let request = ApplyGuestRequest { spec: Some(spec), dry_run: true };
    Ok(host.client().await?.guests().apply_guest(request).await.map(drop))
}

/// Waits until a refusal tells a measured overhead for guests like this one; in MiB.
async fn measured(host: &Host, spec: &GuestSpec) -> Result<f64> {
    let asked = async {
        loop {
            let refusal = ask(host, spec, 4 << 40).await?.unwrap_err().message().to_owned();
            if let Some((before, _)) = refusal.split_once(" MiB measured overhead") {
                let (_, number) = before.rsplit_once(' ').context("no number")?;
                return Ok(number.parse()?);
            }
            assert!(refusal.contains(", of which 1 MiB configured overhead;"), "{refusal}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.context("nothing was measured")?
}

/// What the kernel counts for its QEMU now, in MiB.
async fn resident(guest: &Guest) -> Result<f64> {
    let pid = guest.status().await?.process.context("it does not run")?.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

#[test]
fn what_qemus_take_beside_their_guests_is_measured_told_and_counted() {
    run(async |lab: &Lab| {
        let capacity = "reserved_memory_mib = 256\nreserved_disk_mib = 64\nvcpu_ratio = 32.0\nguest_overhead_mib = 1\n";
        let host = lab.host("a").capacity(capacity).start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        // The memory of the one is private, that of the other is shared with virtiofsd.
        let plain = |name: &str| cluster.guest(name);
        let certified = |name: &str| cluster.guest(name).certificate("local", Duration::from_hours(1));
        let (private, shared) = (plain("a").on(&host).apply().await?, certified("b").on(&host).apply().await?);
        private.until_booted().await?;
        shared.until_booted().await?;
        let wanted = [plain("c").on(&host).spec().await?, certified("d").on(&host).spec().await?];
        let (of_private, of_shared) = (measured(&host, &wanted[0]).await?, measured(&host, &wanted[1]).await?);

        // Emulation and QEMU itself take tens of MiB; what the guest touched of its 192 MiB must not be among them.
        for (of, guest) in [(of_private, &private), (of_shared, &shared)] {
            let resident = resident(guest).await?;
            assert!(of > 16.0 && of < resident - 32.0, "{of} MiB measured of {resident} MiB");
        }
        assert!((of_private - of_shared).abs() < 48.0, "alike, but for virtiofsd: {of_private} and {of_shared} MiB");

        let told = host.client().await?.host().get_host(GetHostRequest {}).await?.into_inner().host.unwrap();
        let available = told.available.unwrap().memory_bytes / MIB * MIB;
        for spec in &wanted {
            assert!(ask(&host, spec, available).await?.is_ok(), "what is told as available is not");
            assert!(ask(&host, spec, available + 128 * MIB).await?.is_err(), "more than what is told as available is");
        }
        Ok(())
    });
}
