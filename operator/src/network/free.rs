//! Which numbers of a range are free, in logarithmic time.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// Free numbers, as ranges that do not touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FreeNumbers {
    all: RangeInclusive<u32>,
    /// From the first number of each free range to its last.
    ranges: BTreeMap<u32, u32>,
}

impl FreeNumbers {
    /// All of them are free; the range is not empty.
    pub(super) fn new(all: RangeInclusive<u32>) -> Self {
        let ranges = BTreeMap::from([(*all.start(), *all.end())]);
        Self { all, ranges }
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.ranges.keys().next().copied()
    }

    pub(super) fn last(&self) -> Option<u32> {
        self.ranges.values().next_back().copied()
    }

    /// The first that is free from `start` on, and around to it.
    pub(super) fn next_from(&self, start: u32) -> Option<u32> {
        match self.range_of(start) {
            Some(_) => Some(start),
            None => self.ranges.range(start..).next().map(|(first, _)| *first).or_else(|| self.first()),
        }
    }

    /// Whether the number was free. It is not any more.
    pub(super) fn take(&mut self, number: u32) -> bool {
        let Some((first, last)) = self.range_of(number) else { return false };
        self.ranges.remove(&first);
        if first < number {
            self.ranges.insert(first, number - 1);
        }
        if number < last {
            self.ranges.insert(number + 1, last);
        }
        true
    }

    /// The number is free from now on; one outside of the range is ignored.
    pub(super) fn give_back(&mut self, number: u32) {
        if !self.all.contains(&number) || self.range_of(number).is_some() {
            return;
        }
        let before = number.checked_sub(1).and_then(|before| self.range_of(before));
        let after = number.checked_add(1).and_then(|after| self.range_of(after));
        let first = before.map_or(number, |(first, _)| first);
        let last = after.map_or(number, |(_, last)| last);
        if let Some((after, _)) = after {
            self.ranges.remove(&after);
        }
        self.ranges.insert(first, last);
    }

    fn range_of(&self, number: u32) -> Option<(u32, u32)> {
        let (first, last) = self.ranges.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn free_numbers_are_those_of_a_plain_set(
            steps in prop::collection::vec((any::<bool>(), 0_u32..20), 0..100), start in 0_u32..20,
        ) {
            let mut free = FreeNumbers::new(3..=16);
            let mut model: BTreeSet<u32> = (3..=16).collect();
            for (take, number) in steps {
                if take {
                    prop_assert_eq!(free.take(number), model.remove(&number));
                } else {
                    free.give_back(number);
                    if (3..=16).contains(&number) {
                        model.insert(number);
                    }
                }
                prop_assert_eq!(free.first(), model.first().copied());
                prop_assert_eq!(free.last(), model.last().copied());
                let next = model.range(start..).next().or(model.first()).copied();
                prop_assert_eq!(free.next_from(start), next);
            }
        }
    }

    #[test]
    fn the_ends_of_all_numbers_can_be_taken_and_given_back() {
        let mut free = FreeNumbers::new(0..=u32::MAX);
        assert!(free.take(0) && free.take(u32::MAX));
        free.give_back(0);
        free.give_back(u32::MAX);
        assert_eq!(free, FreeNumbers::new(0..=u32::MAX));
    }
}
