//! JSON and YAML, for programs. Guests and networks come in the form of manifests.

use goliath_proto::agent::v1::{Certificate, DoctorCheck, Guest, Host, Image, Network, doctor_check::Verdict};
use serde::Serialize;

use super::host;
use crate::manifest::render::{self, ConditionForm, GuestForm, NetworkForm};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    Json,
    Yaml,
}

impl Notation {
    /// One thing that was asked for by name.
    pub(crate) fn one<T: Serialize>(self, item: &T) -> String {
        match self {
            // Plain data with texts for keys: neither can fail.
            Self::Json => serde_json::to_string_pretty(item).unwrap_or_default() + "\n",
            Self::Yaml => {
                let text = serde_saphyr::to_string(item).unwrap_or_default();
                if text.ends_with('\n') { text } else { text + "\n" }
            }
        }
    }

    /// Several: an array in JSON, documents in YAML.
    pub(crate) fn many<T: Serialize>(self, items: &[T]) -> String {
        match self {
            Self::Json => self.one(&items),
            Self::Yaml => items.iter().map(|item| self.one(item)).collect::<Vec<_>>().join("---\n"),
        }
    }

    /// One of a stream: JSON in a line, or a YAML document.
    pub(crate) fn streamed<T: Serialize>(self, item: &T) -> String {
        match self {
            Self::Json => serde_json::to_string(item).unwrap_or_default() + "\n",
            Self::Yaml => "---\n".to_owned() + &self.one(item),
        }
    }
}

pub(crate) fn guests(guests: &[Guest]) -> Vec<GuestForm> {
    guests.iter().map(GuestForm::from).collect()
}

pub(crate) fn networks(networks: &[Network]) -> Vec<NetworkForm> {
    networks.iter().map(NetworkForm::from).collect()
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostForm {
    name: String,
    boot_id: String,
    cordoned: bool,
    accelerator: &'static str,
    underlay_address: String,
    guests: u32,
    capacity: CapacityForm,
    available: CapacityForm,
    versions: VersionsForm,
    conditions: Vec<ConditionForm>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CapacityForm {
    vcpus: u32,
    memory_bytes: u64,
    disk_bytes: u64,
}

#[derive(Debug, Serialize)]
struct VersionsForm {
    agent: String,
    qemu: String,
    kernel: String,
}

pub(crate) fn host(host: &Host) -> HostForm {
    let capacity = |capacity: Option<goliath_proto::agent::v1::Capacity>| {
        let capacity = capacity.unwrap_or_default();
        CapacityForm { vcpus: capacity.vcpus, memory_bytes: capacity.memory_bytes, disk_bytes: capacity.disk_bytes }
    };
    let versions = host.versions.clone().unwrap_or_default();
    HostForm {
        name: host.name.clone(),
        boot_id: host.boot_id.clone(),
        cordoned: host.cordoned,
        accelerator: host::accelerator(host.accelerator()),
        underlay_address: host.underlay_address.clone(),
        guests: host.guests,
        capacity: capacity(host.capacity),
        available: capacity(host.available),
        versions: VersionsForm { agent: versions.agent, qemu: versions.qemu, kernel: versions.kernel },
        conditions: render::conditions(&host.conditions),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageForm {
    digest: String,
    references: Vec<String>,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<DiskForm>,
    has_kernel: bool,
    has_initrd: bool,
    command_line: String,
    pulled_at: Option<String>,
    used_by: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DiskForm {
    format: String,
    virtual_size_bytes: u64,
}

pub(crate) fn images(images: &[Image]) -> Vec<ImageForm> {
    images.iter().map(image).collect()
}

pub(crate) fn image(image: &Image) -> ImageForm {
    ImageForm {
        digest: image.digest.clone(),
        references: image.references.clone(),
        stored_bytes: image.stored_bytes,
        disk: image
            .disk
            .as_ref()
            .map(|disk| DiskForm { format: disk.format.clone(), virtual_size_bytes: disk.virtual_size_bytes }),
        has_kernel: image.has_kernel,
        has_initrd: image.has_initrd,
        command_line: image.command_line.clone(),
        pulled_at: image.pulled_at.and_then(render::time),
        used_by: image.used_by.clone(),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateForm {
    name: String,
    generation: u64,
    issuer: String,
    serial_number: String,
    common_name: String,
    dns_names: Vec<String>,
    ip_addresses: Vec<String>,
    not_before: Option<String>,
    not_after: Option<String>,
    renew_at: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_error: String,
    certificate_chain: String,
}

pub(crate) fn certificates(certificates: &[Certificate]) -> Vec<CertificateForm> {
    let form = |certificate: &Certificate| CertificateForm {
        name: certificate.name.clone(),
        generation: certificate.generation,
        issuer: certificate.issuer.clone(),
        serial_number: certificate.serial_number.clone(),
        common_name: certificate.common_name.clone(),
        dns_names: certificate.dns_names.clone(),
        ip_addresses: certificate.ip_addresses.clone(),
        not_before: certificate.not_before.and_then(render::time),
        not_after: certificate.not_after.and_then(render::time),
        renew_at: certificate.renew_at.and_then(render::time),
        last_error: certificate.last_error.clone(),
        certificate_chain: certificate.certificate_chain.clone(),
    };
    certificates.iter().map(form).collect()
}

#[derive(Debug, Serialize)]
pub(crate) struct CheckForm {
    name: String,
    verdict: &'static str,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

pub(crate) fn checks(checks: &[DoctorCheck]) -> Vec<CheckForm> {
    let form = |check: &DoctorCheck| CheckForm {
        name: check.name.clone(),
        verdict: match check.verdict() {
            Verdict::Pass => "pass",
            Verdict::Warning => "warning",
            Verdict::Fail => "fail",
            Verdict::Unspecified => "unknown",
        },
        message: check.message.clone(),
        hint: check.hint.clone(),
    };
    checks.iter().map(form).collect()
}
