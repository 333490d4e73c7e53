//! Certificates of running guests, from a real Vault and from a local CA.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use goliath_lab::{
    Host, Lab,
    guest::{condition, is_true},
    run,
    vault::{PkiRole, Vault, VaultOptions},
};
use goliath_proto::agent::v1::{CertificateVolume, ConditionStatus};

const HOUR: Duration = Duration::from_hours(1);

async fn vault_for_blue() -> Result<Vault> {
    let vault = Vault::start(VaultOptions::default()).await?;
    vault.enable_pki("blue").await?;
    vault.write_role("blue", &PkiRole::new("node")).await?;
    Ok(vault)
}

/// Vault lists serial numbers with dashes and shows them with colons.
fn with_colons(serial_numbers: Vec<String>) -> Vec<String> {
    serial_numbers.into_iter().map(|serial| serial.replace('-', ":")).collect()
}

#[test]
fn a_guest_serves_the_certificate_that_vault_issued_and_the_next_one_without_a_pause() {
    run(async |lab: &Lab| {
        let vault = vault_for_blue().await?;
        let host = lab.host("a").trusting(&vault, &["blue"]).await?.start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let guest = cluster.guest("worker-0").certificate("vault", HOUR).on(&host).apply().await?;
        guest.until_booted().await?;
        let authority = vault.root_certificate("blue").await?;
        let first = guest.serves(&authority).await?;
        assert_eq!(first.common_name, guest.dns_name());
        assert!(with_colons(vault.serial_numbers("blue").await?).contains(&first.serial_number));
        assert_eq!(guest.certificates().await?[0].serial_number, first.serial_number);
        let boot_id = guest.report().await?.boot_id;

        let rotated = guest.rotate_certificates().await?;
        let second = guest.serves(&authority).await?;
        assert_ne!(second.serial_number, first.serial_number);
        assert_eq!(rotated[0].serial_number, second.serial_number);
        assert_eq!(guest.report().await?.boot_id, boot_id);
        Ok(())
    });
}

#[test]
fn a_sealed_vault_stops_no_guest_and_keeps_a_new_one_waiting() {
    run(async |lab: &Lab| {
        let vault = vault_for_blue().await?;
        let host = lab.host("a").trusting(&vault, &["blue"]).await?.start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let running = cluster.guest("running").certificate("vault", HOUR).on(&host).apply().await?;
        running.until_booted().await?;
        let authority = vault.root_certificate("blue").await?;
        let (report, served) = (running.report().await?, running.serves(&authority).await?);

        vault.seal().await?;
        let waits = cluster.guest("waits").certificate("vault", HOUR).on(&host).apply().await?;
        let status = waits
            .until("waiting for Vault", |status| {
                condition(status, "CertificatesReady").is_some_and(|condition| {
                    condition.status() == ConditionStatus::False && condition.message.contains("sealed")
                })
            })
            .await?;
        assert!(status.process.is_none(), "a guest without its certificates was started");
        let refusal = running.rotate_certificates().await.expect_err("a sealed Vault issued a certificate");
        assert!(format!("{refusal:?}").contains("sealed"), "{refusal:?}");
        assert_eq!(running.report().await?.boot_id, report.boot_id);
        assert_eq!(running.serves(&authority).await?, served);
        assert!(is_true(&running.status().await?, "Running"));

        // Not even an agent that starts now needs Vault for a guest that runs.
        host.kill_agent().await?;
        host.start_agent().await?;
        running.until_booted().await?;
        assert_eq!(running.serves(&authority).await?, served);
        assert_eq!(running.report().await?.boot_id, report.boot_id);

        vault.unseal().await?;
        waits.until_booted().await?;
        waits.serves(&authority).await?;
        Ok(())
    });
}

#[test]
fn a_certificate_is_renewed_in_the_running_guest_before_it_ends() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let life = Duration::from_secs(45);
        let guest = cluster.guest("worker-0").certificate("local", life).on(&host).apply().await?;
        guest.until_booted().await?;
        let boot_id = guest.report().await?.boot_id;
        let authority = lab.issuer().certificate();
        let first = guest.serves(authority).await?;
        let next = guest.until_it_serves(authority, |served| served.serial_number != first.serial_number).await?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        assert!(now.cast_signed() < first.not_after, "it was renewed after its end");
        assert!(next.not_after > first.not_after);
        assert_eq!(guest.report().await?.boot_id, boot_id);
        Ok(())
    });
}

