//! The choice of one host.

use super::{
    filter::{self, Candidate, Rejection},
    fleet::{Fleet, SlotId, ZoneId},
    guest::Guest,
    score::{Choice, Rank, RingPlace, Score, balance},
    shape::Shape,
};
use goliath_proto::values::HostName;

/// What becomes of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is bound already, and stays.
    Bound(HostName),
    /// To be written down, then bound.
    Chosen(Choice),
    /// No host can have it; [`Fleet::explain`] tells why.
    NoRoom,
}

impl Decision {
    /// Where the guest is or shall be.
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Bound(host) => Some(host),
            Self::Chosen(choice) => Some(&choice.host),
            Self::NoRoom => None,
        }
    }
}

impl Fleet {
    /// The best host for a guest by the module's rule. Binds nothing.
    pub fn choose(&mut self, guest: &Guest) -> Decision {
        if let Some(host) = self.host_of(guest.uid) {
            return Decision::Bound(host.clone());
        }
        let Self { slots, shapes, changes, .. } = self;
        let shape = shapes.current(&guest.needs, slots, changes);
        let group = (guest.cluster.clone(), guest.group.clone());
        let members = self.spread.members(&group);
        let in_zone = |zone: ZoneId| members.map_or(0, |members| members.in_zone(zone));
        let place = RingPlace::of(guest.uid.as_uuid().as_bytes());

        let mut zones: Vec<_> = shape.zones().map(|zone| (in_zone(zone), zone)).collect();
        zones.sort_unstable();
        let best = zones.chunk_by(|one, other| one.0 == other.0).find_map(|equal| {
            let of_zone = |&(zone_members, zone)| {
                let on_host = |slot: SlotId| members.map_or(0, |members| members.on_host(slot));
                let (host_members, slot) = best_in_zone(shape, zone, place, on_host, |slot, members| {
                    let candidate = slots[slot.0 as usize].candidate();
                    candidate.is_some_and(|candidate| filter::admits(&candidate, members, guest))
                })?;
                let score = weigh(&slots[slot.0 as usize].candidate()?, zone_members, host_members, guest)?;
                Some((Rank::of(&score, slots[slot.0 as usize].place, place), slot, score))
            };
            equal.iter().filter_map(of_zone).min_by_key(|(rank, ..)| *rank)
        });
        match best {
            Some((_, slot, score)) => Decision::Chosen(Choice { host: self.slot(slot).name.clone(), score }),
            None => Decision::NoRoom,
        }
    }

    /// The same choice by looking at every host.
    pub fn choose_by_scan(&self, guest: &Guest) -> Decision {
        if let Some(host) = self.host_of(guest.uid) {
            return Decision::Bound(host.clone());
        }
        let place = RingPlace::of(guest.uid.as_uuid().as_bytes());
        let fitting = self.known().filter_map(|(id, slot)| {
            let score = self.judge(id, guest).ok()?;
            Some((Rank::of(&score, slot.place, place), slot, score))
        });
        match fitting.min_by_key(|(rank, ..)| *rank) {
            Some((_, slot, score)) => Decision::Chosen(Choice { host: slot.name.clone(), score }),
            None => Decision::NoRoom,
        }
    }

    /// What a host is for a guest, as if the guest were nowhere yet.
    pub(super) fn judge<'a>(&'a self, id: SlotId, guest: &'a Guest) -> Result<Score, Vec<Rejection<'a>>> {
        let slot = self.slot(id);
        let Some(mut candidate) = slot.candidate() else { return Err(Vec::new()) };
        let group = (guest.cluster.clone(), guest.group.clone());
        let members = self.spread.members(&group);
        let mut zone_members = members.map_or(0, |members| members.in_zone(slot.zone));
        let mut host_members = members.map_or(0, |members| members.on_host(id));
        if let Some(own) = self.binding(guest.uid).filter(|own| own.group == group) {
            zone_members -= u32::from(self.slot(own.slot).zone == slot.zone);
            host_members -= u32::from(own.slot == id);
        }
        if let (Some(own), Some(inventory)) = (self.binding(guest.uid), &candidate.host.inventory)
            && own.slot == id
        {
            candidate.free = slot.account.free_without(guest.uid, inventory);
        }
        let rejections = filter::rejections(&candidate, host_members, guest);
        if !rejections.is_empty() {
            return Err(rejections);
        }
        weigh(&candidate, zone_members, host_members, guest).ok_or_else(Vec::new)
    }
}

/// The first of the hosts with the fewest guests of the group that admits the guest, and how many it has of them.
fn best_in_zone(
    shape: &Shape,
    zone: ZoneId,
    guest: RingPlace,
    on_host: impl Fn(SlotId) -> u32,
    admits: impl Fn(SlotId, u32) -> bool,
) -> Option<(u32, SlotId)> {
    let mut best: Option<(u32, SlotId)> = None;
    for standing in shape.in_order(zone, guest) {
        let members = on_host(standing.slot);
        let better = best.is_none_or(|(fewest, _)| members < fewest);
        if better && admits(standing.slot, members) {
            best = Some((members, standing.slot));
            if members == 0 {
                break;
            }
        }
    }
    best
}

fn weigh(candidate: &Candidate<'_>, zone_members: u32, host_members: u32, guest: &Guest) -> Option<Score> {
    let inventory = candidate.host.inventory.as_ref()?;
    let demand = guest.needs.demand.with_overhead(inventory.overhead);
    let (scarcest, left_percent) = balance(&candidate.free, &demand, &inventory.capacity);
    let image_there = guest.needs.image.as_ref().is_some_and(|image| inventory.images.contains(image));
    Some(Score { zone_members, host_members, left_percent, scarcest, image_there })
}
