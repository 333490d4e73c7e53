//! Guests.

use goliath_proto::agent::v1 as pb;

use super::{conditions, duration, timestamp};
use crate::{
    observed::{ChosenAccelerator, Exit, ExitReason, GuestPhase, GuestStatus, ShutdownStep},
    spec::{
        Accelerator, Boot, CertificateRequest, CertificateVolume, DesiredState, Generation, GuestSpec, Lifecycle,
        RestartPolicy, Seed, SeedKind,
    },
};

/// A spec as it was asked for: what was left out and has a default is filled in.
pub(in crate::api) fn guest(spec: &GuestSpec) -> pb::GuestSpec {
    let root = spec.root_disk.iter().map(|disk| {
        let size_bytes = disk.size.map_or(0, crate::spec::ByteSize::get);
        pb::disk::Kind::Root(pb::RootDisk { size_bytes })
    });
    let data = spec.data_disks.iter().map(|disk| {
        pb::disk::Kind::Data(pb::DataDisk { serial: disk.serial.to_string(), size_bytes: disk.size.get() })
    });
    pb::GuestSpec {
        uid: spec.uid.to_string(),
        generation: spec.generation.get(),
        name: spec.name.to_string(),
        cluster: spec.cluster.to_string(),
        machine: Some(pb::Machine {
            vcpus: spec.machine.vcpus.into(),
            memory_bytes: spec.machine.memory.get(),
            accelerator: match spec.machine.accelerator {
                Accelerator::Auto => pb::Accelerator::Auto,
                Accelerator::Kvm => pb::Accelerator::Kvm,
                Accelerator::Tcg => pb::Accelerator::Tcg,
            }
            .into(),
            cpu_model: spec.machine.cpu_model.clone().unwrap_or_default(),
        }),
        boot: Some(boot(&spec.boot)),
        image: spec.image.to_string(),
        disks: root.chain(data).map(|kind| pb::Disk { kind: Some(kind) }).collect(),
        network: spec.network.as_ref().map(|network| pb::NetworkInterface {
            ipv4_address: network.address.to_string(),
            mac_address: network.mac_address.map(|mac| mac.to_string()).unwrap_or_default(),
        }),
        seed: spec.seed.as_ref().map(seed),
        certificates: spec.certificates.iter().map(certificate_request).collect(),
        certificate_volume: match spec.certificate_volume {
            CertificateVolume::Virtiofs => pb::CertificateVolume::Virtiofs,
            CertificateVolume::Disk => pb::CertificateVolume::Disk,
        }
        .into(),
        lifecycle: Some(lifecycle(&spec.lifecycle)),
        labels: spec.labels.clone().into_iter().collect(),
    }
}

fn boot(boot: &Boot) -> pb::Boot {
    let method = match boot {
        Boot::Kernel { command_line } => {
            pb::boot::Method::Kernel(pb::KernelBoot { command_line: command_line.clone() })
        }
        Boot::Firmware { path } => pb::boot::Method::Firmware(pb::FirmwareBoot {
            firmware: path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        }),
    };
    pb::Boot { method: Some(method) }
}

fn seed(seed: &Seed) -> pb::Seed {
    let kind = match &seed.kind {
        SeedKind::Ignition(document) => pb::seed::Kind::Ignition(document.clone()),
        SeedKind::CloudInit { user_data, vendor_data } => {
            pb::seed::Kind::CloudInit(pb::CloudInit { user_data: user_data.clone(), vendor_data: vendor_data.clone() })
        }
    };
    pb::Seed { kind: Some(kind), ntp_servers: seed.ntp_servers.clone() }
}

/// The spec without the documents of its seed: they are large, often hold secrets, and lists of many guests must fit a
/// message.
pub(in crate::api) fn without_documents(mut spec: pb::GuestSpec) -> pb::GuestSpec {
    if let Some(kind) = spec.seed.as_mut().and_then(|seed| seed.kind.as_mut()) {
        *kind = match kind {
            pb::seed::Kind::Ignition(_) => pb::seed::Kind::Ignition(String::new()),
            pb::seed::Kind::CloudInit(_) => pb::seed::Kind::CloudInit(pb::CloudInit::default()),
        };
    }
    spec
}

