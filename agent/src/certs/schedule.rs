//! When a certificate is renewed: pure decisions.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last.
    pub not_after: Timestamp,
}

impl Lifetime {
    /// How long it is good in all; never negative.
    pub fn length(&self) -> SignedDuration {
        self.not_after.duration_since(self.not_before).max(SignedDuration::ZERO)
    }

    /// The moment at which this part of its life is over.
    fn moment(&self, part: f64) -> Timestamp {
        let length = self.length();
        let offset = SignedDuration::try_from_secs_f64(length.as_secs_f64() * part).unwrap_or(length);
        self.not_before.checked_add(offset.min(length)).unwrap_or(self.not_after)
    }
}

/// How near the end of a life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Before three quarters.
    None,
    /// Three quarters are over: a renewal should have worked by now.
    Late,
    /// Nine tenths are over.
    Urgent,
    /// It is over.
    Expired,
}

impl Urgency {
    /// How near the end of a life is.
    pub fn of(life: Lifetime, now: Timestamp) -> Self {
        if now >= life.not_after {
            Self::Expired
        } else if now >= life.moment(0.9) {
            Self::Urgent
        } else if now >= life.moment(0.75) {
            Self::Late
        } else {
            Self::None
        }
    }

    /// When it changes next; none once it is over.
    pub fn next_change(life: Lifetime, now: Timestamp) -> Option<Timestamp> {
        [life.moment(0.75), life.moment(0.9), life.not_after].into_iter().find(|moment| *moment > now)
    }
}

/// How much earlier than two thirds a renewal may be, as a part of the life: certificates that were issued together are
/// not renewed together.
const SPREAD: f64 = 0.05;
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_mins(5);
/// A guest that waits for its first certificate waits for a person too.
const LONGEST_FIRST_DELAY: Duration = Duration::from_mins(1);

/// When a certificate is to be renewed: at about two thirds of its life, or, after `failures` tries that did not work,
/// after a growing delay from `now` on. `jitter` is 0 to 1, drawn once for a certificate or a failure.
pub fn next_renewal(life: Lifetime, now: Timestamp, failures: u32, jitter: f64) -> Timestamp {
    let due = life.moment(2.0 / 3.0 - SPREAD * jitter.clamp(0.0, 1.0));
    if failures == 0 {
        return due;
    }
    // A short life has no time for long delays.
    let longest = life.length().unsigned_abs().div_f64(20.0).clamp(FIRST_DELAY, LONGEST_DELAY);
    after(now, delay(failures, longest, jitter)).max(due)
}

/// When a certificate that is not there at all is tried again.
pub fn next_attempt(now: Timestamp, failures: u32, jitter: f64) -> Timestamp {
    if failures == 0 { now } else { after(now, delay(failures, LONGEST_FIRST_DELAY, jitter)) }
}

/// 1 s, 2 s, 4 s … up to `longest`, less up to a third.
fn delay(failures: u32, longest: Duration, jitter: f64) -> Duration {
    let full = FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 3.0)
}

fn after(now: Timestamp, delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay).ok().and_then(|delay| now.checked_add(delay).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn life(from: i64, length: i64) -> Lifetime {
        Lifetime { not_before: at(from), not_after: at(from + length) }
    }

    #[test]
    fn a_month_is_renewed_after_some_twenty_days() {
        let month = life(0, 30 * 86_400);
        assert_eq!(next_renewal(month, at(0), 0, 0.0), at(20 * 86_400));
        assert_eq!(next_renewal(month, at(0), 0, 1.0), at(20 * 86_400 - 129_600));
    }

    #[test]
    fn urgency_grows_at_three_quarters_and_nine_tenths() {
        let hundred = life(0, 100);
        let table = [
            (-5, Urgency::None),
            (74, Urgency::None),
            (75, Urgency::Late),
            (89, Urgency::Late),
            (90, Urgency::Urgent),
            (100, Urgency::Expired),
        ];
        for (second, urgency) in table {
            assert_eq!(Urgency::of(hundred, at(second)), urgency, "at {second}");
        }
        assert_eq!(Urgency::next_change(hundred, at(10)), Some(at(75)));
        assert_eq!(Urgency::next_change(hundred, at(75)), Some(at(90)));
        assert_eq!(Urgency::next_change(hundred, at(100)), None);
    }

    #[test]
    fn delays_double_from_a_second_to_five_minutes() {
        let long = life(0, 365 * 86_400);
        let now = at(300 * 86_400);
        let delays: Vec<i64> =
            (1..=11).map(|n| next_renewal(long, now, n, 0.0).duration_since(now).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    proptest! {
        #[test]
        fn a_renewal_is_planned_within_the_middle_of_the_life(
            from in 0i64..4_000_000_000, length in 60i64..400_000_000, jitter in 0.0f64..=1.0,
        ) {
            let life = life(from, length);
            let due = next_renewal(life, at(from), 0, jitter);
            prop_assert!(due >= life.moment(0.6) && due <= life.moment(0.67));
        }

        #[test]
        fn after_a_failure_the_next_try_is_ahead_and_never_far(
            from in 0i64..4_000_000_000, length in 0i64..400_000_000, age in 0i64..500_000_000,
            failures in 1u32.., jitter in 0.0f64..=1.0,
        ) {
            let life = life(from, length);
            let now = at(from + age);
            let next = next_renewal(life, now, failures, jitter);
            prop_assert!(next > now);
            prop_assert!(next <= after(now, LONGEST_DELAY).max(life.moment(2.0 / 3.0)));
            let first = next_attempt(now, failures, jitter);
            prop_assert!(first > now && first <= after(now, LONGEST_FIRST_DELAY));
        }

        #[test]
        fn a_life_has_room_for_many_tries(length in 600i64..400_000_000, failures in 1u32.., jitter in 0.0f64..=1.0) {
            let life = life(0, length);
            let now = life.moment(0.7);
            let wait = next_renewal(life, now, failures, jitter).duration_since(now);
            prop_assert!(wait * 5 < life.not_after.duration_since(now));
        }

        #[test]
        fn no_input_panics(
            from in any::<i32>(), to in any::<i32>(), now in any::<i32>(), failures in any::<u32>(), jitter in any::<f64>(),
        ) {
            let life = Lifetime { not_before: at(from.into()), not_after: at(to.into()) };
            next_renewal(life, at(now.into()), failures, jitter);
            next_attempt(at(now.into()), failures, jitter);
            Urgency::of(life, at(now.into()));
        }
    }
}
