//! Where the guests of each group are.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use goliath_proto::values::ClusterName;

use super::{
    fleet::{SlotId, ZoneId},
    guest::Group,
};

/// Guests of a cluster that are spread together.
pub(super) type GroupKey = (ClusterName, Group);

/// Where the guests of each group are.
#[derive(Debug, Default)]
pub(super) struct Spread {
    groups: HashMap<GroupKey, Members>,
}

/// Where the guests of one group are; without zeros.
#[derive(Debug, Default)]
pub(super) struct Members {
    zones: HashMap<ZoneId, u32>,
    hosts: BTreeMap<SlotId, u32>,
}

impl Members {
    pub(super) fn in_zone(&self, zone: ZoneId) -> u32 {
        self.zones.get(&zone).copied().unwrap_or_default()
    }

    pub(super) fn on_host(&self, host: SlotId) -> u32 {
        self.hosts.get(&host).copied().unwrap_or_default()
    }
}

impl Spread {
    pub(super) fn members(&self, group: &GroupKey) -> Option<&Members> {
        self.groups.get(group)
    }

    pub(super) fn add(&mut self, group: &GroupKey, zone: ZoneId, host: SlotId) {
        let members = self.groups.entry(group.clone()).or_default();
        *members.zones.entry(zone).or_default() += 1;
        *members.hosts.entry(host).or_default() += 1;
    }

    pub(super) fn remove(&mut self, group: &GroupKey, zone: ZoneId, host: SlotId) {
        let Entry::Occupied(mut entry) = self.groups.entry(group.clone()) else { return };
        let members = entry.get_mut();
        if let Entry::Occupied(mut count) = members.zones.entry(zone) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let std::collections::btree_map::Entry::Occupied(mut count) = members.hosts.entry(host) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if members.hosts.is_empty() {
            entry.remove();
        }
    }
}