fn certificate_request(request: &CertificateRequest) -> pb::CertificateRequest {
    pb::CertificateRequest {
        name: request.name.to_string(),
        issuer: request.issuer.to_string(),
        role: request.role.clone(),
        common_name: request.common_name.clone(),
        dns_names: request.dns_names.iter().cloned().collect(),
        ip_addresses: request.ip_addresses.iter().map(ToString::to_string).collect(),
        organizations: request.organizations.iter().cloned().collect(),
        ttl: Some(duration(request.ttl)),
    }
}

fn lifecycle(lifecycle: &Lifecycle) -> pb::Lifecycle {
    pb::Lifecycle {
        desired_state: match lifecycle.desired_state {
            DesiredState::Running => pb::DesiredState::Running,
            DesiredState::Paused => pb::DesiredState::Paused,
            DesiredState::Stopped => pb::DesiredState::Stopped,
        }
        .into(),
        restart_policy: match lifecycle.restart_policy {
            RestartPolicy::Always => pb::RestartPolicy::Always,
            RestartPolicy::OnFailure => pb::RestartPolicy::OnFailure,
            RestartPolicy::Never => pb::RestartPolicy::Never,
        }
        .into(),
        shutdown_grace: Some(duration(lifecycle.shutdown_grace)),
        restart_on_change: lifecycle.restart_on_change,
    }
}

/// What was seen.
pub(in crate::api) fn guest_status(status: &GuestStatus) -> pb::GuestStatus {
    pb::GuestStatus {
        phase: phase(status.phase).into(),
        conditions: conditions(&status.conditions),
        running_generation: status.running_generation.map_or(0, Generation::get),
        observed_generation: status.observed_generation.map_or(0, Generation::get),
        process: status.process.as_ref().map(|process| pb::Process {
            pid: process.pid,
            started_at: Some(timestamp(process.started_at)),
            accelerator: match process.accelerator {
                ChosenAccelerator::Kvm => pb::Accelerator::Kvm,
                ChosenAccelerator::Tcg => pb::Accelerator::Tcg,
            }
            .into(),
            qemu_version: process.qemu_version.clone(),
        }),
        image_digest: status.image_digest.as_ref().map(ToString::to_string).unwrap_or_default(),
        mac_address: status.mac_address.map(|mac| mac.to_string()).unwrap_or_default(),
        restart_count: status.restart_count,
        last_exit: status.last_exit.as_ref().map(exit),
        next_attempt_time: status.next_attempt.map(timestamp),
    }
}

fn phase(phase: GuestPhase) -> pb::GuestPhase {
    match phase {
        GuestPhase::Accepted => pb::GuestPhase::Accepted,
        GuestPhase::Preparing => pb::GuestPhase::Preparing,
        GuestPhase::Starting => pb::GuestPhase::Starting,
        GuestPhase::Running => pb::GuestPhase::Running,
        GuestPhase::Paused => pb::GuestPhase::Paused,
        GuestPhase::Stopping => pb::GuestPhase::Stopping,
        GuestPhase::Stopped => pb::GuestPhase::Stopped,
        GuestPhase::Backoff => pb::GuestPhase::Backoff,
        GuestPhase::Failed => pb::GuestPhase::Failed,
        GuestPhase::Quarantined => pb::GuestPhase::Quarantined,
    }
}

fn exit(exit: &Exit) -> pb::Exit {
    let (reason, step) = match exit.reason {
        ExitReason::GuestShutdown => (pb::ExitReason::GuestShutdown, None),
        ExitReason::GuestPanic => (pb::ExitReason::GuestPanic, None),
        ExitReason::GuestReset => (pb::ExitReason::GuestReset, None),
        ExitReason::Stopped { step } => (pb::ExitReason::Stopped, Some(step)),
        ExitReason::Crashed => (pb::ExitReason::Crashed, None),
        ExitReason::Unobserved => (pb::ExitReason::Unobserved, None),
        ExitReason::LaunchFailed => (pb::ExitReason::LaunchFailed, None),
    };
    let shutdown_step = match step {
        None => pb::ShutdownStep::Unspecified,
        Some(ShutdownStep::PowerButton) => pb::ShutdownStep::PowerButton,
        Some(ShutdownStep::GuestAgent) => pb::ShutdownStep::GuestAgent,
        Some(ShutdownStep::Quit) => pb::ShutdownStep::Quit,
        Some(ShutdownStep::Kill) => pb::ShutdownStep::Kill,
    };
    pb::Exit {
        reason: reason.into(),
        message: exit.message.clone(),
        time: Some(timestamp(exit.time)),
        shutdown_step: shutdown_step.into(),
    }
}
