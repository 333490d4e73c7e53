//! The operator's main job: clusters declared, and made true by real agents and real QEMU on three hosts.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use goliath_lab::{
    Guest, Host, Lab,
    operator::{Objects, Operator, is_true, text},
    program, run,
    vault::{Vault, VaultOptions},
};
use goliath_operator::pki::OPERATOR_POLICY;
use goliath_proto::agent::v1::{ListGuestsRequest, ListNetworksRequest};
use serde_json::Value;

/// Each host has the same authority in its files.
const ISSUERS: &str = "[issuers.local]\nkind = \"local\"\n";

/// A cluster of tiny guests.
fn cluster(name: &str, issuer: &str, masters: u32, workers: u32) -> String {
    let image = format!("oci-layout:{}", program::image_layout("tiny").unwrap().display());
    format!(
        "\
apiVersion: goliath.dev/v1alpha1
kind: Cluster
metadata:
  name: {name}
spec:
  kubernetes:
    version: 1.35.4
    serviceCidr: 10.96.0.0/16
    podCidr: 10.244.0.0/16
  network:
    cidr: 10.7.0.0/24
  pki:
    issuer: {issuer}
  masters:
    replicas: {masters}
    machine: {{vcpus: 1, memory: 128MiB}}
    image: {image}
    boot: {{kernel: {{}}}}
    seed: {{cloudInit: {{template: {{inline: \"#cloud-config\"}}}}}}
  workers:
    - name: pool
      replicas: {workers}
      machine: {{vcpus: 1, memory: 128MiB}}
      image: {image}
      boot: {{kernel: {{}}}}
      seed: {{cloudInit: {{template: {{inline: \"#cloud-config\"}}}}}}
"
    )
}

/// An operator and hosts that it knows and finds ready.
async fn fleet<const N: usize>(lab: &Lab, names: [&str; N]) -> Result<(Operator, Vec<Host>)> {
    let operator = Operator::start(lab, ISSUERS).await?;
    let mut hosts = Vec::new();
    for name in names {
        let host = lab.host(name).start().await?;
        let address = host.api_address().to_string();
        let add = ["host", "add", name, "--address", &address, "--zone", name];
        operator.goliath("administrator", &add)?.ends_with(0)?;
        hosts.push(host);
    }
    for name in names {
        operator.until_true("Host", name, "Ready").await?;
    }
    Ok((operator, hosts))
}

fn apply(operator: &Operator, manifest: &str) -> Result<()> {
    operator.write("cluster.yaml", manifest)?;
    operator.goliath("operator", &["apply", "-f", "cluster.yaml"])?.ends_with(0).map(drop)
}

/// The guests that the operator has, by uid, each with its host.
fn bindings(guests: &Objects) -> BTreeMap<String, String> {
    let binding = |guest: &Value| (text(guest, "/metadata/uid").into(), text(guest, "/spec/binding/host").into());
    guests.values().map(binding).collect()
}

/// The guests that run, by uid, each with its host: what agents say, and for each one QEMU on that host alone.
async fn running(hosts: &[Host]) -> Result<BTreeMap<String, String>> {
    let mut running = BTreeMap::new();
    for host in hosts {
        let listed = host.client().await?.guests().list_guests(ListGuestsRequest::default()).await?.into_inner();
        for guest in listed.guests {
            let uid = guest.spec.unwrap().uid;
            ensure!(host.qemus_of(&uid).await?.len() == 1, "{uid} has not one QEMU on {}", host.name());
            let elsewhere = running.insert(uid.clone(), host.name().to_owned());
            ensure!(elsewhere.is_none(), "{uid} is on {} and on {elsewhere:?}", host.name());
        }
    }
    Ok(running)
}

async fn is_as_declared(operator: &Operator, hosts: &[Host], names: &[&str]) -> Result<Objects> {
    let all_ready = |guests: &Objects| {
        guests.keys().map(String::as_str).eq(names.iter().copied())
            && guests.values().all(|guest| is_true(guest, "Ready"))
    };
    let guests = operator.until(&format!("{names:?} being ready"), "Guest", all_ready).await?;
    operator.until_true("Cluster", "acme", "Ready").await?;
    ensure!(running(hosts).await? == bindings(&guests), "{guests:?} is not what runs: {:?}", running(hosts).await?);
    Ok(guests)
}

async fn until_nothing_is_left(operator: &Operator, hosts: &[Host]) -> Result<()> {
    for kind in ["Cluster", "Guest", "Certificate", "CertificateAuthority"] {
        operator.until(&format!("the end of each {kind}"), kind, Objects::is_empty).await?;
    }
    for host in hosts {
        ensure!(host.guest_processes().await?.is_empty(), "a guest's process is left on {}", host.name());
        let listed = host.client().await?.networks().list_networks(ListNetworksRequest {}).await?.into_inner();
        ensure!(listed.networks.is_empty(), "a network is left on {}", host.name());
    }
    Ok(())
}

#[test]
fn a_cluster_comes_up_follows_its_manifest_and_goes_without_a_trace() {
    run(async |lab: &Lab| {
        let (operator, hosts) = fleet(lab, ["a", "b", "c"]).await?;
        apply(&operator, &cluster("acme", "local", 3, 2))?;
        let names = ["acme.master-0", "acme.master-1", "acme.master-2", "acme.pool-0", "acme.pool-1"];
        let guests = is_as_declared(&operator, &hosts, &names).await?;
        let masters: BTreeSet<&str> =
            names[..3].iter().map(|name| text(&guests[*name], "/spec/binding/host")).collect();
        ensure!(masters.len() == 3, "masters share a host: {masters:?}");
        // Masters were there before the first worker was made.
        let made = |name: &str| text(&guests[name], "/metadata/creationTimestamp").to_owned();
        ensure!(made("acme.master-2") <= made("acme.pool-0"));

        let explained = operator.goliath("viewer", &["explain", "acme.pool-0"])?.ends_with(0)?;
        for host in ["a", "b", "c"] {
            ensure!(explained.out.contains(host), "{}", explained.out);
        }
        let tree = operator.goliath("viewer", &["tree", "acme"])?.ends_with(0)?;
        for name in names {
            ensure!(tree.out.contains(name), "{}", tree.out);
        }

        operator.goliath("operator", &["scale", "acme/pool=1"])?.ends_with(0)?;
        let fewer = is_as_declared(&operator, &hosts, &names[..4]).await?;
        for name in &names[..4] {
            ensure!(text(&fewer[*name], "/metadata/uid") == text(&guests[*name], "/metadata/uid"), "{name} is another");
        }
        operator.goliath("operator", &["delete", "cluster", "acme"])?.ends_with(0)?;
        until_nothing_is_left(&operator, &hosts).await
    });
}

#[test]
fn fifty_deaths_of_the_operator_an_agents_and_a_cut_cable_change_nothing_of_the_end() {
    run(async |lab: &Lab| {
        let (operator, hosts) = fleet(lab, ["a", "b", "c"]).await?;
        apply(&operator, &cluster("acme", "local", 1, 2))?;
        // From the first placement to the last guest: instants that nobody chose.
        for death in 0..50_u64 {
            operator.kill().await?;
            if death == 20 {
                hosts[0].kill_agent().await?;
            }
            if death == 25 {
                hosts[0].start_agent().await?;
            }
            if death == 30 {
                lab.underlay().switch().run("ip link set to-b down")?;
            }
            if death == 40 {
                lab.underlay().switch().run("ip link set to-b up")?;
            }
            operator.start_again().await?;
            // What is under way when it dies differs each time.
            tokio::time::sleep(Duration::from_millis(death * 37 % 400)).await;
        }
        let names = ["acme.master-0", "acme.pool-0", "acme.pool-1"];
        is_as_declared(&operator, &hosts, &names).await?;
        operator.goliath("operator", &["delete", "cluster", "acme"])?.ends_with(0)?;
        until_nothing_is_left(&operator, &hosts).await
    });
}

/// A guest that the operator placed, to be looked into on its host.
async fn guest(lab: &Lab, operator: &Operator, hosts: &[Host], cluster: &str, name: &str) -> Result<Guest> {
    let object = operator.until_true("Guest", &format!("{cluster}.{name}"), "Ready").await?;
    let host = hosts.iter().find(|host| host.name() == text(&object, "/spec/binding/host")).unwrap();
    lab.cluster(cluster).on(&hosts.iter().collect::<Vec<_>>()).guest_on(host, name).await
}

#[test]
fn two_clusters_of_one_set_of_names_and_addresses_are_apart_in_network_and_certificates() {
    run(async |lab: &Lab| {
        let vault = Vault::start(VaultOptions::default()).await?;
        let operator = Operator::keeping(lab, &vault, OPERATOR_POLICY).await?;
        let mut hosts = Vec::new();
        for name in ["a", "b"] {
            let plan = lab.host(name);
            let given = operator.add_host(name, plan.api_address()).await?;
            let [login] = given.as_slice() else { anyhow::bail!("host {name} got {} logins", given.len()) };
            hosts.push(plan.logging_in(&vault, &login.role_id, &login.wrapped_secret_id)?.start().await?);
        }
        apply(&operator, &format!("{}---\n{}", cluster("blue", "vault", 1, 1), cluster("green", "vault", 1, 2)))?;
        for name in ["blue", "green"] {
            operator.until_true("Cluster", name, "Ready").await?;
        }
        let guest = |cluster: &'static str, name: &'static str| guest(lab, &operator, &hosts, cluster, name);
        let (blue, green) = (guest("blue", "master-0").await?, guest("green", "master-0").await?);
        ensure!(blue.address() == green.address(), "{} is not {}", blue.address(), green.address());
        ensure!(blue.report().await?.boot_id != green.report().await?.boot_id, "they share a guest");
        let (near, far) = (guest("green", "pool-0").await?, guest("green", "pool-1").await?);
        for address in [near.address(), far.address()] {
            ensure!(green.pings(address).await?, "{address} does not answer its own cluster");
        }
        // One address more than blue has.
        ensure!(!blue.pings(far.address()).await?, "a guest of green answers one of blue");

        let (own, other) = (vault.root_certificate("blue").await?, vault.root_certificate("green").await?);
        blue.serves(&own).await?;
        ensure!(blue.serves(&other).await.is_err(), "the CA of green vouches for a guest of blue");

        for name in ["blue", "green"] {
            operator.goliath("operator", &["delete", "cluster", name])?.ends_with(0)?;
        }
        until_nothing_is_left(&operator, &hosts).await?;
        ensure!(vault.clusters().await?.is_empty(), "Vault has a PKI of {:?}", vault.clusters().await?);
        Ok(())
    });
}
