//! Link-local addresses of the veth pairs that lead from clusters' namespaces into the host's.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use uuid::Uuid;

use crate::spec::{ClusterName, Vni};

/// One cluster's pair of addresses on this host: a /31 of 169.254.64.0/18, apart from 169.254.169.254, where clouds keep
/// their metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EgressSlot(u16);

const BASE: u32 = u32::from_be_bytes([169, 254, 64, 0]);
const SLOTS: u16 = 1 << 13;
const SLOT_NAMESPACE: Uuid = Uuid::from_u128(0x91c4_5b0e_7fd2_4a33_b5e8_30d1_6c9f_42a7);

/// All slots, as nftables writes them.
pub(super) const ALL_SLOTS: &str = "169.254.64.0/18";
/// Devices in the host's namespace start with this, and nothing else there should.
pub(super) const HOST_DEVICE_PREFIX: &str = "goliath";

impl EgressSlot {
    /// The first free one from the cluster's own place on; None: all 8192 are taken.
    pub(super) fn choose(cluster: &ClusterName, taken: impl Fn(Self) -> bool) -> Option<Self> {
        let hash = Uuid::new_v5(&SLOT_NAMESPACE, cluster.as_str().as_bytes());
        let bytes = hash.as_bytes();
        let first = u16::from_be_bytes([bytes[0], bytes[1]]) % SLOTS;
        (0..SLOTS).map(|step| Self((first + step) % SLOTS)).find(|slot| !taken(*slot))
    }

    /// The slot to which an address belongs.
    pub(super) fn containing(address: Ipv4Addr) -> Option<Self> {
        let offset = u32::from(address).checked_sub(BASE)?;
        u16::try_from(offset / 2).ok().filter(|slot| *slot < SLOTS).map(Self)
    }

    /// The end in the host's namespace: the cluster's default gateway.
    pub fn host_end(self) -> Ipv4Addr {
        Ipv4Addr::from(BASE + 2 * u32::from(self.0))
    }

    /// The end in the cluster's namespace: what the host sees of the cluster.
    pub fn cluster_end(self) -> Ipv4Addr {
        Ipv4Addr::from(BASE + 2 * u32::from(self.0) + 1)
    }
}

/// The name of the end in the host's namespace: VNIs differ on a host.
pub(super) fn host_device(vni: Vni) -> String {
    format!("{HOST_DEVICE_PREFIX}{:06x}", vni.get())
}

/// An address with the pair's prefix.
pub(super) fn on_the_link(address: Ipv4Addr) -> Ipv4Network {
    Ipv4Network::new_checked(address, 31).unwrap_or_else(|| Ipv4Network::from(address))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_slot_is_a_pair_within_the_range() {
        let range: Ipv4Network = ALL_SLOTS.parse().unwrap();
        for number in [0, 1, SLOTS - 1] {
            let slot = EgressSlot(number);
            for end in [slot.host_end(), slot.cluster_end()] {
                assert!(range.contains(end));
                assert_eq!(EgressSlot::containing(end), Some(slot));
            }
            assert_eq!(on_the_link(slot.cluster_end()).network(), slot.host_end());
        }
        assert_eq!(EgressSlot::containing(Ipv4Addr::new(169, 254, 169, 254)), None);
        assert_eq!(EgressSlot::containing(Ipv4Addr::new(169, 254, 63, 255)), None);
        assert_eq!(EgressSlot::containing(Ipv4Addr::new(10, 0, 0, 1)), None);
    }

    #[test]
    fn clusters_never_share_a_slot_and_a_full_range_is_told() {
        let cluster: ClusterName = "acme".parse().unwrap();
        let mut taken = BTreeSet::new();
        for _ in 0..100 {
            let slot = EgressSlot::choose(&cluster, |slot| taken.contains(&slot)).unwrap();
            assert!(taken.insert(slot));
        }
        assert_eq!(EgressSlot::choose(&cluster, |_| true), None);
    }

    #[test]
    fn the_name_in_the_hosts_namespace_fits_the_kernel() {
        assert_eq!(host_device(Vni::try_from(0x00ff_ffff).unwrap()), "goliathffffff");
    }
}
