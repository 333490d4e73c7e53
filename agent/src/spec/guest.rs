//! A guest, as asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    ByteSize, CertificateName, ClusterName, DiskSerial, Generation, GuestName, GuestUid, ImageReference, IssuerName,
    MacAddress,
};

/// Everything that the agent needs to run one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// For life.
    pub uid: GuestUid,
    /// Grows with each change.
    pub generation: Generation,
    /// Unique within the cluster on this host.
    pub name: GuestName,
    /// Whose guest it is, and which network it is in.
    pub cluster: ClusterName,
    /// Processors and memory.
    pub machine: Machine,
    /// How it starts.
    pub boot: Boot,
    /// What it starts from.
    pub image: ImageReference,
    /// The overlay on the image's disk; an image for direct boot can do without.
    pub root_disk: Option<RootDisk>,
    /// In the order given; serials differ.
    pub data_disks: Vec<DataDisk>,
    /// Its place in the cluster's network; without, it has no network.
    pub network: Option<NetworkInterface>,
    /// First-boot configuration.
    pub seed: Option<Seed>,
    /// What the certificate volume holds; names differ. Without any there is no volume.
    pub certificates: Vec<CertificateRequest>,
    /// How the guest gets it. Records of agents that knew one way only do not say.
    #[serde(default)]
    pub certificate_volume: CertificateVolume,
    /// When it runs, and how it ends.
    pub lifecycle: Lifecycle,
    /// The caller's own.
    pub labels: BTreeMap<String, String>,
}

impl GuestSpec {
    /// The address its interface has: the one asked for, or the uid's own.
    pub fn mac_address(&self) -> MacAddress {
        self.network.as_ref().and_then(|network| network.mac_address).unwrap_or_else(|| MacAddress::of_guest(self.uid))
    }

    /// The fields in which another spec of this guest differs so that a QEMU started with this one cannot take it.
    pub fn restart_required_by(&self, wanted: &Self) -> Vec<&'static str> {
        let has_volume = |spec: &Self| !spec.certificates.is_empty();
        [
            ("machine", self.machine != wanted.machine),
            ("boot", self.boot != wanted.boot),
            ("image", self.image != wanted.image),
            ("disks", self.root_disk != wanted.root_disk || self.data_disks != wanted.data_disks),
            ("network", self.network != wanted.network),
            ("seed", self.seed != wanted.seed),
            // Certificates change in the running guest; the volume itself is a device.
            ("certificates", has_volume(self) != has_volume(wanted)),
            (
                "certificate_volume",
                has_volume(self) && has_volume(wanted) && self.certificate_volume != wanted.certificate_volume,
            ),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// Processors and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// 1 to 255.
    pub vcpus: u8,
    /// A multiple of 1 MiB.
    pub memory: ByteSize,
    /// What runs the vCPUs.
    pub accelerator: Accelerator,
    /// A model that QEMU knows; where none is given the accelerator decides.
    pub cpu_model: Option<String>,
}

/// What runs the vCPUs, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Accelerator {
    /// KVM where the doctor saw it boot, else TCG where the configuration allows it.
    Auto,
    /// The processor.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// How a guest starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    /// QEMU loads the kernel and initrd that the image carries.
    Kernel {
        /// Appended to the image's own.
        command_line: String,
    },
    /// Firmware finds a boot loader on the root disk.
    Firmware {
        /// A file that the host's configuration lists; none means QEMU's own SeaBIOS.
        path: Option<PathBuf>,
    },
}

/// The disk a guest boots from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDisk {
    /// None: the size of the image's disk.
    pub size: Option<ByteSize>,
}

/// An empty disk that lives as long as the guest's uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDisk {
    /// How the guest finds it.
    pub serial: DiskSerial,
    /// A multiple of 512 bytes.
    pub size: ByteSize,
}

/// A place in the cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// The guest's own; it can use no other.
    pub address: Ipv4Addr,
    /// None: the uid's own.
    pub mac_address: Option<MacAddress>,
}

