//! Many guests at once: after a start, or when room came up for those that wait.

use std::cmp::Reverse;

use goliath_proto::values::GuestUid;

use super::{
    choose::Decision,
    fleet::Fleet,
    guest::{Group, Guest},
    host::Resource,
};

/// What became of one guest of many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which guest.
    pub uid: GuestUid,
    /// What becomes of it.
    pub decision: Decision,
}

impl Fleet {
    /// Chooses for many guests and binds them: masters first, then the large before the small, which pack better. The
    /// order in which they are given does not matter. Outcomes are in the order of placing.
    pub fn place_all(&mut self, guests: &[Guest]) -> Vec<Outcome> {
        let mut order: Vec<&Guest> = guests.iter().collect();
        order.sort_by_cached_key(|guest| {
            let size = Resource::ALL.map(|kind| Reverse(guest.needs.demand.get(kind)));
            (guest.group != Group::Masters, size, guest.uid)
        });
        let place = |guest: &Guest| {
            let decision = self.choose(guest);
            if let Decision::Chosen(choice) = &decision {
                self.bind(guest, &choice.host);
            }
            Outcome { uid: guest.uid, decision }
        };
        order.into_iter().map(place).collect()
    }
}