#[test]
fn a_changed_request_is_a_new_certificate_in_the_running_guest() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let mut guest = cluster.guest("worker-0").certificate("local", HOUR).on(&host).apply().await?;
        guest.until_booted().await?;
        let (authority, boot_id) = (lab.issuer().certificate(), guest.report().await?.boot_id);
        guest.serves(authority).await?;
        let reply = guest.change(|spec| spec.certificates[0].common_name = "other.blue.test".to_owned()).await?;
        assert_eq!(reply.restart_required_by, Vec::<String>::new());
        guest.until_it_serves(authority, |served| served.common_name == "other.blue.test").await?;
        assert_eq!(guest.report().await?.boot_id, boot_id);
        Ok(())
    });
}

#[test]
fn a_guest_without_virtiofs_gets_its_certificates_by_a_disk_and_each_new_one_while_it_runs() {
    run(async |lab: &Lab| {
        let vault = vault_for_blue().await?;
        let host = lab.host("a").trusting(&vault, &["blue"]).await?.start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let guest =
            cluster.guest("worker-0").certificate("vault", HOUR).certificates_on_disk().on(&host).apply().await?;
        let pid = guest.until_booted().await?.process.context("no process")?.pid;
        let authority = vault.root_certificate("blue").await?;
        let first = guest.serves(&authority).await?;
        assert!(with_colons(vault.serial_numbers("blue").await?).contains(&first.serial_number));
        let boot_id = guest.report().await?.boot_id;
        assert!(host.guest_processes().await?.iter().all(|process| !process.command.contains("virtiofsd")));
        // Neither does its QEMU own the file, nor may its user open it.
        let [image] = disk_images(&host)?.try_into().map_err(|images| anyhow::anyhow!("not one image: {images:?}"))?;
        assert_eq!(fs::metadata(&image)?.mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(&image)?.uid(), 0);

        // One agent brings the next one, another one the one after that.
        for restarts in [false, true] {
            if restarts {
                host.kill_agent().await?;
                host.start_agent().await?;
                guest.until_booted().await?;
            }
            let rotated = guest.rotate_certificates().await?;
            let next =
                guest.until_it_serves(&authority, |served| served.serial_number == rotated[0].serial_number).await?;
            assert_ne!(next.serial_number, first.serial_number);
        }
        let status = guest.until_booted().await?;
        assert_eq!(status.process.map(|process| process.pid), Some(pid));
        assert_eq!(guest.report().await?.boot_id, boot_id);

        // Of what it had before nothing is left: not as a file, not open in QEMU.
        until_one_image(&host, pid).await?;
        guest.delete().await?;
        assert_eq!(host.traces_of(guest.uid()).await?, Vec::<String>::new());
        Ok(())
    });
}

#[test]
fn an_agent_killed_in_the_middle_of_a_new_disk_leaves_the_old_one_or_the_new_one_and_the_next_agent_mends_it() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let guest =
            cluster.guest("worker-0").certificate("local", HOUR).certificates_on_disk().on(&host).apply().await?;
        let pid = guest.until_booted().await?.process.context("no process")?.pid;
        let (authority, boot_id) = (lab.issuer().certificate(), guest.report().await?.boot_id);
        // From the word to the new medium it takes some 10 to 30 ms.
        for after in [0, 3, 6, 10, 15, 20, 30, 60].map(Duration::from_millis) {
            let rotation = {
                let guest = guest.clone();
                tokio::spawn(async move { guest.rotate_certificates().await })
            };
            tokio::time::sleep(after).await;
            host.kill_agent().await?;
            // It fails with its agent, or was done before.
            let _ = rotation.await?;
            host.start_agent().await?;
            let status = guest.until_booted().await?;
            // What the guest has is whole, whichever it is.
            guest.serves(authority).await?;
            assert_eq!(status.process.map(|process| process.pid), Some(pid), "killed after {after:?}");
            let wanted = guest.certificates().await?[0].serial_number.clone();
            guest.until_it_serves(authority, |served| served.serial_number == wanted).await?;
            until_one_image(&host, pid).await?;
        }
        assert_eq!(guest.report().await?.boot_id, boot_id);
        Ok(())
    });
}

#[test]
fn another_kind_of_certificate_volume_waits_for_a_restart() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let mut guest =
            cluster.guest("worker-0").certificate("local", HOUR).certificates_on_disk().on(&host).apply().await?;
        guest.until_booted().await?;
        let (authority, boot_id) = (lab.issuer().certificate(), guest.report().await?.boot_id);
        let virtiofs = CertificateVolume::Virtiofs.into();
        let reply = guest.change(|spec| spec.certificate_volume = virtiofs).await?;
        assert_eq!(reply.restart_required_by, ["certificate_volume"]);
        // Until then the disk is kept.
        let rotated = guest.rotate_certificates().await?;
        guest.until_it_serves(authority, |served| served.serial_number == rotated[0].serial_number).await?;
        assert_eq!(guest.report().await?.boot_id, boot_id);

        guest.change(|spec| spec.lifecycle.get_or_insert_default().restart_on_change = true).await?;
        guest.until_restarted(1).await?;
        assert_ne!(guest.report().await?.boot_id, boot_id);
        assert_eq!(guest.serves(authority).await?.serial_number, rotated[0].serial_number);
        assert_eq!(disk_images(&host)?, Vec::<PathBuf>::new());
        Ok(())
    });
}

