//! Who may call an agent over the network, and who may not.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
};

use anyhow::{Context as _, Result};
use goliath_lab::{
    Lab,
    agent::Client,
    namespace,
    pki::{Authority, Identity, Purpose},
    run,
};
use goliath_proto::agent::v1::{
    ApplyGuestRequest, ApplyNetworkRequest, GetHostRequest, NetworkSpec, WatchGuestsRequest,
};

async fn call(lab: &Lab, host: &goliath_lab::Host, identity: Option<&Identity>) -> Result<String> {
    let from = lab.underlay().namespace();
    let client = Client::over_tls(from, host.api_address(), lab.authority().certificate(), identity).await?;
    let reply = client.host().get_host(GetHostRequest {}).await?.into_inner();
    Ok(reply.host.unwrap_or_default().name)
}

#[test]
fn only_a_client_with_a_certificate_of_the_hosts_authority_is_answered() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        assert_eq!(call(lab, &host, Some(lab.operator())).await?, "a");

        let stranger = Authority::new("lab hosts")?.issue("operator", Purpose::Operator)?;
        let expired = lab.authority().issue("operator", Purpose::ExpiredOperator)?;
        for (who, identity) in [
            ("nobody", None),
            ("a client of another authority", Some(&stranger)),
            ("a client whose certificate has ended", Some(&expired)),
        ] {
            let answer = call(lab, &host, identity).await;
            assert!(answer.is_err(), "{who} was answered: {answer:?}");
        }
        assert_eq!(call(lab, &host, Some(lab.operator())).await?, "a");
        Ok(())
    });
}

#[test]
fn a_new_certificate_of_the_host_is_served_without_dropping_connections() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let open = host.operator().await?;
        open.host().get_host(GetHostRequest {}).await?;
        let mut watch = open.guests().watch_guests(WatchGuestsRequest::default()).await?.into_inner();

        // The new one is of another authority: a client that trusts this one alone shows that it is served.
        let other = Authority::new("other hosts")?;
        let pki = host.directory().join("pki");
        let identity = other.issue("a", Purpose::Host(host.address().into()))?;
        identity.write(&pki.join("host.crt"), &pki.join("host.key"))?;
        let from = lab.underlay().namespace();
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let attempt = Client::over_tls(from, host.api_address(), other.certificate(), Some(lab.operator())).await;
            match attempt {
                Ok(client) => {
                    client.host().get_host(GetHostRequest {}).await?;
                    break;
                }
                Err(error) => anyhow::ensure!(tokio::time::Instant::now() < deadline, "it is not served: {error:#}"),
            }
        }
        open.host().get_host(GetHostRequest {}).await?;

        // What was asked for before still comes.
        let cluster = lab.cluster("blue").network([10, 8, 0]).over(&[]).await?;
        let spec = cluster.guest("worker-0").on(&host).spec().await?;
        let uid = spec.uid.clone();
        let request = ApplyGuestRequest { spec: Some(spec), dry_run: false };
        host.client().await?.guests().apply_guest(request).await?;
        let told = tokio::time::timeout(std::time::Duration::from_secs(30), async {
            while let Some(change) = watch.message().await? {
                if change.guest.and_then(|guest| guest.spec).is_some_and(|spec| spec.uid == uid) {
                    return Ok(());
                }
            }
            anyhow::bail!("the watch ended")
        });
        told.await.context("the watch says nothing")?
    });
}

