//! Objects as agents' messages, and what agents saw as statuses of objects.

mod guest;
mod host;
mod network;
mod status;

use goliath_proto::agent::v1 as pb;
use jiff::Timestamp;

pub use guest::{GUEST_LABEL, GuestIdentity, guest_spec};
pub use host::host_status;
pub use network::{Member, network_spec};
pub use status::guest_status;

use crate::objects::{Accelerator, Capacity, Condition, ConditionStatus, Conditions, Time, whole_seconds};

/// Why an object cannot be told to an agent: it was written by hand, or by another version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Untellable {
    /// Of the object.
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl Untellable {
    fn new(field: &'static str, problem: &impl ToString) -> Self {
        Self { field, problem: problem.to_string() }
    }
}

/// None for a time that no calendar has.
fn time(timestamp: Option<&prost_types::Timestamp>) -> Option<Time> {
    let timestamp = timestamp?;
    Timestamp::new(timestamp.seconds, timestamp.nanos).ok().map(whole_seconds)
}

/// Conditions as an agent tells them. Where it gives no reason one must stand: objects demand it.
fn conditions(told: &[pb::Condition]) -> Conditions {
    let condition = |condition: &pb::Condition| Condition {
        type_: condition.r#type.clone(),
        status: match condition.status() {
            pb::ConditionStatus::True => ConditionStatus::True,
            pb::ConditionStatus::False => ConditionStatus::False,
            pb::ConditionStatus::Unspecified | pb::ConditionStatus::Unknown => ConditionStatus::Unknown,
        },
        reason: if condition.reason.is_empty() { "Unspecified".to_owned() } else { condition.reason.clone() },
        message: condition.message.clone(),
        last_transition_time: time(condition.last_transition_time.as_ref()).unwrap_or(Time(Timestamp::UNIX_EPOCH)),
        observed_generation: None,
    };
    told.iter().filter(|told| !told.r#type.is_empty()).map(condition).collect()
}

fn accelerator(told: pb::Accelerator) -> Option<Accelerator> {
    match told {
        pb::Accelerator::Unspecified => None,
        pb::Accelerator::Auto => Some(Accelerator::Auto),
        pb::Accelerator::Kvm => Some(Accelerator::Kvm),
        pb::Accelerator::Tcg => Some(Accelerator::Tcg),
    }
}

fn capacity(told: &pb::Capacity) -> Option<Capacity> {
    let (memory, disk) = (told.memory_bytes.try_into().ok()?, told.disk_bytes.try_into().ok()?);
    Some(Capacity { vcpus: told.vcpus, memory, disk })
}

/// Empty texts and zeros stand for nothing in messages.
fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn counted(generation: u64) -> Option<i64> {
    i64::try_from(generation).ok().filter(|generation| *generation > 0)
}

#[cfg(test)]
mod tests;
