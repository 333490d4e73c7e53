//! The operator as people meet it: over mutual TLS, with the real command line.

#![allow(clippy::unwrap_used, missing_docs)]

use anyhow::{Context as _, Result, ensure};
use goliath_lab::{
    Lab,
    operator::Operator,
    pki::{Authority, Purpose},
    program, run,
};

/// Hosts hold their own authority: nothing has to be made for a cluster's certificates.
const ISSUERS: &str = "[issuers.vault]\nkind = \"local\"\n";

const CLUSTER: &str = "\
apiVersion: goliath.dev/v1alpha1
kind: Cluster
metadata:
  name: acme
  labels: {team: a}
spec:
  paused: true
  kubernetes:
    version: 1.35.4
    serviceCidr: 10.96.0.0/16
    podCidr: 10.244.0.0/16
  network:
    cidr: 10.7.0.0/24
  masters:
    replicas: 1
    machine: {vcpus: 1, memory: 512MiB}
    image: registry.example/node:1
    disks: [{root: {}}, {data: {serial: etcd, size: 8GiB}}]
  workers:
    - name: small
      replicas: 2
      machine: {vcpus: 1, memory: 512MiB}
      image: registry.example/node:1
      disks: [{root: {}}]
";

const HOST: &str = "\
apiVersion: goliath.dev/v1alpha1
kind: Host
metadata:
  name: host-a
  labels: {team: a}
spec:
  address: 192.0.2.1:7443
";

#[test]
fn what_somebody_may_stands_in_his_certificate() {
    run(async |lab: &Lab| {
        let operator = Operator::start(lab, ISSUERS).await?;
        operator.write("cluster.yaml", CLUSTER)?;
        let refused = operator.goliath("viewer", &["apply", "-f", "cluster.yaml"])?.ends_with(7)?;
        ensure!(refused.err.contains("viewer"), "{}", refused.err);
        operator.goliath("operator", &["apply", "-f", "cluster.yaml"])?.ends_with(0)?;
        let seen = operator.goliath("viewer", &["get", "clusters"])?.ends_with(0)?;
        ensure!(seen.out.contains("acme"), "{}", seen.out);
        let add = ["host", "add", "host-b", "--address", "192.0.2.2:7443"];
        operator.goliath("operator", &add)?.ends_with(7)?;
        operator.goliath("administrator", &add)?.ends_with(0)?;

        // Who has no role, no certificate of ours, or one that has ended.
        operator.person("guest", lab.authority(), Purpose::Member("acme"))?;
        let refused = operator.goliath("guest", &["get", "clusters"])?.ends_with(7)?;
        ensure!(refused.err.contains("none of them has a role"), "{}", refused.err);
        let strangers = Authority::new("lab hosts")?;
        operator.person("stranger", &strangers, Purpose::Member("goliath:administrators"))?;
        operator.goliath("stranger", &["get", "clusters"])?.ends_with(7)?;
        operator.person("expired", lab.authority(), Purpose::ExpiredOperator)?;
        operator.goliath("expired", &["get", "clusters"])?.ends_with(7)?;
        Ok(())
    });
}

/// Waits until controllers have let go of what was deleted.
fn until_gone(operator: &Operator, kind: &str, name: &str) -> Result<()> {
    let again = operator.goliath("operator", &["delete", kind, name, "--wait", "--timeout", "1m"])?;
    // It may be gone already.
    ensure!(matches!(again.code, Some(0 | 3)), "{}{}", again.out, again.err);
    operator.goliath("viewer", &["get", kind, name])?.ends_with(3).map(drop)
}

/// A manifest with one line instead of another.
fn with(manifest: &str, line: &str, instead: &str) -> String {
    assert!(manifest.contains(line), "{line}");
    manifest.replacen(line, instead, 1)
}

