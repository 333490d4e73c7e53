//! Certificates of running guests, from a real Vault and from a local CA.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use goliath_lab::{
    Lab,
    guest::{condition, is_true},
    run,
    vault::{PkiRole, Vault, VaultOptions},
};
use goliath_proto::agent::v1::ConditionStatus;

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
fn a_private_key_is_in_memory_alone() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let guest = cluster.guest("worker-0").certificate("local", HOUR).on(&host).apply().await?;
        guest.until_booted().await?;
        guest.serves(lab.issuer().certificate()).await?;

        // Where it may be: in the runtime directory, which is kept in memory. This also shows that the search works.
        let run_directory = host.directory().join("run");
        let key_file = find(&run_directory, "tls.key")?.context("there is no tls.key to look for")?;
        let key = fs::read_to_string(&key_file)?;
        // The first line is the same for all keys of a kind.
        let secret = key.lines().nth(2).context("a key of one line")?;
        ensure!(secret.len() > 20, "the key's second line is too short to look for");
        assert_eq!(nix::sys::statfs::statfs(&key_file)?.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC);

        for place in ["state", "agent.log", "agent.toml", "pki"] {
            assert_eq!(files_with(&host.directory().join(place), secret)?, Vec::<PathBuf>::new());
        }
        let logs = files_with(&run_directory, secret)?;
        assert_eq!(logs, [key_file], "it is in other files as well");
        for process in host.guest_processes().await? {
            assert!(!process.command.contains(secret), "it is in the arguments of {}", process.pid);
        }
        assert!(!guest.log().await?.contains(secret));
        let answers = format!(
            "{:?} {:?} {:?}",
            guest.get().await?,
            guest.certificates().await?,
            guest.rotate_certificates().await?
        );
        assert!(!answers.contains(secret) && !answers.contains("PRIVATE KEY"));
        Ok(())
    });
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
