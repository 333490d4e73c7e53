//! Places for guests, and what is there.

use std::sync::Arc;

use super::super::{
    change::Change,
    health::{Health, health, is_refused, is_settled, waits_for},
};
use crate::objects::{Guest, GuestIndex};

/// A place for a guest.
pub(in crate::controllers::cluster) struct Slot<'a> {
    pub(in crate::controllers::cluster) group: usize,
    pub(in crate::controllers::cluster) index: GuestIndex,
    /// Of the object.
    pub(in crate::controllers::cluster) name: String,
    pub(in crate::controllers::cluster) state: State<'a>,
}

/// What is at a place.
pub(in crate::controllers::cluster) enum State<'a> {
    /// Nothing.
    Empty,
    /// A guest that goes, or one that is not the cluster's.
    Blocked(&'a Arc<Guest>),
    /// The guest, and what it lacks.
    Filled(&'a Arc<Guest>, Change),
}

impl<'a> Slot<'a> {
    pub(in crate::controllers::cluster) fn guest(&self) -> Option<&'a Arc<Guest>> {
        match &self.state {
            State::Empty => None,
            State::Blocked(guest) | State::Filled(guest, _) => Some(guest),
        }
    }

    pub(in crate::controllers::cluster) fn is_serving(&self) -> bool {
        matches!(&self.state, State::Filled(guest, _) if health(guest) == Health::Serving)
    }

    /// Serves, and by the latest of what it was told.
    pub(in crate::controllers::cluster) fn is_at_rest(&self) -> bool {
        matches!(&self.state, State::Filled(guest, _) if health(guest) == Health::Serving && is_settled(guest))
    }

    /// Why a change takes the guest away for a while.
    pub(super) fn disruption(&self) -> Option<&[&'static str]> {
        match &self.state {
            State::Filled(_, Change::Restart(_, fields) | Change::Replace(fields)) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(&self.state, State::Filled(guest, _) if health(guest) == Health::Down)
    }
}

/// Why a place has no guest that serves as it should.
pub(in crate::controllers::cluster) fn why_not_ready(slot: &Slot<'_>) -> String {
    match &slot.state {
        State::Empty => format!("{} is not there", slot.name),
        State::Filled(guest, _) if slot.is_serving() && !is_refused(guest) => {
            format!("{} has not taken the last change up", slot.name)
        }
        State::Blocked(guest) | State::Filled(guest, _) => waits_for(guest),
    }
}