#[test]
fn a_bad_manifest_is_refused_where_it_stands_and_changes_nothing() {
    run(async |lab: &Lab| {
        let operator = Operator::start(lab, ISSUERS).await?;
        let other = with(CLUSTER, "  name: acme", "  name: other");
        let with_vni = |manifest: &str| with(manifest, "    cidr: 10.7.0.0/24", "    cidr: 10.7.0.0/24\n    vni: 5000");
        for (what, manifest, place) in [
            (
                "unknown field",
                with(CLUSTER, "    replicas: 1", "    replcas: 1"),
                "bad.yaml:15:5: spec.masters.replcas",
            ),
            (
                "wrong type",
                with(CLUSTER, "      replicas: 2", "      replicas: two"),
                "bad.yaml:21:17: spec.workers[0].replicas",
            ),
            ("masters", with(CLUSTER, "    replicas: 1", "    replicas: 2"), "bad.yaml:15:15: spec.masters.replicas"),
            ("name", with(CLUSTER, "  name: acme", "  name: Acme_1"), "bad.yaml:4:9: metadata.name"),
            (
                "overlapping networks",
                with(CLUSTER, "podCidr: 10.244.0.0/16", "podCidr: 10.7.0.0/16"),
                "bad.yaml:11:14: spec.kubernetes.podCidr",
            ),
            (
                "two pools of one name",
                format!(
                    "{CLUSTER}    - {{name: small, replicas: 1, machine: {{vcpus: 1, memory: 1GiB}}, image: registry.example/a, disks: [{{root: {{}}}}]}}\n"
                ),
                "bad.yaml:25:14: spec.workers[1].name",
            ),
            ("one cluster twice", format!("{CLUSTER}---\n{CLUSTER}"), "bad.yaml:29:9: metadata.name"),
            (
                "one VNI twice",
                format!("{}---\n{}", with_vni(CLUSTER), with_vni(&other)),
                "bad.yaml:14:10: spec.network.vni",
            ),
            ("a host twice", format!("{HOST}---\n{}", with(HOST, "host-a", "host-b")), "bad.yaml:15:12: spec.address"),
            (
                "a template that fails",
                with(
                    CLUSTER,
                    "    image: registry.example/node:1\n    disks",
                    "    image: registry.example/node:1\n    seed: {cloudInit: {template: {inline: \"{{ node.nmae }}\"}}}\n    disks",
                ),
                "bad.yaml:18:24: spec.masters.seed.cloudInit.template",
            ),
        ] {
            operator.write("bad.yaml", &manifest)?;
            let refused = operator.goliath("operator", &["apply", "-f", "bad.yaml"])?.ends_with(4).context(what)?;
            ensure!(refused.err.contains(place), "{what}: {place} is not told:\n{}", refused.err);
        }
        operator.goliath("operator", &["get", "cluster", "acme"])?.ends_with(3)?;

        // Added twice: by its name, by its address.
        let add = |name: &'static str| ["host", "add", name, "--address", "192.0.2.1:7443"];
        operator.goliath("administrator", &add("host-a"))?.ends_with(0)?;
        let refused = operator.goliath("administrator", &add("host-a"))?.ends_with(4)?;
        ensure!(refused.err.contains("already"), "{}", refused.err);
        let refused = operator.goliath("administrator", &add("host-b"))?.ends_with(4)?;
        ensure!(refused.err.contains("host-a"), "{}", refused.err);
        Ok(())
    });
}

#[test]
fn a_directory_of_manifests_is_made_true_and_kept_over_a_crash() {
    run(async |lab: &Lab| {
        let operator = Operator::start(lab, ISSUERS).await?;
        operator.write("fleet/cluster.yaml", CLUSTER)?;
        operator.write("fleet/host.yaml", HOST)?;
        let apply = |more: &[&str]| {
            let arguments: Vec<&str> = ["apply", "-f", "fleet"].iter().chain(more).copied().collect();
            operator.goliath("operator", &arguments)
        };
        let told = apply(&[])?.ends_with(0)?;
        ensure!(told.out == "cluster acme created\nhost host-a created\n", "{}", told.out);
        let before = operator.goliath("viewer", &["get", "cluster", "acme", "-o", "yaml"])?.ends_with(0)?;

        operator.kill().await?;
        operator.start_again().await?;
        let again = apply(&[])?.ends_with(0)?;
        ensure!(again.out == "cluster acme unchanged\nhost host-a unchanged\n", "{}", again.out);
        let after = operator.goliath("viewer", &["get", "cluster", "acme", "-o", "yaml"])?.ends_with(0)?;
        let spec =
            |text: &str| text.split_once("spec:").map(|(_, spec)| spec.split("status:").next().unwrap().to_owned());
        ensure!(spec(&before.out) == spec(&after.out), "{}\n{}", before.out, after.out);
        // What get prints can be applied.
        operator.write("printed.yaml", &after.out)?;
        operator.goliath("operator", &["apply", "-f", "printed.yaml"])?.ends_with(0)?;

        operator.write("fleet/cluster.yaml", &with(CLUSTER, "      replicas: 2", "      replicas: 5"))?;
        let would = apply(&["--dry-run"])?.ends_with(0)?;
        ensure!(would.out.contains("replicas: 2") && would.out.contains("replicas: 5"), "{}", would.out);
        operator.goliath("operator", &["scale", "acme/small=3"])?.ends_with(0)?;
        operator.goliath("operator", &["cordon", "host-a"])?.ends_with(0)?;
        let page = operator.goliath("viewer", &["describe", "host", "host-a"])?.ends_with(0)?;
        ensure!(page.out.contains("cordoned: true"), "{}", page.out);
        let tree = operator.goliath("viewer", &["tree", "acme"])?.ends_with(0)?;
        ensure!(tree.out.contains("cluster acme"), "{}", tree.out);
        let drained = operator.goliath("operator", &["drain", "host-a"])?.ends_with(0)?;
        ensure!(drained.out == "host host-a drained\n", "{}", drained.out);

        std::fs::remove_file(operator.directory().join("fleet/host.yaml"))?;
        let pruned = apply(&["--prune", "team=a"])?.ends_with(0)?;
        ensure!(pruned.out.contains("host host-a pruned"), "{}", pruned.out);
        until_gone(&operator, "host", "host-a")?;
        let unknown = operator.goliath("viewer", &["get", "gests"])?.ends_with(2)?;
        ensure!(unknown.err.contains("did you mean guests?"), "{}", unknown.err);
        operator.stop().await?;
        operator.goliath("viewer", &["get", "clusters"])?.ends_with(5)?;
        Ok(())
    });
}

