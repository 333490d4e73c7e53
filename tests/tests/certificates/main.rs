//! A guest's certificates, issued by a real Vault: what is laid down, what is refused, and what a Vault that is sealed,
//! slow, away or stolen from does to those who run and those who wait.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod lab;
mod virtiofs;

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::Result;
use goliath_lab::vault::{PkiRole, TokenLife, Vault, VaultOptions};
use lab::{Host, request};

const SOON: Duration = Duration::from_secs(20);

fn seconds(ttl: u64, max_ttl: u64) -> TokenLife {
    TokenLife { ttl: Duration::from_secs(ttl), max_ttl: Duration::from_secs(max_ttl) }
}

#[tokio::test]
async fn a_guest_gets_what_it_asked_for_by_a_wrapped_secret_id() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let keeper = host.keeper("acme", vec![request("node")]);
    host.all_present(&keeper).await;

    let info = &keeper.list()[0];
    assert!(host.vault.serial_numbers("acme").await?.contains(&info.serial_number), "{info:?}");
    assert_eq!(info.common_name, "system:node:node");
    assert_eq!(info.dns_names, request("node").dns_names);
    assert_eq!(info.ip_addresses, request("node").ip_addresses);
    let root = fs::read_to_string(host.volume().join("node/ca.crt"))?;
    assert_eq!(root.trim(), host.vault.root_certificate("acme").await?.trim());
    // Vault signed a request: it made no key, and was sent none.
    assert_eq!(host.vault.count_requests("pki-acme/sign/node")?, 1);
    assert_eq!(host.vault.count_requests("pki-acme/issue/node")?, 0);

    assert!(!host.wrapping_file().exists(), "the spent wrapping token is removed");
    let kept = host.runtime().join("vault/vault/secret-id");
    assert_eq!(fs::metadata(&kept)?.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(kept.parent().unwrap())?.permissions().mode() & 0o777, 0o700);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_restarts_logs_in_again_without_a_new_secret_id() -> Result<()> {
    let mut host = Host::with_vault(TokenLife::default()).await?;
    host.all_present(&host.keeper("acme", vec![request("node")])).await;
    host.restart_agent()?;
    let keeper = host.keeper("acme", vec![request("node"), request("etcd")]);
    host.all_present(&keeper).await;
    assert_eq!(host.vault.count_requests("pki-acme/sign/node")?, 1, "what is good is not issued again");
    assert_eq!(host.vault.count_requests("auth/approle/login")?, 2);
    assert_eq!(host.vault.count_requests("sys/wrapping/unwrap")?, 1);
    Ok(())
}

#[tokio::test]
async fn plain_http_on_loopback_works_too() -> Result<()> {
    let vault = Vault::start(VaultOptions { tls: false, ..VaultOptions::default() }).await?;
    let host = Host::new(vault, TokenLife::default()).await?;
    host.all_present(&host.keeper("acme", vec![request("node")])).await;
    Ok(())
}

#[tokio::test]
async fn a_host_cannot_have_certificates_of_a_cluster_that_is_not_its_own() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    host.vault.enable_pki("globex").await?;
    host.vault.write_role("globex", &PkiRole::new("node")).await?;
    let keeper = host.keeper("globex", vec![request("node")]);
    let message = host.condition(&keeper, "VaultForbidden").await;
    assert_eq!(
        message,
        "certificate `node` is missing: Vault does not allow this host to use pki-globex/sign/node: its policy lacks \
         `update` there"
    );
    assert!(!host.volume().join("node").exists());
    Ok(())
}

#[tokio::test]
async fn what_is_not_exactly_as_asked_is_thrown_away() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let mut admin = request("admin");
    admin.role = "node".to_owned();
    admin.organizations = ["system:masters".to_owned()].into();
    let keeper = host.keeper("acme", vec![admin]);
    let message = host.condition(&keeper, "CertificateNotAsAsked").await;
    assert!(message.ends_with("thrown away: organisations [system:nodes] instead of [system:masters]"), "{message}");
    assert!(!host.volume().join("admin").exists());
    Ok(())
}

