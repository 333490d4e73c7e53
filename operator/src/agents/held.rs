//! What one agent was heard to have, without the parts that nobody needs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use goliath_proto::{
    agent::v1::{self as pb, watch_guests_response::Kind},
    values::GuestUid,
};

use super::convert::GUEST_LABEL;

/// A guest as its agent told it.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldGuest {
    /// The agent's count of changes.
    pub revision: u64,
    /// Of the spec that it has.
    pub generation: u64,
    /// The name of the Guest that it was made of; none: no operator made it.
    pub name: Option<String>,
    /// Whose guest it is.
    pub cluster: String,
    /// What was seen of it.
    pub status: pb::GuestStatus,
}

impl HeldGuest {
    fn of(guest: pb::Guest) -> Option<(GuestUid, Self)> {
        let pb::Guest { spec, status, revision } = guest;
        let mut spec = spec?;
        let uid = spec.uid.parse().ok()?;
        let name = spec.labels.remove(GUEST_LABEL);
        let (generation, cluster, status) = (spec.generation, spec.cluster, status.unwrap_or_default());
        Some((uid, Self { revision, generation, name, cluster, status }))
    }

    /// Whether it was told to go.
    pub fn is_deleting(&self) -> bool {
        self.status
            .conditions
            .iter()
            .any(|condition| condition.r#type == "Deleting" && condition.status() == pb::ConditionStatus::True)
    }
}

/// All guests of one agent, up to a revision.
#[derive(Debug, Default)]
pub(super) struct HeldGuests {
    revision: u64,
    guests: HashMap<GuestUid, Arc<HeldGuest>>,
}

impl HeldGuests {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, uid: GuestUid) -> Option<Arc<HeldGuest>> {
        self.guests.get(&uid).cloned()
    }

    pub(super) fn all(&self) -> Vec<(GuestUid, Arc<HeldGuest>)> {
        self.guests.iter().map(|(uid, guest)| (*uid, Arc::clone(guest))).collect()
    }

    /// Takes over a list; tells which guests came, went or changed.
    pub(super) fn replace(&mut self, list: pb::ListGuestsResponse) -> Vec<GuestUid> {
        self.revision = list.revision;
        let listed: HashMap<_, _> =
            list.guests.into_iter().filter_map(HeldGuest::of).map(|(uid, guest)| (uid, Arc::new(guest))).collect();
        let before = std::mem::replace(&mut self.guests, listed);
        let uids: HashSet<_> = before.keys().chain(self.guests.keys()).copied().collect();
        uids.into_iter().filter(|uid| before.get(uid) != self.guests.get(uid)).collect()
    }

    /// Takes in an event of the watch.
    pub(super) fn saw(&mut self, event: pb::WatchGuestsResponse) -> Option<GuestUid> {
        self.revision = self.revision.max(event.revision);
        let kind = event.kind();
        let (uid, guest) = HeldGuest::of(event.guest?)?;
        match kind {
            Kind::Deleted => self.guests.remove(&uid).map(|_| uid),
            Kind::Added | Kind::Modified => {
                let guest = Arc::new(guest);
                let before = self.guests.insert(uid, Arc::clone(&guest));
                (before.as_ref() != Some(&guest)).then_some(uid)
            }
            Kind::Unspecified | Kind::Bookmark => None,
        }
    }

    /// Takes in what the agent answered to a question. What the watch told since counts more.
    pub(super) fn answered(&mut self, guest: pb::Guest) -> bool {
        let Some((uid, guest)) = HeldGuest::of(guest) else { return false };
        let is_newer =
            guest.revision > self.revision && self.guests.get(&uid).is_none_or(|known| known.revision < guest.revision);
        if is_newer {
            self.guests.insert(uid, Arc::new(guest));
        }
        is_newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "11111111-2222-3333-4444-555555555555";

    fn guest(generation: u64, revision: u64) -> pb::Guest {
        let spec = pb::GuestSpec { uid: UID.to_owned(), generation, ..pb::GuestSpec::default() };
        pb::Guest { spec: Some(spec), status: None, revision }
    }

    fn event(kind: Kind, guest: pb::Guest) -> pb::WatchGuestsResponse {
        let revision = guest.revision;
        pb::WatchGuestsResponse { kind: kind.into(), guest: Some(guest), revision }
    }

    #[test]
    fn an_answer_that_is_older_than_the_watch_brings_nothing_back() {
        let uid = UID.parse().unwrap();
        let mut held = HeldGuests::default();
        assert!(held.replace(pb::ListGuestsResponse { guests: Vec::new(), revision: 10 }).is_empty());
        assert!(held.answered(guest(1, 11)), "the watch is behind");
        assert_eq!(held.get(uid).unwrap().generation, 1);
        assert_eq!(held.saw(event(Kind::Added, guest(1, 11))), None, "it is known");
        assert_eq!(held.saw(event(Kind::Deleted, guest(1, 12))), Some(uid));
        assert!(!held.answered(guest(1, 11)), "it is gone since");
        assert_eq!((held.get(uid), held.revision()), (None, 12));
    }

    #[test]
    fn a_list_tells_what_differs_from_what_was_known() {
        let uid = UID.parse().unwrap();
        let mut held = HeldGuests::default();
        let list = |generation| pb::ListGuestsResponse { guests: vec![guest(generation, 5)], revision: 7 };
        assert_eq!(held.replace(list(1)), [uid]);
        assert!(held.replace(list(1)).is_empty());
        assert_eq!(held.replace(list(2)), [uid]);
        assert_eq!(held.replace(pb::ListGuestsResponse::default()), [uid]);
    }
}
