//! A guest's spec.

use std::{collections::BTreeMap, time::Duration};

use goliath_proto::agent::v1 as pb;
use goliath_server::violations::{Path, Violation, Violations};

use super::{
    bounded, certificates, disks, ipv4, known, seconds,
    texts::{host, line, word},
};
use crate::{
    config::Config,
    spec::{
        Accelerator, Boot, ByteSize, CertificateVolume, DesiredState, Generation, GuestSpec, ImageReference,
        InvalidValue, Lifecycle, MacAddress, Machine, NetworkInterface, RestartPolicy, Seed, SeedKind,
    },
};

/// Linux on x86 takes 2048 bytes with the image's own part.
const LONGEST_COMMAND_LINE: usize = 1536;
/// Of all documents of a seed together.
const LARGEST_SEED: usize = 512 << 10;
const MOST_LABELS: usize = 64;
const MOST_NTP_SERVERS: usize = 8;
const DEFAULT_GRACE: Duration = Duration::from_mins(1);
const LONGEST_GRACE: Duration = Duration::from_hours(1);

/// A guest's spec as a domain type. What depends on the host's other guests is for admission.
pub(in crate::api) fn guest(spec: Option<pb::GuestSpec>, config: &Config) -> Result<GuestSpec, Vec<Violation>> {
    let mut violations = Violations::default();
    let spec = read(&mut violations, spec, config);
    violations.finish(spec)
}

/// Every part is read before any is missed, so that all that is wrong is told.
fn read(violations: &mut Violations, spec: Option<pb::GuestSpec>, config: &Config) -> Option<GuestSpec> {
    let at = Path::root("spec");
    let spec = violations.required(&at, spec)?;
    let uid = violations.parse(&at.field("uid"), &spec.uid);
    let generation = violations.take(&at.field("generation"), Generation::try_from(spec.generation));
    let name = violations.parse(&at.field("name"), &spec.name);
    let cluster = violations.parse(&at.field("cluster"), &spec.cluster);
    let machine = machine(violations, &at.field("machine"), spec.machine, config);
    let boot = boot(violations, &at.field("boot"), spec.boot, config);
    let image = image(violations, &at.field("image"), &spec.image, config.images.require_digest);
    let disks = disks::read(violations, &at.field("disks"), &spec.disks);
    if let (Some(Boot::Firmware { .. }), Some(disks::Disks { root: None, .. })) = (&boot, &disks) {
        violations.add(&at.field("disks"), "must have a root disk: firmware has nothing else to start from");
    }
    let network = match spec.network {
        Some(network) => interface(violations, &at.field("network"), &network).map(Some),
        None => Some(None),
    };
    let seed = match spec.seed {
        Some(seed) => read_seed(violations, &at.field("seed"), seed).map(Some),
        None => Some(None),
    };
    let certificates = certificates::read(violations, &at.field("certificates"), &spec.certificates, config);
    let volume = known(violations, &at.field("certificate_volume"), spec.certificate_volume);
    let certificate_volume = volume.map(|volume| match volume {
        pb::CertificateVolume::Unspecified | pb::CertificateVolume::Virtiofs => CertificateVolume::Virtiofs,
        pb::CertificateVolume::Disk => CertificateVolume::Disk,
    });
    let lifecycle = lifecycle(violations, &at.field("lifecycle"), spec.lifecycle.unwrap_or_default());
    let labels = labels(violations, &at.field("labels"), spec.labels);
    let disks = disks?;
    Some(GuestSpec {
        uid: uid?,
        generation: generation?,
        name: name?,
        cluster: cluster?,
        machine: machine?,
        boot: boot?,
        image: image?,
        root_disk: disks.root,
        data_disks: disks.data,
        network: network?,
        seed: seed?,
        certificates: certificates?,
        certificate_volume: certificate_volume?,
        lifecycle: lifecycle?,
        labels: labels?,
    })
}

