use std::fmt::Write as _;

use goliath_proto::agent::v1::{
    Certificate, Disk, Exit, Guest, GuestSpec, GuestStatus, Lifecycle, Process, boot, disk, seed,
};

use super::{Page, advice};
use crate::{
    manifest::{
        render::time,
        words::{ACCELERATORS, CERTIFICATE_VOLUMES, DESIRED_STATES, RESTART_POLICIES, word},
    },
    output::{
        View, certificate,
        text::{age, size, until},
        words,
    },
};

/// All there is to know about a guest; `certificates` is what it holds now.
pub(crate) fn guest(guest: &Guest, certificates: &[Certificate], view: &View) -> String {
    let spec = guest.spec.clone().unwrap_or_default();
    let status = guest.status.clone().unwrap_or_default();
    let state = match &status.process {
        Some(process) => format!("{} for {}", words::phase(status.phase()), age(process.started_at, view.now)),
        None => words::phase(status.phase()).to_owned(),
    };
    let title = format!("{}/{}", spec.cluster, spec.name);
    let mut page = Page::new(view, &title, &state, words::phase_tone(status.phase()));
    page.text.push('\n');
    identity(&mut page, &spec, &status);
    life(&mut page, &spec, &status, view);
    page.conditions(&status.conditions);
    if !certificates.is_empty() {
        page.heading("Certificates");
        page.lines(&certificate::table(certificates, view.now).render(view));
    } else if !spec.certificates.is_empty() {
        page.heading("Certificates");
        page.lines("none issued yet");
    }
    page.advice(&advice::guest(&spec, &status, certificates, view.now));
    page.text
}

fn identity(page: &mut Page<'_>, spec: &GuestSpec, status: &GuestStatus) {
    page.fact("uid", &spec.uid);
    page.fact("generation", &generation(spec, status));
    let labels: std::collections::BTreeMap<_, _> = spec.labels.iter().collect();
    page.fact("labels", &labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", "));
    let machine = spec.machine.clone().unwrap_or_default();
    let accelerator = word(&ACCELERATORS, machine.accelerator()).unwrap_or("auto");
    page.fact("machine", &format!("{}, {}, {accelerator}", vcpus(machine.vcpus), size(machine.memory_bytes)));
    page.fact(
        "boot",
        &match spec.boot.as_ref().and_then(|boot| boot.method.as_ref()) {
            Some(boot::Method::Kernel(kernel)) if kernel.command_line.is_empty() => "the image's kernel".to_owned(),
            Some(boot::Method::Kernel(kernel)) => format!("the image's kernel with {}", kernel.command_line),
            Some(boot::Method::Firmware(firmware)) if firmware.firmware.is_empty() => "SeaBIOS".to_owned(),
            Some(boot::Method::Firmware(firmware)) => firmware.firmware.clone(),
            None => String::new(),
        },
    );
    page.fact("image", &spec.image);
    if !spec.image.contains(&status.image_digest) {
        page.fact("", &status.image_digest);
    }
    for (at, disk) in spec.disks.iter().enumerate() {
        page.fact(if at == 0 { "disks" } else { "" }, &disk_text(disk));
    }
    if let Some(network) = &spec.network {
        let mac_address = Some(&status.mac_address).filter(|mac_address| !mac_address.is_empty());
        let mac_address = mac_address.map(|mac_address| format!(", {mac_address}")).unwrap_or_default();
        page.fact("network", &format!("{} in {}{mac_address}", network.ipv4_address, spec.cluster));
    }
    // Its content may hold passwords and is nobody's business here.
    page.fact(
        "seed",
        match spec.seed.as_ref().and_then(|seed| seed.kind.as_ref()) {
            Some(seed::Kind::Ignition(_)) => "Ignition",
            Some(seed::Kind::CloudInit(_)) => "cloud-init",
            None => "",
        },
    );
    page.fact("certificates", &certificate_volume(spec));
}

fn certificate_volume(spec: &GuestSpec) -> String {
    let volume = word(&CERTIFICATE_VOLUMES, spec.certificate_volume()).unwrap_or("virtiofs");
    match spec.certificates.len() {
        0 => String::new(),
        1 => format!("1 by {volume}"),
        count => format!("{count} by {volume}"),
    }
}

fn life(page: &mut Page<'_>, spec: &GuestSpec, status: &GuestStatus, view: &View) {
    page.fact("lifecycle", &lifecycle(&spec.lifecycle.unwrap_or_default()));
    page.fact("process", &status.process.as_ref().map(process).unwrap_or_default());
    page.fact("restarts", &status.restart_count.to_string());
    page.fact("last exit", &status.last_exit.as_ref().map(|exit| last_exit(exit, view)).unwrap_or_default());
    page.fact("next try", &status.next_attempt_time.map(|time| until(time, view.now)).unwrap_or_default());
}

// In what follows writing to a String does not fail.

fn generation(spec: &GuestSpec, status: &GuestStatus) -> String {
    let mut text = spec.generation.to_string();
    if status.observed_generation != spec.generation {
        let _ = write!(text, ", the agent is at {}", status.observed_generation);
    }
    match status.running_generation {
        0 => text,
        running if running == spec.generation => text + ", running",
        running => format!("{text}, running since {running}"),
    }
}

fn vcpus(number: u32) -> String {
    if number == 1 { "1 vCPU".to_owned() } else { format!("{number} vCPUs") }
}

fn disk_text(disk: &Disk) -> String {
    match &disk.kind {
        Some(disk::Kind::Root(root)) if root.size_bytes == 0 => "root, of the image's size".to_owned(),
        Some(disk::Kind::Root(root)) => format!("root, {}", size(root.size_bytes)),
        Some(disk::Kind::Data(data)) => format!("data {}, {}", data.serial, size(data.size_bytes)),
        None => String::new(),
    }
}

fn lifecycle(lifecycle: &Lifecycle) -> String {
    let state = word(&DESIRED_STATES, lifecycle.desired_state()).unwrap_or("Running");
    let policy = word(&RESTART_POLICIES, lifecycle.restart_policy()).unwrap_or("Always");
    let on_change = if lifecycle.restart_on_change { ", restarts for a new spec" } else { "" };
    format!("shall be {state}, restart {policy}{on_change}")
}

fn process(process: &Process) -> String {
    let accelerator = word(&ACCELERATORS, process.accelerator()).unwrap_or("an unknown accelerator");
    let since = process
        .started_at
        .and_then(|started| time(prost_types::Timestamp { nanos: 0, ..started }))
        .map(|time| format!(", since {time}"))
        .unwrap_or_default();
    format!("pid {}, QEMU {} with {accelerator}{since}", process.pid, process.qemu_version)
}

fn last_exit(exit: &Exit, view: &View) -> String {
    let mut text = format!("{} ago: {}", age(exit.time, view.now), words::exit_reason(exit.reason()));
    if let Some(step) = words::shutdown_step(exit.shutdown_step()) {
        let _ = write!(text, " by {step}");
    }
    if !exit.message.is_empty() {
        let _ = write!(text, ", {}", exit.message);
    }
    text
}
