//! Guests on a host that no object says should be there. Pure.
//!
//! A guest that runs is somebody's work: it is deleted only where it is certain that nobody wants it there. After a
//! restart of the operator, or on a restored store, that is often not certain: then it is left alone and told of.

use std::collections::{HashSet, VecDeque};

use goliath_proto::values::GuestUid;

use crate::{
    agents::HeldGuest,
    objects::{Guest, ResourceExt as _},
};

/// What a guest is to the host that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its object says that it is here.
    Ours,
    /// It is certain that it shall not be here; why.
    Unwanted(String),
    /// Nobody knows; what is known.
    Stranger(String),
}

/// What a guest that an agent has is to its host. `object` has its uid; `was_seen_to_go`: there was one, and this operator
/// saw it removed.
pub(super) fn standing(
    host: &str,
    uid: GuestUid,
    held: &HeldGuest,
    object: Option<&Guest>,
    was_seen_to_go: bool,
) -> Standing {
    let who = || match &held.name {
        Some(name) => format!("{name} ({uid})"),
        None => format!("{uid} of cluster {}", held.cluster),
    };
    match object {
        Some(object) => match object.spec.host().map(AsRef::as_ref) {
            Some(bound) if bound == host => Standing::Ours,
            // It ran here, the host was forgotten, and its place is elsewhere since.
            Some(bound) => Standing::Unwanted(format!("{} is bound to {bound}", object.name_any())),
            None => Standing::Stranger(format!("{} waits for a host", who())),
        },
        None if was_seen_to_go => Standing::Unwanted(format!("the Guest of {} was deleted", who())),
        None => Standing::Stranger(format!("{} has no Guest", who())),
    }
}

/// Guests whose objects were seen to go, the last of them.
#[derive(Debug, Default)]
pub(super) struct Departed {
    order: VecDeque<GuestUid>,
    uids: HashSet<GuestUid>,
}

impl Departed {
    const MOST: usize = 65_536;

    pub(super) fn note(&mut self, uid: GuestUid) {
        if self.uids.insert(uid) {
            self.order.push_back(uid);
        }
        if self.order.len() > Self::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, uid: GuestUid) -> bool {
        self.uids.contains(&uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::tests::guest;

    #[test]
    fn only_what_nobody_can_want_is_deleted() {
        let uid = "11111111-2222-3333-4444-555555555555".parse().unwrap();
        let held = HeldGuest {
            revision: 1,
            generation: 2,
            name: Some("acme.default-0".to_owned()),
            cluster: "acme".to_owned(),
            status: goliath_proto::agent::v1::GuestStatus::default(),
        };
        let here = guest("acme.default-0", Some("host-a"));
        let elsewhere = guest("acme.default-0", Some("host-b"));
        let nowhere = guest("acme.default-0", None);
        let judge = |object, was_seen| standing("host-a", uid, &held, object, was_seen);
        assert_eq!(judge(Some(&here), false), Standing::Ours);
        assert!(matches!(judge(Some(&elsewhere), false), Standing::Unwanted(_)));
        assert!(matches!(judge(Some(&nowhere), false), Standing::Stranger(_)));
        assert!(matches!(judge(None, true), Standing::Unwanted(_)));
        let Standing::Stranger(told) = judge(None, false) else { panic!("nobody knows of it") };
        assert_eq!(told, "acme.default-0 (11111111-2222-3333-4444-555555555555) has no Guest");
    }
}
