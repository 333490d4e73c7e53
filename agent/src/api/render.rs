//! Domain types into replies: the counterpart of [`super::parse`].

mod certificate;
mod guest;
mod host;
mod image;
mod network;

use std::time::Duration;

use goliath_proto::agent::v1 as pb;
use jiff::Timestamp;

pub(super) use certificate::certificate;
pub(super) use guest::{guest, guest_status, without_documents};
pub(super) use host::{accelerator, check};
pub(super) use image::{image, progress};
pub(super) use network::network;

use crate::observed::{ConditionStatus, Conditions};

fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    // jiff counts both parts away from zero, protocol buffers count nanoseconds upwards.
    let nanos = time.subsec_nanosecond();
    let (seconds, nanos) =
        if nanos < 0 { (time.as_second() - 1, nanos + 1_000_000_000) } else { (time.as_second(), nanos) };
    prost_types::Timestamp { seconds, nanos }
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

pub(super) fn conditions(conditions: &Conditions) -> Vec<pb::Condition> {
    conditions
        .iter()
        .map(|(name, condition)| pb::Condition {
            r#type: name.to_owned(),
            status: match condition.status {
                ConditionStatus::True => pb::ConditionStatus::True,
                ConditionStatus::False => pb::ConditionStatus::False,
                ConditionStatus::Unknown => pb::ConditionStatus::Unknown,
            }
            .into(),
            reason: condition.reason.to_owned(),
            message: condition.message.clone(),
            last_transition_time: Some(timestamp(condition.since)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_nanoseconds_upwards() {
        let time = Timestamp::new(-1, -250_000_000).unwrap();
        assert_eq!(timestamp(time), prost_types::Timestamp { seconds: -2, nanos: 750_000_000 });
        let time = Timestamp::new(5, 250_000_000).unwrap();
        assert_eq!(timestamp(time), prost_types::Timestamp { seconds: 5, nanos: 250_000_000 });
    }
}
