//! A Guest's spec, as its agent is told it.

use std::{collections::HashMap, time::Duration};

use goliath_proto::{
    agent::v1 as pb,
    values::{Generation, GuestUid},
};

use super::Untellable;
use crate::objects::{
    Accelerator, Boot, CertificateRequest, DesiredState, Disk, Document, Guest, GuestRole, GuestSpec, Lifecycle,
    Machine, RestartPolicy, Seed, SeedKind, TimeSpan,
};

/// Who a guest is to its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestIdentity {
    /// `metadata.uid`.
    pub uid: GuestUid,
    /// `metadata.generation`.
    pub generation: Generation,
}

impl GuestIdentity {
    /// Of an object that was written.
    pub fn of(guest: &Guest) -> Result<Self, Untellable> {
        let uid = guest.metadata.uid.as_deref().unwrap_or_default();
        let uid = uid.parse().map_err(|reason| Untellable::new("metadata.uid", &reason))?;
        let generation = guest.metadata.generation.and_then(|generation| u64::try_from(generation).ok());
        let generation = Generation::try_from(generation.unwrap_or_default());
        Ok(Self { uid, generation: generation.map_err(|reason| Untellable::new("metadata.generation", &reason))? })
    }
}

/// On the agent's side, the label with the Guest's own name.
pub const GUEST_LABEL: &str = "goliath.dev/guest";
// For people who look at a host.
const ROLE: &str = "goliath.dev/role";
const POOL: &str = "goliath.dev/pool";
const INDEX: &str = "goliath.dev/index";

/// All that the agent needs of a Guest. The object's own labels are left out: they change without its generation, and an
/// agent refuses one generation that says two things.
pub fn guest_spec(guest: &Guest) -> Result<pb::GuestSpec, Untellable> {
    let GuestIdentity { uid, generation } = GuestIdentity::of(guest)?;
    // Whole, so that no field is forgotten: placement's own stay here.
    let GuestSpec {
        cluster,
        role,
        pool,
        index,
        hostname,
        machine,
        boot,
        image,
        disks,
        network,
        seed,
        certificates,
        lifecycle,
        hosts: _,
        binding: _,
    } = &guest.spec;
    let name = guest.metadata.name.clone().unwrap_or_default();
    let mut labels = HashMap::from([
        (GUEST_LABEL.to_owned(), name),
        (ROLE.to_owned(), role_name(*role).to_owned()),
        (INDEX.to_owned(), index.to_string()),
    ]);
    labels.extend(pool.as_ref().map(|pool| (POOL.to_owned(), pool.to_string())));
    Ok(pb::GuestSpec {
        uid: uid.to_string(),
        generation: generation.get(),
        name: hostname.to_string(),
        cluster: cluster.to_string(),
        machine: Some(told_machine(machine)),
        boot: Some(told_boot(boot)),
        image: image.to_string(),
        disks: disks.iter().map(told_disk).collect(),
        network: network.as_ref().map(|network| pb::NetworkInterface {
            ipv4_address: network.ipv4_address.to_string(),
            mac_address: network.mac_address.map(|mac| mac.to_string()).unwrap_or_default(),
        }),
        seed: seed.as_ref().map(told_seed),
        certificates: certificates.iter().map(told_certificate).collect(),
        lifecycle: Some(told_lifecycle(lifecycle)),
        labels,
        // Every image that the operator starts mounts virtiofs.
        certificate_volume: pb::CertificateVolume::Virtiofs.into(),
    })
}

fn role_name(role: GuestRole) -> &'static str {
    match role {
        GuestRole::Master => "master",
        GuestRole::Worker => "worker",
    }
}

fn told_machine(machine: &Machine) -> pb::Machine {
    let Machine { vcpus, memory, accelerator, cpu_model } = machine;
    pb::Machine {
        vcpus: vcpus.get().into(),
        memory_bytes: memory.bytes(),
        accelerator: match accelerator {
            Accelerator::Auto => pb::Accelerator::Auto,
            Accelerator::Kvm => pb::Accelerator::Kvm,
            Accelerator::Tcg => pb::Accelerator::Tcg,
        }
        .into(),
        cpu_model: text(cpu_model.as_ref()),
    }
}

fn told_boot(boot: &Boot) -> pb::Boot {
    let method = match boot {
        Boot::Kernel(kernel) => {
            pb::boot::Method::Kernel(pb::KernelBoot { command_line: text(kernel.command_line.as_ref()) })
        }
        Boot::Firmware(firmware) => {
            pb::boot::Method::Firmware(pb::FirmwareBoot { firmware: text(firmware.path.as_ref()) })
        }
    };
    pb::Boot { method: Some(method) }
}

fn told_disk(disk: &Disk) -> pb::Disk {
    let kind = match disk {
        Disk::Root(root) => {
            pb::disk::Kind::Root(pb::RootDisk { size_bytes: root.size.map_or(0, crate::objects::Size::bytes) })
        }
        Disk::Data(data) => {
            pb::disk::Kind::Data(pb::DataDisk { serial: data.serial.to_string(), size_bytes: data.size.bytes() })
        }
    };
    pb::Disk { kind: Some(kind) }
}

fn told_seed(seed: &Seed) -> pb::Seed {
    let text = |document: &Document| document.as_str().to_owned();
    let kind = match &seed.kind {
        SeedKind::Ignition(document) => pb::seed::Kind::Ignition(text(document)),
        SeedKind::CloudInit(cloud_init) => pb::seed::Kind::CloudInit(pb::CloudInit {
            user_data: text(&cloud_init.user_data),
            vendor_data: text(&cloud_init.vendor_data),
        }),
    };
    pb::Seed { kind: Some(kind), ntp_servers: texts(&seed.ntp_servers) }
}

fn told_certificate(request: &CertificateRequest) -> pb::CertificateRequest {
    let CertificateRequest { name, issuer, role, common_name, dns_names, ip_addresses, organizations, ttl } = request;
    pb::CertificateRequest {
        name: name.to_string(),
        issuer: issuer.to_string(),
        role: text(role.as_ref()),
        common_name: common_name.to_string(),
        dns_names: texts(dns_names),
        ip_addresses: texts(ip_addresses),
        organizations: texts(organizations),
        ttl: Some(span(*ttl)),
    }
}

fn told_lifecycle(lifecycle: &Lifecycle) -> pb::Lifecycle {
    let Lifecycle { desired_state, restart_policy, shutdown_grace, restart_on_change } = lifecycle;
    pb::Lifecycle {
        desired_state: match desired_state {
            DesiredState::Running => pb::DesiredState::Running,
            DesiredState::Paused => pb::DesiredState::Paused,
            DesiredState::Stopped => pb::DesiredState::Stopped,
        }
        .into(),
        restart_policy: match restart_policy {
            RestartPolicy::Always => pb::RestartPolicy::Always,
            RestartPolicy::OnFailure => pb::RestartPolicy::OnFailure,
            RestartPolicy::Never => pb::RestartPolicy::Never,
        }
        .into(),
        shutdown_grace: Some(span(*shutdown_grace)),
        restart_on_change: *restart_on_change,
    }
}

fn span(span: TimeSpan) -> prost_types::Duration {
    let duration: Duration = span.as_duration();
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

fn text(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