#[tokio::test]
async fn a_role_that_is_not_there_is_told_by_name() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let mut other = request("node");
    other.role = "nobody".to_owned();
    let message = host.condition(&host.keeper("acme", vec![other]), "IssuerRefused").await;
    assert!(message.contains("pki-acme/sign/nobody refuses this certificate: unknown role: nobody"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_sealed_vault_keeps_a_new_guest_waiting_and_a_running_one_as_it_is() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let running = host.keeper("acme", vec![request("node")]);
    host.all_present(&running).await;
    let serial = running.list()[0].serial_number.clone();

    host.vault.seal().await?;
    assert_eq!(host.health().await.reason, "VaultSealed");
    let waiting = host.keeper_at("other", "acme", vec![request("node")]);
    let message = host.condition(&waiting, "VaultSealed").await;
    assert!(message.ends_with("is sealed: unseal it"), "{message}");
    assert!(running.rotate(&[], SOON).await.unwrap_err().to_string().contains("is sealed"));
    assert_eq!(running.list()[0].serial_number, serial);
    assert!(running.state().borrow().all_present());

    host.vault.unseal().await?;
    host.all_present(&waiting).await;
    assert!(host.health().await.ready);
    Ok(())
}

#[tokio::test]
async fn a_slow_vault_and_one_that_is_away_are_told_apart_and_waited_for() -> Result<()> {
    let mut host = Host::with_vault(TokenLife::default()).await?;
    let running = host.keeper("acme", vec![request("node")]);
    host.all_present(&running).await;

    host.vault.pause()?;
    let waiting = host.keeper_at("other", "acme", vec![request("node")]);
    let message = host.condition(&waiting, "VaultSlow").await;
    assert!(message.ends_with("did not answer within 1 s"), "{message}");
    assert_eq!(host.health().await.reason, "VaultSlow");

    host.vault.stop().await?;
    let state = host.seen(&waiting, "the refusal", |state| state.condition().2.contains("Connection refused")).await;
    assert_eq!(state.condition().1, "VaultUnreachable");
    assert!(running.state().borrow().all_present());

    host.vault.restart().await?;
    host.all_present(&waiting).await;
    Ok(())
}

#[tokio::test]
async fn a_vault_with_a_certificate_of_a_stranger_is_not_trusted() -> Result<()> {
    let mut host = Host::with_vault(TokenLife::default()).await?;
    let stranger = Vault::start(VaultOptions::default()).await?;
    host.trust(&stranger)?;
    let message = host.condition(&host.keeper("acme", vec![request("node")]), "VaultUnreachable").await;
    assert!(message.contains("invalid peer certificate"), "{message}");
    assert!(host.wrapping_file().exists(), "no stranger was shown the wrapping token");
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_renewed_while_its_guest_runs() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let mut short = request("node");
    short.ttl = Duration::from_secs(6);
    let keeper = host.keeper("acme", vec![short]);
    host.all_present(&keeper).await;
    let first = fs::read_to_string(host.volume().join("node/tls.crt"))?;
    let start = std::time::Instant::now();
    host.seen(&keeper, "the second issuance", |state| state.infos().first().is_some_and(|info| info.generation == 2))
        .await;
    let waited = start.elapsed().as_secs_f64();
    assert!((2.0..=5.5).contains(&waited), "renewed after {waited} s of 6");
    assert_ne!(fs::read_to_string(host.volume().join("node/tls.crt"))?, first);
    assert!(keeper.state().borrow().all_present());
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_fails_warns_in_time_and_takes_nothing_away() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let mut short = request("node");
    short.ttl = Duration::from_secs(10);
    let keeper = host.keeper("acme", vec![short]);
    host.all_present(&keeper).await;
    host.vault.seal().await?;
    for reason in ["RenewalFails", "RenewalLate", "ExpiresSoon"] {
        let message = host.condition(&keeper, reason).await;
        assert!(message.contains("is sealed"), "{message}");
        assert!(keeper.state().borrow().all_present(), "{reason}");
    }
    host.condition(&keeper, "Expired").await;
    assert!(host.volume().join("node/tls.key").exists());
    host.vault.unseal().await?;
    host.all_present(&keeper).await;
    Ok(())
}

#[tokio::test]
async fn many_guests_make_one_login() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let keepers: Vec<_> = (0..20)
        .map(|n| host.keeper_at(&format!("guest-{n}"), "acme", vec![request("node"), request("etcd")]))
        .collect();
    for keeper in &keepers {
        host.all_present(keeper).await;
    }
    assert_eq!(host.vault.count_requests("auth/approle/login")?, 1);
    assert_eq!(host.vault.count_requests("pki-acme/sign/node")?, 20);
    Ok(())
}