fn machine(violations: &mut Violations, at: &Path, machine: Option<pb::Machine>, config: &Config) -> Option<Machine> {
    let machine = violations.required(at, machine)?;
    let vcpus = match u8::try_from(machine.vcpus) {
        Ok(vcpus @ 1..) => Ok(vcpus),
        _ => Err(InvalidValue::new(format!("is {}: 1 to 255 are allowed", machine.vcpus))),
    };
    let vcpus = violations.take(&at.field("vcpus"), vcpus);
    let memory = match machine.memory_bytes {
        0 => Err(InvalidValue::new("must not be 0")),
        bytes if !bytes.is_multiple_of(ByteSize::MIB.get()) => {
            Err(InvalidValue::new(format!("is {bytes}: it must be a multiple of 1 MiB (1048576)")))
        }
        bytes => Ok(ByteSize::bytes(bytes)),
    };
    let memory = violations.take(&at.field("memory_bytes"), memory);
    let accelerator_at = at.field("accelerator");
    let accelerator = known(violations, &accelerator_at, machine.accelerator).map(|accelerator| match accelerator {
        pb::Accelerator::Unspecified | pb::Accelerator::Auto => Accelerator::Auto,
        pb::Accelerator::Kvm => Accelerator::Kvm,
        pb::Accelerator::Tcg => Accelerator::Tcg,
    });
    violations.check(&accelerator_at, accelerator != Some(Accelerator::Tcg) || config.qemu.allow_tcg, || {
        "is TCG, which this host's configuration does not allow (qemu.allow_tcg)".to_owned()
    });
    let cpu_model = match machine.cpu_model.as_str() {
        "" => Some(None),
        // A model, and features as QEMU's -cpu takes them.
        model => violations.take(&at.field("cpu_model"), word(model, 256, "-_.,+=").map(Some)),
    };
    Some(Machine { vcpus: vcpus?, memory: memory?, accelerator: accelerator?, cpu_model: cpu_model? })
}

fn boot(violations: &mut Violations, at: &Path, boot: Option<pb::Boot>, config: &Config) -> Option<Boot> {
    let boot = violations.required(at, boot)?;
    match violations.required(at, boot.method)? {
        pb::boot::Method::Kernel(kernel) => {
            let command_line = line(&kernel.command_line, LONGEST_COMMAND_LINE);
            let command_line = violations.take(&at.field("kernel.command_line"), command_line)?;
            Some(Boot::Kernel { command_line })
        }
        pb::boot::Method::Firmware(firmware) if firmware.firmware.is_empty() => Some(Boot::Firmware { path: None }),
        pb::boot::Method::Firmware(firmware) => {
            let path = config.qemu.firmware.iter().find(|path| path.as_os_str() == firmware.firmware.as_str());
            violations.check(&at.field("firmware.firmware"), path.is_some(), || {
                format!(
                    "{:?} is not among the firmware of this host's configuration (qemu.firmware)",
                    firmware.firmware
                )
            });
            Some(Boot::Firmware { path: Some(path?.clone()) })
        }
    }
}

fn image(violations: &mut Violations, at: &Path, text: &str, require_digest: bool) -> Option<ImageReference> {
    let image: ImageReference = violations.parse(at, text)?;
    violations.check(at, !require_digest || image.digest().is_some(), || {
        "must be pinned by digest (…@sha256:…): this host's configuration asks for it (images.require_digest)"
            .to_owned()
    });
    Some(image)
}

fn interface(violations: &mut Violations, at: &Path, network: &pb::NetworkInterface) -> Option<NetworkInterface> {
    let address = violations.take(&at.field("ipv4_address"), ipv4(&network.ipv4_address));
    let mac_at = at.field("mac_address");
    let mac_address = match network.mac_address.as_str() {
        "" => Some(None),
        text => violations.parse::<MacAddress>(&mac_at, text).map(Some),
    };
    violations.check(&mac_at, mac_address != Some(Some(MacAddress::GATEWAY)), || {
        "is the address of the networks' gateways".to_owned()
    });
    Some(NetworkInterface { address: address?, mac_address: mac_address? })
}

