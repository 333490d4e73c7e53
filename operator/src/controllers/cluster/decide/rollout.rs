//! Guests that are too many, and guests that are not as the manifest has them.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use super::{
    super::{
        change::{Change, keeps_data},
        health::{is_leaving, waits_for},
        owner::is_owned,
        status::Progress,
    },
    Action, Builder,
    slot::{Slot, State, why_not_ready},
};
use crate::objects::{GuestRole, ResourceExt as _};

/// On Clusters: its value is the generation whose change may cost masters their data disks.
pub const DISCARD_MASTER_DATA: &str = "goliath.dev/discard-master-data";

/// Why a guest is made again that never was where it should be: there is nothing to lose.
pub(super) const HOST: &str = "host";

impl Builder<'_> {
    /// Guests that no place is for. Workers go at once; masters one by one, while the others serve, since etcd wants a
    /// majority.
    pub(super) fn remove_surplus(&mut self, slots: &[Slot<'_>]) {
        let wanted: HashSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        let mut surplus: Vec<_> = self
            .view
            .guests
            .iter()
            .filter(|guest| is_owned(self.view.cluster, &guest.metadata))
            .filter(|guest| !wanted.contains(guest.metadata.name.as_deref().unwrap_or_default()))
            .collect();
        surplus.sort_by_key(|guest| (guest.spec.pool.clone(), Reverse(guest.spec.index)));
        let (masters, workers): (Vec<_>, Vec<_>) =
            surplus.into_iter().partition(|guest| guest.spec.role == GuestRole::Master);
        for guest in workers.into_iter().filter(|guest| !is_leaving(guest)) {
            self.actions.push(Action::DeleteGuest(Arc::clone(guest)));
        }
        if let Some(highest) = masters.iter().find(|guest| !is_leaving(guest)) {
            let busy = masters.iter().find(|guest| is_leaving(guest)).map(|guest| waits_for(guest));
            let unready = slots.iter().filter(|slot| self.is_master(slot)).find(|slot| !slot.is_serving());
            match busy.or_else(|| unready.map(why_not_ready)) {
                None => self.actions.push(Action::DeleteGuest(Arc::clone(highest))),
                Some(reason) => {
                    let message = format!(
                        "{} is one too many, and stays until the others are ready: {reason}",
                        highest.name_any()
                    );
                    self.waits.push(Progress::step("ScalingDown", message));
                }
            }
        }
    }

    /// Guests that are not as the manifest has them.
    ///
    /// Those that were seen not to serve follow at once: nothing is lost by it, and a manifest that broke them can be
    /// mended. One that serves follows when every other one does, the highest index first. Masters go before workers.
    pub(super) fn update(&mut self, slots: &[Slot<'_>]) {
        for slot in slots {
            if let State::Filled(_, Change::Live(guest)) = &slot.state {
                self.actions.push(Action::UpdateGuest(guest.clone()));
            }
        }
        let disrupted = |slot: &&Slot<'_>| slot.disruption().is_some();
        let masters: Vec<_> = slots.iter().filter(|slot| self.is_master(slot)).filter(disrupted).collect();
        let tier = if masters.is_empty() { slots.iter().filter(disrupted).collect() } else { masters };
        let (held, tier): (Vec<&Slot<'_>>, Vec<_>) = tier.into_iter().partition(|slot| self.is_held(slot));
        let down: Vec<_> = tier.iter().filter(|slot| slot.is_down()).collect();
        if !down.is_empty() {
            for slot in down {
                self.disrupt(slot);
            }
        } else if let Some(next) = next_to_disrupt(&tier) {
            match slots.iter().find(|slot| slot.name != next.name && !slot.is_at_rest()) {
                None => self.disrupt(next),
                Some(busy) => {
                    let fields = next.disruption().unwrap_or_default().join(", ");
                    let reason = why_not_ready(busy);
                    let message =
                        format!("{} is next to follow ({fields}), when all others are ready: {reason}", next.name);
                    self.waits.push(Progress::step("RollingOut", message));
                }
            }
        } else if let Some(silent) = tier.first() {
            let message = format!("{} follows when it is seen again: {}", silent.name, why_not_ready(silent));
            self.waits.push(Progress::step("RollingOut", message));
        }
        if let Some(slot) = held.first() {
            let generation = self.view.cluster.metadata.generation.unwrap_or_default();
            let fields = slot.disruption().unwrap_or_default().join(", ");
            let message = format!(
                "{} would have to be replaced ({fields}), and its data disks with it: undo the change, or allow it by the \
                 annotation {DISCARD_MASTER_DATA}={generation} on the cluster",
                slot.name
            );
            self.waits.push(Progress::fault("DataWouldBeLost", message));
        }
    }

    /// A master's data disk is the cluster's memory: what a member of etcd knew does not come back with its name.
    fn is_held(&self, slot: &Slot<'_>) -> bool {
        let State::Filled(guest, Change::Replace(fields)) = &slot.state else { return false };
        let metadata = &self.view.cluster.metadata;
        let allowed = metadata.annotations.as_ref().and_then(|annotations| annotations.get(DISCARD_MASTER_DATA));
        let allowed =
            allowed.zip(metadata.generation).is_some_and(|(text, generation)| *text == generation.to_string());
        self.is_master(slot) && keeps_data(guest) && *fields != [HOST] && !allowed
    }

    fn disrupt(&mut self, slot: &Slot<'_>) {
        match &slot.state {
            State::Filled(_, Change::Restart(guest, _)) => self.actions.push(Action::UpdateGuest(guest.clone())),
            State::Filled(guest, Change::Replace(_)) => {
                let address = guest.spec.network.as_ref().map(|interface| interface.ipv4_address);
                self.reserved.extend(slot.name.parse().ok().zip(address));
                self.actions.push(Action::DeleteGuest(Arc::clone(guest)));
            }
            _ => {}
        }
    }
}

/// Of those that serve: one whose agent did not take the last change up, since this one may be its remedy; then the
/// first group's highest index.
fn next_to_disrupt<'s, 'a>(tier: &[&'s Slot<'a>]) -> Option<&'s Slot<'a>> {
    let serving = tier.iter().copied().filter(|slot| slot.is_serving());
    serving.max_by_key(|slot| (!slot.is_at_rest(), Reverse(slot.group), slot.index))
}