#[tokio::test]
async fn a_token_is_renewed_before_its_lease_is_over_and_replaced_at_the_end_of_its_life() -> Result<()> {
    let host = Host::with_vault(seconds(3, 8)).await?;
    host.all_present(&host.keeper("acme", vec![request("node")])).await;
    host.until("two renewals and a second login", || {
        Ok(host.vault.count_requests("auth/token/renew-self")? >= 2
            && host.vault.count_requests("auth/approle/login")? >= 2)
    })
    .await;
    // Nobody ever met a token that was over.
    let keeper = host.keeper_at("other", "acme", vec![request("node")]);
    host.all_present(&keeper).await;
    Ok(())
}

#[tokio::test]
async fn a_revoked_token_is_replaced_by_a_new_login() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let keeper = host.keeper("acme", vec![request("node")]);
    host.all_present(&keeper).await;
    host.vault.revoke_logins().await?;
    let rotated = keeper.rotate(&[], SOON).await?;
    assert_eq!(rotated[0].generation, 2);
    assert_eq!(host.vault.count_requests("auth/approle/login")?, 2);
    Ok(())
}

#[tokio::test]
async fn a_secret_id_that_was_destroyed_is_told_and_a_new_one_is_taken_up() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let keeper = host.keeper("acme", vec![request("node")]);
    host.all_present(&keeper).await;
    host.vault.destroy_secret_ids(&host.role).await?;
    host.vault.revoke_logins().await?;
    let refusal = keeper.rotate(&[], SOON).await.unwrap_err().to_string();
    assert!(refusal.contains("deliver a newly wrapped secret id"), "{refusal}");
    host.deliver(&host.vault.wrapped_secret_id(&host.role).await?)?;
    host.until("the new login", || Ok(!host.wrapping_file().exists())).await;
    keeper.rotate(&[], SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrapping_token_that_somebody_used_before_is_a_security_event() -> Result<()> {
    let host = Host::without_secret_id(TokenLife::default()).await?;
    let token = host.vault.wrapped_secret_id(&host.role).await?;
    host.vault.unwrap(&token).await?;
    host.deliver(&token)?;
    let keeper = host.keeper("acme", vec![request("node")]);
    let message = host.condition(&keeper, "WrappingTokenSpent").await;
    assert!(message.contains("SECURITY") && message.contains("was already used"), "{message}");
    assert!(!message.contains(&token));
    assert!(lab::log().contains("SECURITY: the wrapping token in"));

    host.deliver(&host.vault.wrapped_secret_id(&host.role).await?)?;
    host.all_present(&keeper).await;
    Ok(())
}

#[tokio::test]
async fn a_secret_id_that_comes_late_is_taken_up() -> Result<()> {
    let host = Host::without_secret_id(TokenLife::default()).await?;
    let keeper = host.keeper("acme", vec![request("node")]);
    let message = host.condition(&keeper, "VaultLoginFailed").await;
    assert!(message.contains("put a wrapping token for one into"), "{message}");
    host.deliver(&host.vault.wrapped_secret_id(&host.role).await?)?;
    host.until("the spent file's removal", || Ok(!host.wrapping_file().exists())).await;
    host.all_present(&keeper).await;
    Ok(())
}

#[tokio::test]
async fn a_wrapping_token_that_wraps_something_else_is_not_unwrapped() -> Result<()> {
    let host = Host::without_secret_id(TokenLife::default()).await?;
    let token = host.vault.wrapped(reqwest::Method::POST, "auth/token/create").await?;
    host.deliver(&token)?;
    let message = host.condition(&host.keeper("acme", vec![request("node")]), "WrappingTokenForged").await;
    assert!(message.contains("was made by auth/token/create"), "{message}");
    host.vault.unwrap(&token).await?;
    Ok(())
}

#[tokio::test]
async fn a_spent_wrapping_token_beside_a_good_login_stops_nothing() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let keeper = host.keeper("acme", vec![request("node")]);
    host.all_present(&keeper).await;
    let token = host.vault.wrapped_secret_id(&host.role).await?;
    host.vault.unwrap(&token).await?;
    host.deliver(&token)?;
    host.vault.revoke_logins().await?;
    keeper.rotate(&[], SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_token_in_a_file_is_read_again_when_it_changes() -> Result<()> {
    let mut host = Host::without_secret_id(TokenLife::default()).await?;
    let first = host.vault.token("host-1", seconds(60, 600)).await?;
    host.use_token_file(&first)?;
    let keeper = host.keeper("acme", vec![request("node")]);
    host.all_present(&keeper).await;
    host.vault.revoke_token(&first).await?;
    let refusal = keeper.rotate(&[], SOON).await.unwrap_err().to_string();
    assert!(refusal.contains("put a good one there"), "{refusal}");
    let second = host.vault.token("host-1", seconds(60, 600)).await?;
    fs::write(host.token_file(), &second)?;
    keeper.rotate(&[], SOON).await?;
    Ok(())
}

#[tokio::test]
async fn secrets_are_in_the_volume_and_in_the_runtime_directory_and_nowhere_else() -> Result<()> {
    let host = Host::with_vault(TokenLife::default()).await?;
    let keeper = host.keeper("acme", vec![request("node"), request("etcd")]);
    host.all_present(&keeper).await;
    let mut secrets = Vec::new();
    for name in ["node", "etcd"] {
        let key = fs::read_to_string(host.volume().join(name).join("tls.key"))?;
        // Any line of the key's body would do for a thief.
        secrets.extend(key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned));
    }
    keeper.rotate(&[], SOON).await?;
    let kept = fs::read_to_string(host.runtime().join("vault/vault/secret-id"))?;
    secrets.push(kept.lines().last().unwrap().to_owned());
    assert!(secrets.iter().all(|secret| secret.len() > 16), "{}", secrets.len());

    let replies = format!("{:?} {:?} {:?}", keeper.list(), keeper.state().borrow(), host.health().await);
    let mut places = vec![("replies".to_owned(), replies.into_bytes()), ("log".to_owned(), lab::log().into_bytes())];
    for file in ["cmdline", "environ"] {
        places.push((format!("/proc/self/{file}"), fs::read(format!("/proc/self/{file}"))?));
    }
    places.extend(lab::files_below(host.vault.directory())?);
    places.extend(lab::files_below(host.disk())?);
    assert!(places.len() > 20, "{}", places.len());
    for (place, content) in &places {
        for secret in &secrets {
            assert!(!lab::contains(content, secret.as_bytes()), "{place} holds a secret");
        }
    }
    let log = lab::log();
    assert!(log.contains("certificate issued") && log.contains("TRACE"), "the log was not captured");
    assert!(!log.contains("hvs."), "a token of Vault is in the log");
    Ok(())
}