fn read_seed(violations: &mut Violations, at: &Path, seed: pb::Seed) -> Option<Seed> {
    let kind = match violations.required(at, seed.kind) {
        None => None,
        Some(pb::seed::Kind::Ignition(document)) => {
            let at = at.field("ignition");
            let fits = violations.take(&at, size(&[&document])).is_some();
            let read = fits.then(|| violations.take(&at, ignition(&document))).flatten();
            read.map(|()| SeedKind::Ignition(document))
        }
        Some(pb::seed::Kind::CloudInit(pb::CloudInit { user_data, vendor_data })) => {
            let at = at.field("cloud_init");
            violations.take(&at, size(&[&user_data, &vendor_data]))?;
            Some(SeedKind::CloudInit { user_data, vendor_data })
        }
    };
    let ntp_at = at.field("ntp_servers");
    let mut ntp_servers = Vec::new();
    for (index, server) in bounded(violations, &ntp_at, &seed.ntp_servers, MOST_NTP_SERVERS).iter().enumerate() {
        ntp_servers.extend(violations.take(&ntp_at.index(index), host(server)));
    }
    Some(Seed { kind: kind?, ntp_servers })
}

fn size(documents: &[&str]) -> Result<(), InvalidValue> {
    let bytes: usize = documents.iter().map(|document| document.len()).sum();
    if bytes > LARGEST_SEED {
        return Err(InvalidValue::new(format!("has {bytes} bytes: {LARGEST_SEED} are allowed")));
    }
    Ok(())
}

/// The Ignition specification: a JSON object with the version that it follows.
fn ignition(document: &str) -> Result<(), InvalidValue> {
    #[derive(serde::Deserialize)]
    struct Document {
        ignition: Header,
    }
    #[derive(serde::Deserialize)]
    struct Header {
        version: String,
    }
    let parsed: Document = serde_json::from_str(document)
        // Not the parser's own words on types and values: they quote the document, which may hold secrets.
        .map_err(|error| {
            let (line, column) = (error.line(), error.column());
            InvalidValue::new(if error.is_data() {
                "is no Ignition document: it must be a JSON object with `ignition.version`".to_owned()
            } else {
                format!("is not JSON from line {line}, column {column} on")
            })
        })?;
    // serde takes an array for an object.
    if !document.trim_start().starts_with('{') || parsed.ignition.version.is_empty() {
        return Err(InvalidValue::new("must have an `ignition.version`"));
    }
    Ok(())
}

fn lifecycle(violations: &mut Violations, at: &Path, lifecycle: pb::Lifecycle) -> Option<Lifecycle> {
    let desired_state =
        known(violations, &at.field("desired_state"), lifecycle.desired_state).map(|state| match state {
            pb::DesiredState::Unspecified | pb::DesiredState::Running => DesiredState::Running,
            pb::DesiredState::Paused => DesiredState::Paused,
            pb::DesiredState::Stopped => DesiredState::Stopped,
        });
    let restart_policy =
        known(violations, &at.field("restart_policy"), lifecycle.restart_policy).map(|policy| match policy {
            pb::RestartPolicy::Unspecified | pb::RestartPolicy::Always => RestartPolicy::Always,
            pb::RestartPolicy::OnFailure => RestartPolicy::OnFailure,
            pb::RestartPolicy::Never => RestartPolicy::Never,
        });
    let shutdown_grace = match &lifecycle.shutdown_grace {
        None => Some(DEFAULT_GRACE),
        Some(grace) => violations.take(&at.field("shutdown_grace"), seconds(grace, Duration::ZERO, LONGEST_GRACE)),
    };
    Some(Lifecycle {
        desired_state: desired_state?,
        restart_policy: restart_policy?,
        shutdown_grace: shutdown_grace?,
        restart_on_change: lifecycle.restart_on_change,
    })
}

fn labels(
    violations: &mut Violations,
    at: &Path,
    labels: std::collections::HashMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    if labels.len() > MOST_LABELS {
        violations.add(at, format!("has {} entries: {MOST_LABELS} are allowed", labels.len()));
        return None;
    }
    let labels: BTreeMap<String, String> = labels.into_iter().collect();
    for (key, value) in &labels {
        violations.take(&at.key(key), super::texts::filled_line(key, 128));
        violations.take(&at.key(key), line(value, 1024));
    }
    Some(labels)
}
