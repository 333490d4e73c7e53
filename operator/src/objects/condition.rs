//! Conditions: what was seen of an object, as `metav1.Condition` has it on the wire.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It was seen to hold.
    True,
    /// It was seen not to hold.
    False,
    /// It was not observed yet, or cannot be now.
    Unknown,
}

/// One observed fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// What it is about, in CamelCase: `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][A-Za-z0-9]*$"))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word in CamelCase for programs: `VaultSealed`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// A sentence for people: what was seen and, where it is a fault, what to do.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Time,
    /// The generation of the object that it was seen of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The conditions of an object, one of a type, in the order in which they were first set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
pub struct Conditions(#[schemars(length(max = 32))] Vec<Condition>);

impl Conditions {
    /// The condition of this type, if it was ever set.
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether it was seen to hold. One that was never set does not.
    pub fn is_true(&self, type_: &str) -> bool {
        self.get(type_).is_some_and(|condition| condition.status == ConditionStatus::True)
    }

    /// Sets one; its time of transition stays unless the status changed. Tells whether anything changed.
    pub fn set(
        &mut self,
        type_: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
        observed_generation: Option<i64>,
        now: Timestamp,
    ) -> bool {
        let known = self.0.iter_mut().find(|condition| condition.type_ == type_);
        let last_transition_time = match &known {
            Some(condition) if condition.status == status => condition.last_transition_time.clone(),
            _ => whole_seconds(now),
        };
        let condition = Condition {
            type_: type_.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time,
            observed_generation,
        };
        match known {
            Some(known) if *known == condition => false,
            Some(known) => {
                *known = condition;
                true
            }
            None => {
                self.0.push(condition);
                true
            }
        }
    }

    /// Takes one away; tells whether it was there.
    pub fn remove(&mut self, type_: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|condition| condition.type_ != type_);
        self.0.len() < before
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Condition> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Conditions {
    type Item = &'a Condition;
    type IntoIter = std::slice::Iter<'a, Condition>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// For one of a type only, the last; so that what an agent sent twice is not refused.
impl FromIterator<Condition> for Conditions {
    fn from_iter<T: IntoIterator<Item = Condition>>(conditions: T) -> Self {
        let mut all = Self::default();
        for condition in conditions {
            all.remove(&condition.type_);
            all.0.push(condition);
        }
        all
    }
}

/// Objects carry whole seconds, so what is written must have no more: it would differ from what is read back.
pub fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millisecond(second * 1000 + 123).unwrap()
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut conditions = Conditions::default();
        assert!(conditions.set("Ready", ConditionStatus::False, "Pulling", "10 %", Some(1), at(1)));
        assert!(!conditions.set("Ready", ConditionStatus::False, "Pulling", "10 %", Some(1), at(2)));
        assert!(conditions.set("Ready", ConditionStatus::False, "Pulling", "20 %", Some(1), at(3)));
        assert_eq!(conditions.get("Ready").unwrap().last_transition_time.0, Timestamp::from_second(1).unwrap());
        assert!(conditions.set("Ready", ConditionStatus::True, "Running", "", Some(1), at(4)));
        assert_eq!(conditions.get("Ready").unwrap().last_transition_time.0, Timestamp::from_second(4).unwrap());
        assert!(conditions.is_true("Ready"));
        assert_eq!(conditions.iter().count(), 1);
    }

    #[test]
    fn what_was_never_seen_is_not_true() {
        assert!(!Conditions::default().is_true("Ready"));
    }
}
