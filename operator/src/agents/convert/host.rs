//! What an agent tells of its host.

use goliath_proto::agent::v1 as pb;

use super::{accelerator, capacity, conditions, filled};
use crate::objects::{Digest, HostStatus, Versions};

/// The most that lists of the object hold.
const MOST: usize = 256;

/// As the object's status; the operator's own conditions and times are not in it. Of images, which are for placement to
/// know, and of other lists only so many are told as the object can hold.
pub fn host_status(told: &pb::Host, images: &[pb::Image]) -> HostStatus {
    HostStatus {
        conditions: conditions(&told.conditions),
        observed_generation: None,
        heartbeat_time: None,
        boot_id: filled(&told.boot_id).map(str::to_owned),
        capacity: told.capacity.as_ref().and_then(capacity),
        available: told.available.as_ref().and_then(capacity),
        accelerator: accelerator(told.accelerator()),
        versions: told.versions.as_ref().map(|versions| Versions {
            agent: versions.agent.clone(),
            qemu: versions.qemu.clone(),
            kernel: versions.kernel.clone(),
        }),
        underlay_address: told.underlay_address.parse().ok(),
        cordoned: told.cordoned,
        guests: told.guests,
        guest_overhead: told.guest_overhead_bytes.try_into().ok().filter(|_| told.guest_overhead_bytes > 0),
        tcg_allowed: told.tcg_allowed,
        networks: told.networks.iter().filter_map(|network| network.parse().ok()).take(MOST).collect(),
        foreign_vnis: told.foreign_vnis.iter().filter_map(|vni| u64::from(*vni).try_into().ok()).take(MOST).collect(),
        images: digests(images),
    }
}

fn digests(images: &[pb::Image]) -> Vec<Digest> {
    let mut digests: Vec<Digest> = images.iter().filter_map(|image| image.digest.parse().ok()).collect();
    digests.sort_unstable();
    digests.dedup();
    digests.truncate(MOST);
    digests
}
