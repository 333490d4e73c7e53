//! What to do for a guest. Pure.

use crate::{agents::HeldGuest, controllers::finalizer, objects::Guest, runtime::write::has_finalizer};

/// What can be known of a guest's host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach<'a> {
    /// No host was chosen: no agent ever heard of it, or its host was forgotten.
    Unbound,
    /// Its agent cannot be asked.
    Silent,
    /// It can, and has this; none: nothing.
    Connected(Option<&'a HeldGuest>),
}

impl<'a> Reach<'a> {
    /// What the agent has, where it can be asked and has it.
    pub(super) fn held(self) -> Option<&'a HeldGuest> {
        match self {
            Self::Unbound | Self::Silent => None,
            Self::Connected(held) => held,
        }
    }

    /// Whether the agent can be asked.
    pub(super) fn is_connected(self) -> bool {
        matches!(self, Self::Connected(_))
    }
}

/// What to do for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is as it shall be, or nobody can be asked.
    Nothing,
    /// No agent may hear of it before this is written: else it could be forgotten while it runs.
    AddFinalizer,
    /// Its agent does not have this generation.
    Apply,
    /// Its agent shall delete it, and say when it is gone.
    Delete,
    /// It is nowhere.
    LetGo,
}

/// What to do, in this order:
///
/// | object    | bound | agent     | it has           | step                            |
/// |-----------|-------|-----------|------------------|---------------------------------|
/// | is wanted | no    |           |                  | nothing: placement's turn       |
/// | is wanted | yes   | silent    |                  | nothing: it runs on             |
/// | is wanted | yes   | connected | whatever         | add the finalizer, if it lacks  |
/// | is wanted | yes   | connected | nothing          | apply                           |
/// | is wanted | yes   | connected | an older one     | apply                           |
/// | is wanted | yes   | connected | this or a newer  | nothing                         |
/// | is wanted | yes   | connected | one that goes    | nothing, until it is gone       |
/// | goes      | no    |           |                  | let go                          |
/// | goes      | yes   | silent    |                  | nothing: only it can say        |
/// | goes      | yes   | connected | whatever         | delete; let go when it is gone  |
///
/// That an agent was not heard to have a guest is no proof that it has none, so a deletion always asks.
pub(super) fn decide(guest: &Guest, reach: Reach<'_>) -> Step {
    let generation = guest.metadata.generation.and_then(|generation| u64::try_from(generation).ok());
    let goes = guest.metadata.deletion_timestamp.is_some();
    let kept = has_finalizer(guest, finalizer::GUEST);
    match reach {
        Reach::Unbound if goes && kept => Step::LetGo,
        Reach::Connected(_) if goes && kept => Step::Delete,
        Reach::Silent | Reach::Unbound | Reach::Connected(_) if goes => Step::Nothing,
        Reach::Connected(_) if !kept => Step::AddFinalizer,
        Reach::Connected(None) => Step::Apply,
        Reach::Connected(Some(held)) if !held.is_deleting() && Some(held.generation) < generation => Step::Apply,
        Reach::Silent | Reach::Unbound | Reach::Connected(Some(_)) => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use goliath_proto::agent::v1 as pb;

    use super::*;
    use crate::{
        controllers::tests::guest,
        objects::{Time, whole_seconds},
    };

    fn held(generation: u64, deleting: bool) -> HeldGuest {
        let condition = pb::Condition {
            r#type: "Deleting".to_owned(),
            status: pb::ConditionStatus::True.into(),
            ..pb::Condition::default()
        };
        HeldGuest {
            revision: 1,
            generation,
            name: None,
            cluster: "acme".to_owned(),
            status: pb::GuestStatus {
                conditions: if deleting { vec![condition] } else { Vec::new() },
                ..pb::GuestStatus::default()
            },
        }
    }

    #[test]
    fn the_table() {
        // As it is written, but for the first column: bound, generation 2, with its finalizer.
        let wanted = guest("acme.default-0", Some("host-a"));
        let mut bare = wanted.clone();
        bare.metadata.finalizers = None;
        let mut goes = wanted.clone();
        let now: Time = whole_seconds(jiff::Timestamp::UNIX_EPOCH);
        goes.metadata.deletion_timestamp = Some(now);
        let mut others = goes.clone();
        others.metadata.finalizers = Some(vec!["example.com/other".to_owned()]);

        let (older, this, newer, going) = (held(1, false), held(2, false), held(3, false), held(2, true));
        let rows = [
            (&wanted, Reach::Unbound, Step::Nothing),
            (&wanted, Reach::Silent, Step::Nothing),
            (&bare, Reach::Silent, Step::Nothing),
            (&bare, Reach::Connected(None), Step::AddFinalizer),
            (&bare, Reach::Connected(Some(&older)), Step::AddFinalizer),
            (&wanted, Reach::Connected(None), Step::Apply),
            (&wanted, Reach::Connected(Some(&older)), Step::Apply),
            (&wanted, Reach::Connected(Some(&this)), Step::Nothing),
            (&wanted, Reach::Connected(Some(&newer)), Step::Nothing),
            (&wanted, Reach::Connected(Some(&going)), Step::Nothing),
            (&goes, Reach::Unbound, Step::LetGo),
            (&goes, Reach::Silent, Step::Nothing),
            (&goes, Reach::Connected(None), Step::Delete),
            (&goes, Reach::Connected(Some(&this)), Step::Delete),
            (&goes, Reach::Connected(Some(&going)), Step::Delete),
            (&others, Reach::Unbound, Step::Nothing),
            (&others, Reach::Connected(Some(&this)), Step::Nothing),
        ];
        for (row, (guest, reach, step)) in rows.into_iter().enumerate() {
            assert_eq!(decide(guest, reach), step, "row {row}");
        }
    }
}
