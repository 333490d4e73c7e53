//! What is left on a host: by what is bound to it, and by what its agent tells, whichever is less.

use std::collections::HashMap;

use goliath_proto::values::GuestUid;

use super::host::{Inventory, Resources};

/// What is bound to a host.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    /// With each guest's own demand.
    bound: HashMap<GuestUid, Resources>,
    /// Of the last inventory; nothing without one.
    free: Resources,
}

impl Account {
    /// What a new guest and its QEMU can have.
    pub(super) fn free(&self) -> Resources {
        self.free
    }

    pub(super) fn len(&self) -> usize {
        self.bound.len()
    }

    pub(super) fn guests(&self) -> impl Iterator<Item = GuestUid> {
        self.bound.keys().copied()
    }

    pub(super) fn bind(&mut self, uid: GuestUid, demand: Resources, inventory: Option<&Inventory>) {
        self.bound.insert(uid, demand);
        self.recount(inventory);
    }

    pub(super) fn unbind(&mut self, uid: GuestUid, inventory: Option<&Inventory>) {
        self.bound.remove(&uid);
        self.recount(inventory);
    }

    /// A host has few guests: counting them anew is exact, where running sums would carry mistakes on.
    pub(super) fn recount(&mut self, inventory: Option<&Inventory>) {
        self.free = inventory.map(|inventory| self.count(inventory, None)).unwrap_or_default();
    }

    /// What would be free if a guest were not bound here.
    pub(super) fn free_without(&self, uid: GuestUid, inventory: &Inventory) -> Resources {
        self.count(inventory, Some(uid))
    }

    fn count(&self, inventory: &Inventory, without: Option<GuestUid>) -> Resources {
        let mut bound = Resources::default();
        let mut unseen = Resources::default();
        let mut left = inventory.left;
        for (uid, demand) in &self.bound {
            let demand = demand.with_overhead(inventory.overhead);
            let seen = inventory.guests.get(uid).map(|seen| seen.with_overhead(inventory.overhead));
            if Some(*uid) == without {
                // The agent counts it: without it there would be more.
                left = left.plus(seen.unwrap_or_default());
            } else {
                bound = bound.plus(demand);
                // In flight: the agent has not heard of the guest, or of how much it grew.
                unseen = unseen.plus(demand.minus(seen.unwrap_or_default()));
            }
        }
        inventory.capacity.minus(bound).min(left.minus(unseen))
    }
}

#[cfg(test)]
mod tests {
    use goliath_proto::values::ByteSize;

    use super::{
        super::tests::world::{inventory, uid},
        *,
    };

    fn memory(mib: u64) -> Resources {
        Resources { memory: ByteSize::mib(mib), ..Resources::default() }
    }

    #[test]
    fn what_is_in_flight_counts_once_and_what_the_agent_sees_too() {
        let mut told = inventory(8, 1000);
        told.overhead = ByteSize::mib(100);
        let mut account = Account::default();
        account.bind(uid(1), memory(200), Some(&told));
        assert_eq!(account.free().memory, ByteSize::mib(700), "in flight");

        told.left.memory = ByteSize::mib(700);
        told.guests.insert(uid(1), memory(200));
        account.recount(Some(&told));
        assert_eq!(account.free().memory, ByteSize::mib(700), "seen");

        account.bind(uid(1), memory(250), Some(&told));
        assert_eq!(account.free().memory, ByteSize::mib(650), "grown, which the agent has not heard");

        account.unbind(uid(1), Some(&told));
        assert_eq!(account.free().memory, ByteSize::mib(700), "unbound, but still there");
    }

    #[test]
    fn guests_that_only_the_agent_knows_count() {
        let mut told = inventory(8, 1000);
        told.left.memory = ByteSize::mib(300);
        let mut account = Account::default();
        account.bind(uid(1), memory(100), Some(&told));
        assert_eq!(account.free().memory, ByteSize::mib(200));
    }

    #[test]
    fn a_guest_is_weighed_where_it_is_as_if_it_were_not_there() {
        let mut told = inventory(8, 1000);
        told.left.memory = ByteSize::mib(400);
        told.guests.insert(uid(1), memory(600));
        let mut account = Account::default();
        account.bind(uid(1), memory(600), Some(&told));
        assert_eq!(account.free().memory, ByteSize::mib(400));
        assert_eq!(account.free_without(uid(1), &told).memory, ByteSize::mib(1000));
    }
}
