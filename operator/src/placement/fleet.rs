//! Hosts and what is bound to them, kept as they change.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use goliath_proto::values::{GuestUid, HostName, ZoneName};

use super::{
    account::Account,
    filter::Candidate,
    guest::{Guest, Needs},
    host::{Host, Resources},
    score::RingPlace,
    shape::{Changes, Shapes},
    spread::{GroupKey, Spread},
};

/// A host's place in [`Fleet::slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u32);

/// A zone; hosts without one are a zone too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ZoneId(pub(super) u32);

/// Hosts, and which guests are bound to them: decided, whether or not an agent heard of it.
#[derive(Debug, Default)]
pub struct Fleet {
    pub(super) slots: Vec<Slot>,
    /// Slots of hosts that are gone.
    vacant: Vec<SlotId>,
    names: HashMap<HostName, SlotId>,
    zones: HashMap<Option<ZoneName>, ZoneId>,
    bindings: HashMap<GuestUid, Binding>,
    pub(super) spread: Spread,
    pub(super) shapes: Shapes,
    pub(super) changes: Changes,
}

/// A host, or the name of one that guests are bound to and that is not known (yet, or any more).
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: HostName,
    pub(super) place: RingPlace,
    pub(super) zone: ZoneId,
    pub(super) host: Option<Host>,
    pub(super) account: Account,
}

/// A guest on a host.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) slot: SlotId,
    pub(super) group: GroupKey,
    needs: Arc<Needs>,
}

/// What a host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostUse {
    /// Bound to it.
    pub guests: usize,
    /// For more guests and their QEMUs.
    pub free: Resources,
}

impl Slot {
    /// As a place for a new guest, where the host is known.
    pub(super) fn candidate(&self) -> Option<Candidate<'_>> {
        Some(Candidate { host: self.host.as_ref()?, free: self.account.free() })
    }

    fn recount(&mut self) {
        self.account.recount(self.host.as_ref().and_then(|host| host.inventory.as_ref()));
    }
}

impl Fleet {
    /// A fleet without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// A host appeared, or something about it changed.
    pub fn upsert_host(&mut self, host: Host) {
        let id = self.slot_of(&host.name);
        let zone = self.zone_of(host.zone.as_ref());
        self.move_to_zone(id, zone);
        let slot = &mut self.slots[id.0 as usize];
        slot.host = Some(host);
        slot.recount();
        self.changes.note(id);
    }

    /// A host is gone. Guests bound to it stay so until they are unbound.
    pub fn remove_host(&mut self, name: &HostName) {
        let Some(&id) = self.names.get(name) else { return };
        let zone = self.zone_of(None);
        self.move_to_zone(id, zone);
        let slot = &mut self.slots[id.0 as usize];
        slot.host = None;
        slot.recount();
        self.changes.note(id);
        self.vacate(id);
    }

    /// A guest is bound to a host, known or not; from another one it is taken. To call again when its needs changed.
    pub fn bind(&mut self, guest: &Guest, host: &HostName) {
        self.unbind(guest.uid);
        let id = self.slot_of(host);
        let group = (guest.cluster.clone(), guest.group.clone());
        let slot = &mut self.slots[id.0 as usize];
        self.spread.add(&group, slot.zone, id);
        let inventory = slot.host.as_ref().and_then(|host| host.inventory.as_ref());
        slot.account.bind(guest.uid, guest.needs.demand, inventory);
        self.bindings.insert(guest.uid, Binding { slot: id, group, needs: Arc::clone(&guest.needs) });
        self.changes.note(id);
    }

    /// A guest is gone from its host, by the host's own word or an administrator's.
    pub fn unbind(&mut self, uid: GuestUid) {
        let Some(binding) = self.bindings.remove(&uid) else { return };
        let slot = &mut self.slots[binding.slot.0 as usize];
        self.spread.remove(&binding.group, slot.zone, binding.slot);
        slot.account.unbind(uid, slot.host.as_ref().and_then(|host| host.inventory.as_ref()));
        self.changes.note(binding.slot);
        self.vacate(binding.slot);
    }

    /// The host that a guest is bound to.
    pub fn host_of(&self, uid: GuestUid) -> Option<&HostName> {
        self.binding(uid).map(|binding| &self.slot(binding.slot).name)
    }

    /// What a guest was bound with.
    pub fn needs_of(&self, uid: GuestUid) -> Option<&Arc<Needs>> {
        self.binding(uid).map(|binding| &binding.needs)
    }

    /// A host as it was last told.
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        self.names.get(name).and_then(|id| self.slot(*id).host.as_ref())
    }

    /// What a host holds.
    pub fn usage(&self, name: &HostName) -> Option<HostUse> {
        let slot = self.slot(*self.names.get(name)?);
        Some(HostUse { guests: slot.account.len(), free: slot.account.free() })
    }

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    pub(super) fn binding(&self, uid: GuestUid) -> Option<&Binding> {
        self.bindings.get(&uid)
    }

    /// Hosts that are known.
    pub(super) fn known(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        (0..).map(SlotId).zip(&self.slots).filter(|(_, slot)| slot.host.is_some())
    }

    fn zone_of(&mut self, zone: Option<&ZoneName>) -> ZoneId {
        let next = ZoneId(u32::try_from(self.zones.len()).unwrap_or(u32::MAX));
        *self.zones.entry(zone.cloned()).or_insert(next)
    }

    fn slot_of(&mut self, name: &HostName) -> SlotId {
        let zone = self.zone_of(None);
        match self.names.entry(name.clone()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let place = RingPlace::of(name.as_str().as_bytes());
                let slot = Slot { name: name.clone(), place, zone, host: None, account: Account::default() };
                let id = if let Some(id) = self.vacant.pop() {
                    self.slots[id.0 as usize] = slot;
                    id
                } else {
                    self.slots.push(slot);
                    SlotId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
                };
                *entry.insert(id)
            }
        }
    }

    /// Gives the slot of a host that is gone, with all its guests, to another one.
    fn vacate(&mut self, id: SlotId) {
        let slot = &self.slots[id.0 as usize];
        if slot.host.is_none() && slot.account.len() == 0 && self.names.remove(&slot.name).is_some() {
            self.vacant.push(id);
        }
    }

    fn move_to_zone(&mut self, id: SlotId, zone: ZoneId) {
        let slot = &mut self.slots[id.0 as usize];
        let from = std::mem::replace(&mut slot.zone, zone);
        if from == zone {
            return;
        }
        for binding in slot.account.guests().filter_map(|uid| self.bindings.get(&uid)) {
            self.spread.remove(&binding.group, from, id);
            self.spread.add(&binding.group, zone, id);
        }
    }
}