/// First-boot configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// In which language.
    pub kind: SeedKind,
    /// Told to the guest beside its addresses.
    pub ntp_servers: Vec<String>,
}

/// The two languages of first-boot configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeedKind {
    /// JSON, by `fw_cfg`.
    Ignition(String),
    /// A NoCloud disk.
    CloudInit {
        /// May be empty.
        user_data: String,
        /// May be empty.
        vendor_data: String,
    },
}

/// First-boot configuration often holds passwords and tokens, so only its size is shown.
impl std::fmt::Debug for SeedKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ignition(document) => write!(formatter, "Ignition({} bytes)", document.len()),
            Self::CloudInit { user_data, vendor_data } => {
                write!(formatter, "CloudInit({} + {} bytes)", user_data.len(), vendor_data.len())
            }
        }
    }
}

/// How a guest gets its certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum CertificateVolume {
    /// A file system that shows each new generation by itself.
    #[default]
    Virtiofs,
    /// A read-only disk, for guests without virtiofs; a new generation is a new medium.
    Disk,
}

/// A certificate that the guest needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRequest {
    /// Its directory in the volume.
    pub name: CertificateName,
    /// Who issues it.
    pub issuer: IssuerName,
    /// The issuer's role for it.
    pub role: String,
    /// Subject.
    pub common_name: String,
    /// Subject alternative names.
    pub dns_names: BTreeSet<String>,
    /// Subject alternative addresses.
    pub ip_addresses: BTreeSet<IpAddr>,
    /// Subject's organisations; Kubernetes reads groups from them.
    pub organizations: BTreeSet<String>,
    /// How long it shall be good.
    pub ttl: Duration,
}

/// When a guest runs, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// What it shall be doing.
    pub desired_state: DesiredState,
    /// What follows when QEMU ends and we did not end it.
    pub restart_policy: RestartPolicy,
    /// From the first power button to SIGKILL.
    pub shutdown_grace: Duration,
    /// Whether a change that needs a restart may do one.
    pub restart_on_change: bool,
}

/// What a guest shall be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DesiredState {
    /// Its vCPUs run.
    Running,
    /// QEMU is there, its vCPUs stand.
    Paused,
    /// No QEMU; its disks stay.
    Stopped,
}

/// What follows when QEMU ends and we did not end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// It starts again.
    Always,
    /// It starts again unless the guest powered itself off.
    OnFailure,
    /// It stays ended.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::test::guest;

    fn with_certificate(volume: CertificateVolume) -> GuestSpec {
        let request = CertificateRequest {
            name: "node".parse().unwrap(),
            issuer: "local".parse().unwrap(),
            role: "node".to_owned(),
            common_name: "node".to_owned(),
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
            organizations: BTreeSet::new(),
            ttl: Duration::from_hours(1),
        };
        GuestSpec { certificates: vec![request], certificate_volume: volume, ..guest("worker-0") }
    }

    #[test]
    fn another_kind_of_certificate_volume_takes_a_restart_where_there_is_a_volume() {
        let (virtiofs, disk) =
            (with_certificate(CertificateVolume::Virtiofs), with_certificate(CertificateVolume::Disk));
        assert_eq!(virtiofs.restart_required_by(&disk), ["certificate_volume"]);
        assert_eq!(disk.restart_required_by(&disk), Vec::<&str>::new());
        let without = GuestSpec { certificates: Vec::new(), ..disk.clone() };
        assert_eq!(disk.restart_required_by(&without), ["certificates"]);
        let none = guest("worker-0");
        assert_eq!(none.restart_required_by(&without), Vec::<&str>::new());
    }

    #[test]
    fn a_record_that_does_not_know_of_volumes_means_virtiofs() {
        let spec = with_certificate(CertificateVolume::Virtiofs);
        let mut record = serde_json::to_value(&spec).unwrap();
        record.as_object_mut().unwrap().remove("certificate_volume").unwrap();
        assert_eq!(serde_json::from_value::<GuestSpec>(record).unwrap(), spec);
    }
}