#[test]
fn a_private_key_is_in_memory_alone() {
    run(async |lab: &Lab| key_is_in_memory_alone(lab, CertificateVolume::Virtiofs).await);
}

#[test]
fn a_private_key_on_a_certificate_disk_is_in_memory_alone() {
    run(async |lab: &Lab| key_is_in_memory_alone(lab, CertificateVolume::Disk).await);
}

async fn key_is_in_memory_alone(lab: &Lab, volume: CertificateVolume) -> Result<()> {
    let host = lab.host("a").start().await?;
    let cluster = lab.cluster("blue").over(&[&host]).await?;
    let plan = cluster.guest("worker-0").certificate("local", HOUR);
    let guest = plan.with(|spec| spec.certificate_volume = volume.into()).on(&host).apply().await?;
    guest.until_booted().await?;
    guest.serves(lab.issuer().certificate()).await?;

    // Where it may be: in the runtime directory, which is kept in memory. This also shows that the search works.
    let run_directory = host.directory().join("run");
    let key_file = find(&run_directory, "tls.key")?.context("there is no tls.key to look for")?;
    let key = fs::read_to_string(&key_file)?;
    // The first line is the same for all keys of a kind.
    let secret = key.lines().nth(2).context("a key of one line")?;
    ensure!(secret.len() > 20, "the key's second line is too short to look for");
    let mut allowed = vec![key_file];
    allowed.extend(disk_images(&host)?);
    assert_eq!(allowed.len(), if volume == CertificateVolume::Disk { 2 } else { 1 });
    for file in &allowed {
        assert_eq!(nix::sys::statfs::statfs(file)?.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC);
    }

    for place in ["state", "agent.log", "agent.toml", "pki"] {
        assert_eq!(files_with(&host.directory().join(place), secret)?, Vec::<PathBuf>::new());
    }
    let mut found = files_with(&run_directory, secret)?;
    found.sort();
    allowed.sort();
    assert_eq!(found, allowed, "it is in other files as well");
    for process in host.guest_processes().await? {
        assert!(!process.command.contains(secret), "it is in the arguments of {}", process.pid);
    }
    assert!(!guest.log().await?.contains(secret));
    let answers =
        format!("{:?} {:?} {:?}", guest.get().await?, guest.certificates().await?, guest.rotate_certificates().await?);
    assert!(!answers.contains(secret) && !answers.contains("PRIVATE KEY"));
    Ok(())
}

/// The certificate disks of a host's guests.
fn disk_images(host: &Host) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for guest in fs::read_dir(host.directory().join("run/guests"))? {
        let directory = guest?.path().join("certificate-disks");
        if directory.exists() {
            for image in fs::read_dir(directory)? {
                images.push(image?.path());
            }
        }
    }
    Ok(images)
}

/// Waits until one image is left, and a QEMU has that one open and no other.
async fn until_one_image(host: &Host, qemu: i32) -> Result<()> {
    let mut attempts = tokio::time::interval(Duration::from_millis(100));
    let mut seen = (Vec::new(), BTreeSet::new());
    let settled = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            attempts.tick().await;
            seen = (disk_images(host)?, open_images(qemu)?);
            if seen.0.len() == 1 && seen.0.iter().collect::<BTreeSet<_>>() == seen.1.iter().collect() {
                return anyhow::Ok(());
            }
        }
    });
    match settled.await {
        Ok(outcome) => outcome,
        Err(_) => bail!("there are these images: {:?}, and QEMU has these open: {:?}", seen.0, seen.1),
    }
}

fn open_images(qemu: i32) -> Result<BTreeSet<PathBuf>> {
    let mut open = BTreeSet::new();
    for descriptor in fs::read_dir(format!("/proc/{qemu}/fd"))? {
        // One that was closed meanwhile is none.
        if let Ok(target) = fs::read_link(descriptor?.path())
            && target.to_string_lossy().contains("/certificate-disks/")
        {
            open.insert(target);
        }
    }
    Ok(open)
}

fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), name)? {
                return Ok(Some(found));
            }
        } else if entry.file_name() == name && entry.file_type()?.is_file() {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn files_with(path: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            found.extend(files_with(&entry?.path(), text)?);
        }
    } else if kind.is_file() && memchr(&fs::read(path)?, text.as_bytes()) {
        found.push(path.to_owned());
    }
    Ok(found)
}

fn memchr(content: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    let mut rest = content;
    while let Some(position) = rest.iter().position(|byte| byte == first) {
        rest = &rest[position..];
        if rest.starts_with(text) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
