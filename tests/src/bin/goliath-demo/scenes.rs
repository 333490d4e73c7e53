//! What the demo proves.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use goliath_lab::Guest;

use crate::{
    report::Report,
    stage::{Issuer, Stage},
};

pub(crate) async fn boot(stage: &Stage, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let image = stage.image.as_str();
    let pulled = stage.master.until("with its image", |status| !status.image_digest.is_empty()).await?;
    report.proved("image", &format!("{image} is {}", short(&pulled.image_digest)));
    let booted = stage.guests().map(async |guest: &Guest| {
        let status = guest.until_booted().await?;
        anyhow::Ok((guest, status, start.elapsed()))
    });
    for outcome in futures::future::join_all(booted).await {
        let (guest, status, after) = outcome?;
        let process = status.process.context("a booted guest without a process")?;
        let result = format!(
            "{} on host {}, QEMU {} ({}, pid {}), booted after {:.1} s",
            guest.address(),
            guest.host().name(),
            process.qemu_version,
            process.accelerator().as_str_name().trim_start_matches("ACCELERATOR_"),
            process.pid,
            after.as_secs_f64()
        );
        report.proved(&name(guest), &result);
    }
    Ok(())
}

pub(crate) async fn networks(stage: &Stage, report: &mut Report) -> Result<()> {
    report.chapter("Who reaches whom");
    for (from, to) in [(&stage.master, &stage.worker), (&stage.green_master, &stage.green_worker)] {
        ensure!(from.pings(to.address()).await?, "{} does not reach {}", name(from), name(to));
        let answer = from.console().await?.command(&format!("fetch {}", to.address())).await?;
        ensure!(answer.contains(&to.report().await?.boot_id), "another guest answered {}: {answer}", name(from));
        let result = format!("{} on host {} answers", name(to), to.host().name());
        report.proved(&format!("{} pings {}", name(from), to.address()), &result);
    }
    let absent = stage.green_worker.address();
    ensure!(!stage.master.pings(absent).await?, "a guest of green answered one of blue");
    ensure!(!stage.worker.pings(absent).await?, "a guest of green answered one of blue");
    report.proved(&format!("blue pings {absent}"), "no answer: that address is green's alone, even on its own host");
    let (blue, green) = (stage.master.report().await?, stage.green_master.report().await?);
    ensure!(blue.boot_id != green.boot_id, "two clusters share a guest");
    let result = format!("is one guest in {} and another in {}, on one host", stage.blue.name(), stage.green.name());
    report.proved(&stage.master.address().to_string(), &result);
    Ok(())
}

pub(crate) async fn certificates(stage: &Stage, report: &mut Report) -> Result<()> {
    report.chapter("Certificates");
    let (guest, cluster) = (&stage.worker, stage.blue.name());
    let authority = stage.issuer.authority(cluster).await?;
    let before = guest.report().await?;
    let first = guest.serves(&authority).await?;
    check_issued(stage, &first.serial_number).await?;
    let by = match stage.issuer {
        Issuer::Vault(_) => "as Vault's PKI of its cluster has it on record",
        Issuer::Local(_) => "vouched for by the local CA",
    };
    report.proved(&format!("{} serves TLS", name(guest)), &format!("serial {}, {by}", short(&first.serial_number)));

    stage.client.goliath(report, &format!("--context {} certs {} --rotate", guest.host().name(), name(guest)))?;
    let second = guest.serves(&authority).await?;
    ensure!(second.serial_number != first.serial_number, "the certificate did not change");
    check_issued(stage, &second.serial_number).await?;
    let after = guest.report().await?;
    ensure!(after.boot_id == before.boot_id && after.uptime_seconds > before.uptime_seconds, "the guest was restarted");
    let result = format!("serial {} is served now, by the same boot of the guest", short(&second.serial_number));
    report.proved("rotation in the running guest", &result);
    Ok(())
}

/// That the issuer knows of it.
async fn check_issued(stage: &Stage, serial_number: &str) -> Result<()> {
    if let Issuer::Vault(vault) = &stage.issuer {
        let known = vault.serial_numbers(stage.blue.name()).await?;
        let known = known.iter().any(|known| known.replace('-', ":") == serial_number);
        ensure!(known, "Vault does not know the serial number {serial_number}");
    }
    Ok(())
}

pub(crate) async fn kill_an_agent(stage: &Stage, report: &mut Report) -> Result<()> {
    report.chapter("An agent dies");
    let guest = &stage.master;
    let before = guest.report().await?;
    let pid = guest.status().await?.process.context("no process")?.pid;
    stage.a.kill_agent().await?;
    ensure!(stage.worker.pings(guest.address()).await?, "{} lost its network with its agent", name(guest));
    report.proved("kill -9 of host a's agent", &format!("{} still answers {}", name(guest), name(&stage.worker)));
    let start = Instant::now();
    stage.a.start_agent().await?;
    guest.until_booted().await?;
    let found = start.elapsed();
    let after = guest.report().await?;
    ensure!(after.boot_id == before.boot_id, "{} was booted anew", name(guest));
    ensure!(after.uptime_seconds > before.uptime_seconds, "the uptime of {} went back", name(guest));
    ensure!(guest.status().await?.process.context("no process")?.pid == pid, "another QEMU runs {}", name(guest));
    let qemus = stage.a.qemus_of(guest.uid()).await?.len();
    ensure!(qemus == 1, "{qemus} QEMUs run {}", name(guest));
    let result = format!(
        "it found its guests again in {:.2} s: same pid {pid}, same boot, and the uptime went on",
        found.as_secs_f64()
    );
    report.proved("the agent comes back", &result);
    Ok(())
}

/// As a person would see it.
pub(crate) fn look(stage: &Stage, report: &Report) -> Result<()> {
    for host in [&stage.a, &stage.b] {
        stage.client.goliath(report, &format!("--context {} get guests", host.name()))?;
    }
    Ok(())
}

pub(crate) async fn delete(stage: &Stage, report: &mut Report) -> Result<()> {
    report.chapter("The end");
    stage.client.goliath(report, "--context a delete guest blue/master-0 green/master-0 --wait")?;
    stage.client.goliath(report, "--context b delete guest blue/worker-0 green/worker-0 --wait")?;
    for guest in stage.guests() {
        let traces = guest.host().traces_of(guest.uid()).await?;
        ensure!(traces.is_empty(), "{} left {traces:?}", name(guest));
    }
    report.proved("delete", "no process, disk, socket or mount of the four guests is left");
    for host in [&stage.a, &stage.b] {
        for cluster in [&stage.blue, &stage.green] {
            stage.client.goliath(report, &format!("--context {} delete network {}", host.name(), cluster.name()))?;
        }
        host.until_no_networks().await?;
        let left = host.guest_processes().await?;
        ensure!(left.is_empty(), "host {} still runs {left:?}", host.name());
    }
    report.proved("delete of the networks", "no namespace, no device and no process is left on either host");
    Ok(())
}

fn name(guest: &Guest) -> String {
    format!("{}/{}", guest.cluster().name(), guest.name())
}

/// Enough of a digest or serial number to compare by eye.
fn short(text: &str) -> String {
    text.chars().take(23).chain("…".chars()).collect()
}
