use std::collections::BTreeMap;

use jiff::Timestamp;

/// Whether something was seen to be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It was seen to be so.
    True,
    /// It was seen not to be so.
    False,
    /// It was not looked at yet, or cannot be seen now.
    Unknown,
}

/// One observed fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is so.
    pub status: ConditionStatus,
    /// One word in CamelCase, for programs.
    pub reason: &'static str,
    /// A sentence for people: what was seen and, when it is a fault, what to do.
    pub message: String,
    /// When `status` last changed.
    pub since: Timestamp,
}

/// Observed facts by type, such as `ImageReady`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions(BTreeMap<&'static str, Condition>);

impl Conditions {
    /// Sets a condition; its time stays while its status does.
    pub fn set(
        &mut self,
        condition: &'static str,
        status: ConditionStatus,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let since = match self.0.get(condition) {
            Some(before) if before.status == status => before.since,
            _ => Timestamp::now(),
        };
        self.0.insert(condition, Condition { status, reason, message: message.into(), since });
    }

    /// Removes a condition that does not apply any more.
    pub fn clear(&mut self, condition: &'static str) {
        self.0.remove(condition);
    }

    /// A condition, if it was looked at.
    pub fn get(&self, condition: &str) -> Option<&Condition> {
        self.0.get(condition)
    }

    /// Whether a condition was seen to be so.
    pub fn is_true(&self, condition: &str) -> bool {
        self.get(condition).is_some_and(|condition| condition.status == ConditionStatus::True)
    }

    /// All of them, by type.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Condition)> {
        self.0.iter().map(|(condition, fact)| (*condition, fact))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change_of_status() {
        let mut conditions = Conditions::default();
        conditions.set("Running", ConditionStatus::False, "Starting", "");
        let first = conditions.get("Running").unwrap().since;
        conditions.set("Running", ConditionStatus::False, "StillStarting", "");
        assert_eq!(conditions.get("Running").unwrap().since, first);
        conditions.set("Running", ConditionStatus::True, "Running", "");
        assert!(conditions.get("Running").unwrap().since >= first);
        assert!(conditions.is_true("Running"));
    }
}