#[test]
fn a_lost_host_is_forgotten_only_on_somebodys_word() {
    run(async |lab: &Lab| {
        let operator = Operator::start(lab, ISSUERS).await?;
        operator.write("host.yaml", HOST)?;
        operator.goliath("operator", &["apply", "-f", "host.yaml"])?.ends_with(0)?;
        let asked = operator.goliath("administrator", &["host", "forget", "host-a"])?.ends_with(2)?;
        ensure!(asked.err.contains("--yes"), "{}", asked.err);
        operator.goliath("viewer", &["get", "host", "host-a"])?.ends_with(0)?;
        operator.goliath("administrator", &["host", "forget", "host-a", "--yes"])?.ends_with(0)?;
        until_gone(&operator, "host", "host-a")?;
        let events = operator.goliath("viewer", &["events", "--for", "host/host-a"])?.ends_with(0)?;
        ensure!(events.out.contains("Forgotten"), "{}", events.out);
        Ok(())
    });
}

/// A cluster of guests that boot in seconds, from an image of the lab.
fn small_cluster() -> Result<String> {
    let layout = program::image_layout("tiny")?;
    let guest = |indent: &str| {
        let seed = "{cloudInit: {template: {inline: \"#cloud-config\\nhostname: {{ node.name }}\\n\"}}}";
        [
            "replicas: 1".to_owned(),
            "machine: {vcpus: 1, memory: 192MiB, accelerator: tcg}".to_owned(),
            format!("image: \"oci-layout:{}\"", layout.display()),
            "boot: {kernel: {}}".to_owned(),
            format!("seed: {seed}"),
        ]
        .map(|line| format!("{indent}{line}\n"))
        .concat()
    };
    Ok(format!(
        "\
apiVersion: goliath.dev/v1alpha1
kind: Cluster
metadata: {{name: acme}}
spec:
  kubernetes: {{version: 1.35.4, serviceCidr: 10.96.0.0/16, podCidr: 10.244.0.0/16}}
  network: {{cidr: 10.7.0.0/24}}
  pki: {{issuer: local}}
  masters:
{}  workers:
    - name: small
{}",
        guest("    "),
        guest("      "),
    ))
}

#[test]
fn a_cluster_that_is_applied_comes_up_on_hosts_moves_and_goes() {
    run(async |lab: &Lab| {
        let (a, b) = (lab.host("a").start().await?, lab.host("b").start().await?);
        let operator = Operator::start(lab, "[issuers.local]\nkind = \"local\"\n").await?;
        for host in [&a, &b] {
            let address = host.api_address().to_string();
            let add = ["host", "add", host.name(), "--address", &address];
            operator.goliath("administrator", &add)?.ends_with(0)?;
        }
        operator.write("cluster.yaml", &small_cluster()?)?;
        let up = operator.goliath("operator", &["apply", "-f", "cluster.yaml", "--wait", "--timeout", "4m"])?;
        let up = up.ends_with(0)?;
        ensure!(up.err.contains("acme: ready"), "{}", up.err);
        let tree = operator.goliath("viewer", &["tree", "acme"])?.ends_with(0)?;
        ensure!(tree.out.contains("guest acme.master-0") && tree.out.contains("guest acme.small-0"), "{}", tree.out);
        let why = operator.goliath("viewer", &["explain", "acme/master-0"])?.ends_with(0)?;
        ensure!(why.out.contains("It waits for nothing."), "{}", why.out);

        // All that runs on one host moves to the other.
        operator.goliath("operator", &["drain", "a"])?.ends_with(0)?;
        let guests = operator.goliath("viewer", &["get", "guests", "-o", "json"])?.ends_with(0)?;
        let guests: serde_json::Value = serde_json::from_str(&guests.out)?;
        for guest in guests.as_array().context("a list")? {
            ensure!(guest["spec"]["binding"]["host"] == "b", "{guest}");
        }
        operator.goliath("operator", &["delete", "host", "a", "--wait"])?.ends_with(0)?;

        operator.goliath("operator", &["delete", "cluster", "acme", "--wait", "--timeout", "2m"])?.ends_with(0)?;
        let left = operator.goliath("viewer", &["get", "guests"])?.ends_with(0)?;
        ensure!(left.out.is_empty(), "{}", left.out);
        ensure!(b.guest_processes().await?.is_empty() && a.guest_processes().await?.is_empty());
        Ok(())
    });
}
