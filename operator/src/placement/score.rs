//! How good a host is for a guest that it can run.

use std::fmt;

use goliath_proto::values::HostName;
use sha2::{Digest as _, Sha256};

use super::host::{Resource, Resources};

/// An image that is there already is worth as much as this many percent of the scarcest resource.
pub const IMAGE_POINTS: u8 = 10;

/// Why a host is as good for a guest as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// Other guests of its group in the host's zone.
    pub zone_members: u32,
    /// Other guests of its group on the host.
    pub host_members: u32,
    /// What is left of the scarcest resource after placing, in percent of what the host has.
    pub left_percent: u8,
    /// Which one that is.
    pub scarcest: Resource,
    /// The image is in the host's store.
    pub image_there: bool,
}

impl Score {
    /// More is better.
    pub fn points(&self) -> u8 {
        self.left_percent + if self.image_there { IMAGE_POINTS } else { 0 }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} of its group in the zone, {} on the host, {} % of {} left, image {}",
            self.zone_members,
            self.host_members,
            self.left_percent,
            self.scarcest,
            if self.image_there { "there" } else { "not there" }
        )
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The host.
    pub host: HostName,
    /// Why.
    pub score: Score,
}

/// The order of hosts for one guest; the least is best. Two hosts are never equal, since their places on the ring are
/// 128 bits of SHA-256 of different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) zone_members: u32,
    pub(super) host_members: u32,
    /// 255 less the points.
    pub(super) demerit: u8,
    pub(super) way: u128,
}

impl Rank {
    pub(super) fn of(score: &Score, host: RingPlace, guest: RingPlace) -> Self {
        let Score { zone_members, host_members, .. } = *score;
        Self { zone_members, host_members, demerit: demerit(score.points()), way: guest.way_to(host) }
    }
}

pub(super) fn demerit(points: u8) -> u8 {
    u8::MAX - points
}

/// A place on the ring of hashes, the same in every life of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RingPlace(pub(super) u128);

impl RingPlace {
    pub(super) fn of(name: &[u8]) -> Self {
        let hash = Sha256::digest(name);
        Self(hash.iter().take(16).fold(0, |place, byte| place << 8 | u128::from(*byte)))
    }

    fn way_to(self, other: Self) -> u128 {
        other.0.wrapping_sub(self.0)
    }
}

/// The scarcest resource after placing, and how much of it is left, in percent. The demand fits.
pub(super) fn balance(free: &Resources, demand: &Resources, capacity: &Resources) -> (Resource, u8) {
    let left = |kind: Resource| match capacity.get(kind) {
        0 => 100,
        all => {
            let left = u128::from(free.get(kind).saturating_sub(demand.get(kind)));
            u8::try_from((left * 100 / u128::from(all)).min(100)).unwrap_or(100)
        }
    };
    Resource::ALL
        .map(|kind| (kind, left(kind)))
        .into_iter()
        .min_by_key(|(_, left)| *left)
        .unwrap_or((Resource::Memory, 100))
}

#[cfg(test)]
mod tests {
    use goliath_proto::values::ByteSize;

    use super::*;

    fn resources(vcpus: u64, memory: u64, disk: u64) -> Resources {
        Resources { vcpus, memory: ByteSize::mib(memory), disk: ByteSize::mib(disk) }
    }

    #[test]
    fn the_scarcest_resource_decides() {
        let table = [
            (resources(8, 1000, 1000), resources(1, 100, 100), (Resource::Vcpus, 87)),
            (resources(8, 1000, 1000), resources(1, 900, 100), (Resource::Memory, 10)),
            (resources(8, 500, 200), resources(1, 100, 200), (Resource::Disk, 0)),
        ];
        for (free, demand, expected) in table {
            assert_eq!(balance(&free, &demand, &resources(8, 1000, 1000)), expected, "{free:?} {demand:?}");
        }
    }

    #[test]
    fn a_resource_that_a_host_does_not_have_is_not_scarce() {
        assert_eq!(balance(&resources(8, 1000, 0), &resources(4, 0, 0), &resources(8, 1000, 0)), (Resource::Vcpus, 50));
    }

    /// Another value would move guests of every operator that is upgraded.
    #[test]
    fn a_place_on_the_ring_never_changes() {
        assert_eq!(RingPlace::of(b"host-1").0, 0x4a17_96ac_4935_25ff_45c4_e74e_ef19_d7a3);
    }
}
