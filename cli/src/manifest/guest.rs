//! `kind: Guest`.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use goliath_proto::agent::v1::{
    Boot, CertificateRequest, CloudInit, DataDisk, Disk, FirmwareBoot, GuestSpec, KernelBoot, Lifecycle, Machine,
    NetworkInterface, RootDisk, Seed, boot, disk, seed,
};
use uuid::Uuid;

use super::{
    mapping::Mapping,
    quantity,
    words::{ACCELERATORS, CERTIFICATE_VOLUMES, DESIRED_STATES, RESTART_POLICIES},
};

/// What uids of guests are derived from: a manifest without one always means the same guest.
const UID_NAMESPACE: Uuid = Uuid::from_u128(0x8d1f_60a4_92c7_4e3b_b5d8_0f6a_31e9_c472);

/// The uid of a guest whose manifest gives none: version 5 of `<cluster>/<name>`.
pub(crate) fn derived_uid(cluster: &str, name: &str) -> Uuid {
    Uuid::new_v5(&UID_NAMESPACE, format!("{cluster}/{name}").as_bytes())
}

/// A guest as a file has it. Who it is and which generation may be left to the host's record.
#[derive(Debug)]
pub(crate) struct GuestManifest {
    pub(crate) uid: Option<Uuid>,
    pub(crate) generation: Option<u64>,
    /// Without uid and generation.
    spec: GuestSpec,
}

impl GuestManifest {
    /// `cluster/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.spec.cluster, self.spec.name)
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.spec.cluster
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn spec(&self, uid: &str, generation: u64) -> GuestSpec {
        GuestSpec { uid: uid.to_owned(), generation, ..self.spec.clone() }
    }
}

/// Reads `metadata` and `spec`; files that the manifest names are read beside it, in `directory`.
pub(super) fn read(document: &Mapping<'_>, directory: &Path) -> GuestManifest {
    let mut manifest = GuestManifest { uid: None, generation: None, spec: GuestSpec::default() };
    let spec = &mut manifest.spec;
    if let Some(metadata) = document.required_mapping("metadata") {
        spec.name = metadata.required_text("name");
        spec.cluster = metadata.required_text("cluster");
        manifest.uid = metadata.checked::<Uuid>("uid", "a UUID").and_then(|uid| uid.parse().ok());
        manifest.generation = metadata.integer("generation", u64::MAX);
        spec.labels = metadata.text_map("labels").collect();
        metadata.finish();
    }
    if let Some(fields) = document.required_mapping("spec") {
        spec.machine = fields.required_mapping("machine").map(machine);
        spec.boot = fields.required_mapping("boot").map(boot);
        spec.image = fields.required_text("image");
        spec.disks = fields.mappings("disks").into_iter().map(disk).collect();
        spec.network = fields.mapping("network").map(network);
        spec.seed = fields.mapping("seed").map(|mapping| seed(mapping, directory));
        spec.certificates = fields.mappings("certificates").into_iter().map(certificate).collect();
        spec.certificate_volume = fields.choice("certificateVolume", &CERTIFICATE_VOLUMES).map_or(0, i32::from);
        spec.lifecycle = fields.mapping("lifecycle").map(lifecycle);
        fields.finish();
    }
    manifest
}

fn machine(mapping: Mapping<'_>) -> Machine {
    let machine = Machine {
        vcpus: mapping.required("vcpus", mapping.integer("vcpus", u32::MAX)),
        memory_bytes: mapping.required("memory", mapping.size("memory")),
        accelerator: mapping.choice("accelerator", &ACCELERATORS).map_or(0, i32::from),
        cpu_model: mapping.text("cpuModel").unwrap_or_default(),
    };
    mapping.finish();
    machine
}

fn boot(mapping: Mapping<'_>) -> Boot {
    let kernel = mapping.mapping("kernel").map(|kernel| {
        let command_line = kernel.text("commandLine").unwrap_or_default();
        kernel.finish();
        boot::Method::Kernel(KernelBoot { command_line })
    });
    let firmware = mapping.mapping("firmware").map(|firmware| {
        let path = firmware.text("path").unwrap_or_default();
        firmware.finish();
        boot::Method::Firmware(FirmwareBoot { firmware: path })
    });
    let method = one_of(&mapping, kernel, firmware, "`kernel: {}` or `firmware: {}`");
    mapping.finish();
    Boot { method }
}

