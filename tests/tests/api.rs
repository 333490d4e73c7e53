//! Who may call an agent over the network, and who may not.

#![allow(clippy::unwrap_used, missing_docs)]

use anyhow::Result;
use goliath_lab::{
    Lab,
    agent::Client,
    pki::{Authority, Identity, Purpose},
    run,
};
use goliath_proto::agent::v1::{ApplyNetworkRequest, GetHostRequest, NetworkSpec};

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
        Ok(())
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
        Ok(())
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
