use std::collections::BTreeMap;

use goliath_proto::agent::v1::{
    Accelerator, Boot, CertificateRequest, CloudInit, DataDisk, Disk, Exit, Guest, GuestSpec, GuestStatus, Lifecycle,
    Machine, NetworkInterface, Process, RootDisk, Seed, boot, disk, seed,
};
use serde::Serialize;

use super::{API_VERSION, ConditionForm, Form, Metadata, conditions, duration, quantity, some_text, time};
use crate::{
    manifest::words::{ACCELERATORS, CERTIFICATE_VOLUMES, DESIRED_STATES, RESTART_POLICIES, word},
    output::words::{exit_reason, phase, shutdown_step},
};

/// `kind: Guest`.
pub(crate) type GuestForm = Form<SpecForm, StatusForm>;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpecForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<MachineForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<BootForm>,
    image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<DiskForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<InterfaceForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<SeedForm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<CertificateForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_volume: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lifecycle: Option<LifecycleForm>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineForm {
    vcpus: u32,
    memory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    accelerator: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_model: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum BootForm {
    #[serde(rename_all = "camelCase")]
    Kernel {
        #[serde(skip_serializing_if = "Option::is_none")]
        command_line: Option<String>,
    },
    Firmware {
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum DiskForm {
    Root {
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<String>,
    },
    Data {
        serial: String,
        size: String,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceForm {
    ipv4_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_address: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SeedForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    ignition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_init: Option<CloudInitForm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ntp_servers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CloudInitForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vendor_data: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateForm {
    name: String,
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    common_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ip_addresses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    organizations: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LifecycleForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    desired_state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_grace: Option<String>,
    restart_on_change: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusForm {
    generation: u64,
    phase: &'static str,
    conditions: Vec<ConditionForm>,
    running_generation: u64,
    observed_generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_address: Option<String>,
    restart_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_exit: Option<ExitForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_time: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessForm {
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accelerator: Option<&'static str>,
    qemu_version: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExitForm {
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown_step: Option<&'static str>,
}

impl From<&Guest> for GuestForm {
    fn from(guest: &Guest) -> Self {
        let spec = guest.spec.clone().unwrap_or_default();
        let status = StatusForm::new(spec.generation, &guest.status.clone().unwrap_or_default());
        Self {
            api_version: API_VERSION,
            kind: "Guest",
            metadata: Metadata {
                name: spec.name.clone(),
                cluster: some_text(&spec.cluster),
                uid: some_text(&spec.uid),
                labels: spec.labels.clone().into_iter().collect::<BTreeMap<_, _>>(),
            },
            spec: SpecForm::from(spec),
            status,
        }
    }
}

impl From<GuestSpec> for SpecForm {
    fn from(spec: GuestSpec) -> Self {
        let has_certificates = !spec.certificates.is_empty();
        Self {
            certificate_volume: word(&CERTIFICATE_VOLUMES, spec.certificate_volume()).filter(|_| has_certificates),
            machine: spec.machine.as_ref().map(machine),
            boot: spec.boot.and_then(boot),
            image: spec.image,
            disks: spec.disks.into_iter().filter_map(disk).collect(),
            network: spec.network.map(|NetworkInterface { ipv4_address, mac_address }| InterfaceForm {
                ipv4_address,
                mac_address: some_text(&mac_address),
            }),
            seed: spec.seed.map(seed),
            certificates: spec.certificates.into_iter().map(certificate).collect(),
            lifecycle: spec.lifecycle.map(|lifecycle| self::lifecycle(&lifecycle)),
        }
    }
}

fn machine(machine: &Machine) -> MachineForm {
    MachineForm {
        vcpus: machine.vcpus,
        memory: quantity::format_size(machine.memory_bytes),
        accelerator: word(&ACCELERATORS, machine.accelerator()),
        cpu_model: some_text(&machine.cpu_model),
    }
}

fn boot(boot: Boot) -> Option<BootForm> {
    Some(match boot.method? {
        boot::Method::Kernel(kernel) => BootForm::Kernel { command_line: some_text(&kernel.command_line) },
        boot::Method::Firmware(firmware) => BootForm::Firmware { path: some_text(&firmware.firmware) },
    })
}

fn disk(disk: Disk) -> Option<DiskForm> {
    Some(match disk.kind? {
        disk::Kind::Root(RootDisk { size_bytes }) => {
            DiskForm::Root { size: Some(size_bytes).filter(|bytes| *bytes > 0).map(quantity::format_size) }
        }
        disk::Kind::Data(DataDisk { serial, size_bytes }) => {
            DiskForm::Data { serial, size: quantity::format_size(size_bytes) }
        }
    })
}

fn seed(seed: Seed) -> SeedForm {
    let mut form = SeedForm { ignition: None, cloud_init: None, ntp_servers: seed.ntp_servers };
    match seed.kind {
        Some(seed::Kind::Ignition(document)) => form.ignition = Some(document),
        Some(seed::Kind::CloudInit(CloudInit { user_data, vendor_data })) => {
            form.cloud_init =
                Some(CloudInitForm { user_data: some_text(&user_data), vendor_data: some_text(&vendor_data) });
        }
        None => {}
    }
    form
}

fn certificate(request: CertificateRequest) -> CertificateForm {
    CertificateForm {
        name: request.name,
        issuer: request.issuer,
        role: some_text(&request.role),
        common_name: request.common_name,
        dns_names: request.dns_names,
        ip_addresses: request.ip_addresses,
        organizations: request.organizations,
        ttl: duration(request.ttl),
    }
}

fn lifecycle(lifecycle: &Lifecycle) -> LifecycleForm {
    LifecycleForm {
        desired_state: word(&DESIRED_STATES, lifecycle.desired_state()),
        restart_policy: word(&RESTART_POLICIES, lifecycle.restart_policy()),
        shutdown_grace: duration(lifecycle.shutdown_grace),
        restart_on_change: lifecycle.restart_on_change,
    }
}

impl StatusForm {
    fn new(generation: u64, status: &GuestStatus) -> Self {
        Self {
            generation,
            phase: phase(status.phase()),
            conditions: conditions(&status.conditions),
            running_generation: status.running_generation,
            observed_generation: status.observed_generation,
            process: status.process.as_ref().map(process),
            image_digest: some_text(&status.image_digest),
            mac_address: some_text(&status.mac_address),
            restart_count: status.restart_count,
            last_exit: status.last_exit.as_ref().map(exit),
            next_attempt_time: status.next_attempt_time.and_then(time),
        }
    }
}

fn process(process: &Process) -> ProcessForm {
    ProcessForm {
        pid: process.pid,
        started_at: process.started_at.and_then(time),
        accelerator: match process.accelerator() {
            Accelerator::Unspecified => None,
            accelerator => word(&ACCELERATORS, accelerator),
        },
        qemu_version: process.qemu_version.clone(),
    }
}

fn exit(exit: &Exit) -> ExitForm {
    ExitForm {
        reason: exit_reason(exit.reason()),
        message: exit.message.clone(),
        time: exit.time.and_then(time),
        shutdown_step: shutdown_step(exit.shutdown_step()),
    }
}
