//! The real command line against the real agent.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::Result;
use goliath_lab::{
    Host, Lab,
    guest::{describe, is_true},
    program, run,
};
use goliath_proto::agent::v1::ListGuestsRequest;

/// Blocks until it ends; the agent is a process of its own.
fn goliath(host: &Host, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program::command_line()?);
    command.args(arguments).env_clear().env("GOLIATH_AGENT", format!("unix:{}", host.socket().display()));
    Ok(command.output()?)
}

#[track_caller]
fn ends_with(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    (out, err)
}

fn manifests(directory: &Path, image: &Path) -> Result<(String, String)> {
    let network = "
apiVersion: goliath.dev/v1alpha1
kind: Network
metadata:
  name: acme
spec:
  vni: 7001
  cidr: 10.7.0.0/24
  gatewayAddress: 10.7.0.1
  hostAddress: 10.7.0.2
";
    let guest = format!(
        "
apiVersion: goliath.dev/v1alpha1
kind: Guest
metadata:
  name: worker-0
  cluster: acme
spec:
  image: oci-layout:{}
  machine:
    vcpus: 1
    memory: 192MiB
    accelerator: tcg
  boot:
    kernel: {{}}
  network:
    ipv4Address: 10.7.0.10
  seed:
    cloudInit: {{}}
",
        image.display()
    );
    let (first, second) = (directory.join("network.yaml"), directory.join("guest.yaml"));
    fs::write(&first, network)?;
    fs::write(&second, guest)?;
    Ok((first.display().to_string(), second.display().to_string()))
}

#[test]
fn apply_waits_until_the_guest_says_that_it_booted() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let (network, guest) = manifests(host.directory(), &program::image_layout("tiny")?)?;
        let apply = ["apply", "-f", &guest, "-f", &network, "--wait", "--timeout", "90s"];
        let (out, err) = ends_with(&goliath(&host, &apply)?, 0);
        assert!(out.contains("network acme created") && out.contains("guest acme/worker-0 created"), "{out}{err}");
        assert!(err.contains("acme/worker-0: there"), "{err}");
        let listed = host.client().await?.guests().list_guests(ListGuestsRequest::default()).await?.into_inner();
        let status = listed.guests[0].status.clone().unwrap();
        assert!(is_true(&status, "Booted"), "the command returned before the guest was up: {}", describe(&status));
        let (shown, _) = ends_with(&goliath(&host, &["get", "guests", "-o", "json"])?, 0);
        let guests: serde_json::Value = serde_json::from_str(&shown)?;
        assert!(shown.contains("worker-0"), "{guests:#}");
        // It says so on its console too, a moment before or after.
        let (log, _) = ends_with(&goliath(&host, &["logs", "acme/worker-0"])?, 0);
        assert!(log.contains("goliath-init: hostname worker-0"), "{log}");

        // The same again is there at once, and what cannot come is not waited for longer than was asked.
        let (out, _) = ends_with(&goliath(&host, &apply)?, 0);
        assert!(out.contains("guest acme/worker-0 unchanged"), "{out}");
        let text = fs::read_to_string(&guest)?.replace("worker-0", "worker-1").replace("10.7.0.10", "10.7.0.11");
        let missing = text.replace(&format!("{}", program::image_layout("tiny")?.display()), "/nowhere/at/all");
        fs::write(&guest, missing)?;
        let (_, err) = ends_with(&goliath(&host, &["apply", "-f", &guest, "--wait", "--timeout", "3s"])?, 6);
        assert!(err.contains("acme/worker-1 waits for ImageReady"), "{err}");

        let (out, _) = ends_with(&goliath(&host, &["delete", "guest", "acme/worker-0", "acme/worker-1", "--wait"])?, 0);
        assert!(out.contains("worker-0"), "{out}");
        assert_eq!(host.guest_processes().await?.len(), 0);
        Ok(())
    });
}
