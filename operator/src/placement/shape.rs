//! The index: for guests with equal needs, the hosts that suit them in the order of the rule.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    iter,
    sync::Arc,
};

use super::{
    filter,
    fleet::{Slot, SlotId, ZoneId},
    guest::Needs,
    score::{IMAGE_POINTS, RingPlace, balance, demerit},
};

/// More kinds of guests than a fleet usually has; the one that was not asked for longest goes first. Each costs some
/// 50 bytes a host.
const MOST_SHAPES: usize = 64;

/// How far back changes are known. A shape that missed more of them than there are hosts is built anew.
const MOST_CHANGES: usize = 1 << 16;

/// Which hosts changed, in order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    log: VecDeque<SlotId>,
    /// The number of the log's first.
    first: u64,
}

impl Changes {
    pub(super) fn note(&mut self, slot: SlotId) {
        self.log.push_back(slot);
        if self.log.len() > MOST_CHANGES {
            self.log.pop_front();
            self.first += 1;
        }
    }

    fn end(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    /// What changed since; none: it is not known any more.
    fn since(&self, seen: u64) -> Option<impl ExactSizeIterator<Item = SlotId>> {
        let skip = usize::try_from(seen.checked_sub(self.first)?).ok()?;
        Some(self.log.range(skip.min(self.log.len())..).copied())
    }
}

/// The shapes that were asked for of late.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    shapes: HashMap<Arc<Needs>, Shape>,
    clock: u64,
}

impl Shapes {
    /// The shape as of now.
    pub(super) fn current(&mut self, needs: &Arc<Needs>, slots: &[Slot], changes: &Changes) -> &Shape {
        self.clock += 1;
        let key = Arc::clone(needs);
        if self.shapes.len() >= MOST_SHAPES && !self.shapes.contains_key(&key) {
            let oldest = self.shapes.iter().min_by_key(|(_, shape)| shape.used).map(|(key, _)| Arc::clone(key));
            oldest.and_then(|oldest| self.shapes.remove(&oldest));
        }
        let shape = self.shapes.entry(key).or_default();
        shape.used = self.clock;
        let missed = changes.since(shape.seen).filter(|missed| shape.built && missed.len() <= slots.len());
        match missed {
            Some(missed) => missed.for_each(|id| shape.put_right(id, &slots[id.0 as usize], needs)),
            None => {
                *shape = Shape { used: shape.used, built: true, ..Shape::default() };
                for (id, slot) in (0..).map(SlotId).zip(slots) {
                    shape.put_right(id, slot, needs);
                }
            }
        }
        shape.seen = changes.end();
        shape
    }
}

/// The hosts that suit guests with equal needs.
#[derive(Debug, Default)]
pub(super) struct Shape {
    zones: Vec<BTreeSet<Standing>>,
    /// Where each host stands now, by slot.
    standings: Vec<Option<(ZoneId, Standing)>>,
    /// The changes before this number are in.
    seen: u64,
    built: bool,
    used: u64,
}

/// A host in the order of the rule, before it is looked at from one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) demerit: u8,
    place: RingPlace,
    pub(super) slot: SlotId,
}

impl Standing {
    fn least(demerit: u8, place: RingPlace) -> Self {
        Self { demerit, place, slot: SlotId(0) }
    }

    fn most(demerit: u8) -> Self {
        Self { demerit, place: RingPlace(u128::MAX), slot: SlotId(u32::MAX) }
    }
}

impl Shape {
    fn put_right(&mut self, id: SlotId, slot: &Slot, needs: &Needs) {
        let index = id.0 as usize;
        if self.standings.len() <= index {
            self.standings.resize(index + 1, None);
        }
        let now = standing(id, slot, needs).map(|standing| (slot.zone, standing));
        let before = std::mem::replace(&mut self.standings[index], now);
        if before == now {
            return;
        }
        if let Some((zone, standing)) = before {
            self.zones[zone.0 as usize].remove(&standing);
        }
        if let Some((ZoneId(zone), standing)) = now {
            let zone = zone as usize;
            if self.zones.len() <= zone {
                self.zones.resize_with(zone + 1, BTreeSet::new);
            }
            self.zones[zone].insert(standing);
        }
    }

    /// Zones that have a host.
    pub(super) fn zones(&self) -> impl Iterator<Item = ZoneId> {
        (0..).map(ZoneId).zip(&self.zones).filter(|(_, hosts)| !hosts.is_empty()).map(|(zone, _)| zone)
    }

    /// The hosts of a zone from best to worst, for a guest at this place of the ring.
    pub(super) fn in_order(&self, zone: ZoneId, guest: RingPlace) -> impl Iterator<Item = Standing> {
        let hosts = &self.zones[zone.0 as usize];
        let levels = iter::successors(hosts.first(), |level| {
            let next = level.demerit.checked_add(1)?;
            hosts.range(Standing::least(next, RingPlace(0))..).next()
        });
        levels.flat_map(move |level| {
            let start = Standing::least(level.demerit, guest);
            let ahead = hosts.range(start..=Standing::most(level.demerit));
            ahead.chain(hosts.range(Standing::least(level.demerit, RingPlace(0))..start)).copied()
        })
    }
}

fn standing(id: SlotId, slot: &Slot, needs: &Needs) -> Option<Standing> {
    let candidate = slot.candidate()?;
    let inventory = candidate.host.inventory.as_ref()?;
    if !filter::suits(&candidate, needs) {
        return None;
    }
    let demand = needs.demand.with_overhead(inventory.overhead);
    let (_, left) = balance(&candidate.free, &demand, &inventory.capacity);
    let image_there = needs.image.as_ref().is_some_and(|image| inventory.images.contains(image));
    let points = left + if image_there { IMAGE_POINTS } else { 0 };
    Some(Standing { demerit: demerit(points), place: slot.place, slot: id })
}
