//! What somebody else changed. Pure.

use crate::{
    errors::and_more,
    network::{Change, State},
};

/// The changes that put right what others did: those needed now, without those that we have to make anyway because
/// something else is wanted, or a guest went.
pub(super) fn drift(believed: &State, found: &State, desired: &State) -> Vec<Change> {
    let own = believed.changes_to(desired);
    found.changes_to(desired).into_iter().filter(|change| !own.contains(change)).collect()
}

/// How many changes a message names.
const NAMED: usize = 3;

/// The changes in words, the first of them.
pub(super) fn in_words(changes: &[String]) -> String {
    let named = changes.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    and_more(named, changes.len().saturating_sub(NAMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_repair_names_its_first_changes() {
        let changes: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        assert_eq!(in_words(&changes[..1]), "a");
        assert_eq!(in_words(&changes[..3]), "a, b, c");
        assert_eq!(in_words(&changes), "a, b, c (and 2 more)");
    }
}
