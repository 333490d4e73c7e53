//! Specs for tests of other modules.

use std::{collections::BTreeMap, time::Duration};

use uuid::Uuid;

use super::{
    Accelerator, Boot, ByteSize, CertificateVolume, DesiredState, Generation, GuestSpec, Lifecycle, Machine,
    RestartPolicy,
};

/// A small guest of cluster `acme`: the same name gives the same uid.
pub(crate) fn guest(name: &str) -> GuestSpec {
    GuestSpec {
        uid: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string().parse().unwrap(),
        generation: Generation::try_from(1).unwrap(),
        name: name.parse().unwrap(),
        cluster: "acme".parse().unwrap(),
        machine: Machine { vcpus: 1, memory: ByteSize::mib(256), accelerator: Accelerator::Auto, cpu_model: None },
        boot: Boot::Kernel { command_line: String::new() },
        image: "registry.example/tiny:v1".parse().unwrap(),
        root_disk: None,
        data_disks: Vec::new(),
        network: None,
        seed: None,
        certificates: Vec::new(),
        certificate_volume: CertificateVolume::Virtiofs,
        lifecycle: Lifecycle {
            desired_state: DesiredState::Running,
            restart_policy: RestartPolicy::Always,
            shutdown_grace: Duration::from_mins(1),
            restart_on_change: false,
        },
        labels: BTreeMap::new(),
    }
}