#[test]
fn an_agent_is_healthy_and_tells_of_its_host() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let client = host.operator().await?;
        let mut health = tonic_health::pb::health_client::HealthClient::new(client.channel());
        let asked = tonic_health::pb::HealthCheckRequest::default();
        let status = health.check(asked).await?.into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);

        let told = client.host().get_host(GetHostRequest {}).await?.into_inner().host.unwrap();
        assert_eq!(told.underlay_address, host.address().to_string());
        assert_eq!(told.boot_id, std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim());
        assert!(told.capacity.unwrap().memory_bytes > 1 << 30);
        assert!(told.versions.unwrap().qemu.starts_with(|first: char| first.is_ascii_digit()));
        assert_eq!(told.networks, ["192.0.2.0/24"]);
        assert!(told.guest_overhead_bytes > 0 && told.tcg_allowed && told.foreign_vnis.is_empty());

        // Somebody else's VXLAN on the port that the agent uses; it is seen a moment later.
        let local = host.address();
        let line = format!("ip link add tunnel type vxlan id 4711 dstport 4789 local {local} nolearning");
        let inside = format!("--net={}", host.namespace().display());
        namespace::run(Command::new("nsenter").arg(inside).args(line.split_whitespace()))?;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let told = client.host().get_host(GetHostRequest {}).await?.into_inner().host.unwrap();
            if told.foreign_vnis == [4711] {
                return Ok(());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "it tells of {:?}", told.foreign_vnis);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_cordoned_host_takes_no_new_guest_and_keeps_those_it_has() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let guest = cluster.guest("worker-0").on(&host).apply().await?;
        let request = goliath_proto::agent::v1::CordonHostRequest { cordoned: true };
        let reply = host.operator().await?.host().cordon_host(request).await?.into_inner();
        assert!(reply.host.unwrap().cordoned);
        let refusal = cluster.guest("worker-1").on(&host).try_apply().await?.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::FailedPrecondition, "{refusal:?}");
        guest.until_booted().await?;

        // It is remembered.
        host.kill_agent().await?;
        host.start_agent().await?;
        let told = host.client().await?.host().get_host(GetHostRequest {}).await?.into_inner().host.unwrap();
        assert!(told.cordoned);
        Ok(())
    });
}

#[test]
fn a_request_over_the_socket_of_the_machine_needs_no_certificate() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let client = host.client().await?;
        let spec = NetworkSpec { cluster: "blue".to_owned(), ..Default::default() };
        let request = ApplyNetworkRequest { spec: Some(spec), ..Default::default() };
        let refusal = client.networks().apply_network(request).await.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{refusal:?}");
        Ok(())
    });
}

/// A group that every Debian has and nobody is in.
const GROUP: &str = "games";

/// `goliath get hosts` as a user of no rights, with this primary group and these others.
fn get_hosts(host: &goliath_lab::Host, program: &std::path::Path, group: &str, others: &str) -> Result<Output> {
    let mut command = Command::new(goliath_lab::program::installed("setpriv")?);
    command.args(["--reuid", "nobody", "--regid", group]);
    match others {
        "" => command.arg("--clear-groups"),
        others => command.args(["--groups", others]),
    };
    command.arg(program).args(["get", "hosts"]).env_clear();
    command.env("GOLIATH_AGENT", format!("unix:{}", host.socket().display()));
    Ok(command.current_dir("/").output()?)
}

#[test]
fn the_socket_of_the_machine_is_for_root_and_its_group_alone() {
    run(async |lab: &Lab| {
        let host = lab.host("a").socket_group(GROUP).start().await?;
        // Where it was built only root may have access.
        let program = lab.directory().join("goliath");
        std::fs::copy(goliath_lab::program::command_line()?, &program)?;
        let is_served = |group: &str, others: &str| -> Result<bool> {
            let output = get_hosts(&host, &program, group, others)?;
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.success(), out.lines().any(|line| line.starts_with("a ")), "{out}{err}");
            assert!(output.status.success() || err.contains("agent.sock"), "{err}");
            Ok(output.status.success())
        };
        assert!(is_served(GROUP, "")?, "the group is the caller's own");
        assert!(is_served("nogroup", &format!("{GROUP},mail"))?, "the group is one of the caller's others");
        assert!(!is_served("nogroup", "")?, "a stranger was served");

        // Whoever opens the socket to all by hand opens it to nobody.
        std::fs::set_permissions(host.socket(), std::fs::Permissions::from_mode(0o666))?;
        assert!(!is_served("nogroup", "mail")?, "a stranger was served");
        assert!(is_served("nogroup", GROUP)?);
        host.client().await?.host().get_host(GetHostRequest {}).await?;
        Ok(())
    });
}