fn disk(mapping: Mapping<'_>) -> Disk {
    let root = mapping.mapping("root").map(|root| {
        let size_bytes = root.size("size").unwrap_or_default();
        root.finish();
        disk::Kind::Root(RootDisk { size_bytes })
    });
    let data = mapping.mapping("data").map(|data| {
        let kind = disk::Kind::Data(DataDisk {
            serial: data.required_text("serial"),
            size_bytes: data.required("size", data.size("size")),
        });
        data.finish();
        kind
    });
    let kind = one_of(&mapping, root, data, "`root: {}` or `data: {serial: …, size: …}`");
    mapping.finish();
    Disk { kind }
}

/// Exactly one of two ways.
fn one_of<T>(mapping: &Mapping<'_>, one: Option<T>, other: Option<T>, ways: &str) -> Option<T> {
    match (one, other) {
        (Some(way), None) | (None, Some(way)) => Some(way),
        (Some(_), Some(_)) => {
            mapping.problem(format!("has two that exclude each other: give one of {ways}"));
            None
        }
        (None, None) => {
            mapping.problem(format!("must have one of {ways}"));
            None
        }
    }
}

fn network(mapping: Mapping<'_>) -> NetworkInterface {
    let address = mapping.checked::<Ipv4Addr>("ipv4Address", "an IPv4 address like 10.7.0.10");
    let network = NetworkInterface {
        ipv4_address: mapping.required("ipv4Address", address),
        mac_address: mapping.text("macAddress").unwrap_or_default(),
    };
    mapping.finish();
    network
}

fn seed(mapping: Mapping<'_>, directory: &Path) -> Seed {
    let ignition = text_or_file(&mapping, "ignition", "ignitionFile", directory).map(seed::Kind::Ignition);
    let cloud_init = mapping.mapping("cloudInit").map(|cloud_init| {
        let kind = seed::Kind::CloudInit(CloudInit {
            user_data: text_or_file(&cloud_init, "userData", "userDataFile", directory).unwrap_or_default(),
            vendor_data: text_or_file(&cloud_init, "vendorData", "vendorDataFile", directory).unwrap_or_default(),
        });
        cloud_init.finish();
        kind
    });
    let kind = one_of(&mapping, ignition, cloud_init, "`ignition: |` or `cloudInit: {userData: …}`");
    let seed = Seed { kind, ntp_servers: mapping.texts("ntpServers") };
    mapping.finish();
    seed
}

/// What stands in the manifest, or in a file beside it.
fn text_or_file(mapping: &Mapping<'_>, key: &'static str, file_key: &'static str, directory: &Path) -> Option<String> {
    let inline = mapping.text(key);
    let Some(file) = mapping.text(file_key).map(PathBuf::from) else { return inline };
    if inline.is_some() {
        mapping.problem(format!("has both {key} and {file_key}: give one"));
        return inline;
    }
    let path = directory.join(file);
    // An unreadable file is told of once, not as a missing seed as well.
    Some(std::fs::read_to_string(&path).unwrap_or_else(|reason| {
        mapping.problem_of(file_key, format!("{} cannot be read: {reason}", path.display()));
        String::new()
    }))
}

fn certificate(mapping: Mapping<'_>) -> CertificateRequest {
    let ttl = mapping.required("ttl", mapping.duration("ttl").map(Some));
    let certificate = CertificateRequest {
        name: mapping.required_text("name"),
        issuer: mapping.required_text("issuer"),
        role: mapping.text("role").unwrap_or_default(),
        common_name: mapping.required_text("commonName"),
        dns_names: mapping.texts("dnsNames"),
        ip_addresses: mapping.all_checked::<IpAddr>("ipAddresses", "an IP address"),
        organizations: mapping.texts("organizations"),
        ttl: ttl.map(quantity::to_proto),
    };
    mapping.finish();
    certificate
}

fn lifecycle(mapping: Mapping<'_>) -> Lifecycle {
    let lifecycle = Lifecycle {
        desired_state: mapping.choice("desiredState", &DESIRED_STATES).map_or(0, i32::from),
        restart_policy: mapping.choice("restartPolicy", &RESTART_POLICIES).map_or(0, i32::from),
        shutdown_grace: mapping.duration("shutdownGrace").map(quantity::to_proto),
        restart_on_change: mapping.boolean("restartOnChange").unwrap_or_default(),
    };
    mapping.finish();
    lifecycle
}
