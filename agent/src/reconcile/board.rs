//! One guest's status while it is worked on: the task and the steps write on it, and every change is published at once.

use std::sync::{Mutex, PoisonError};

use crate::{
    observed::{ConditionStatus, GuestStatus, Observed},
    spec::GuestUid,
};

#[derive(Debug)]
pub(super) struct Board {
    uid: GuestUid,
    observed: Observed,
    status: Mutex<GuestStatus>,
}

impl Board {
    pub(super) fn new(uid: GuestUid, observed: Observed) -> Self {
        Self { uid, observed, status: Mutex::new(GuestStatus::default()) }
    }

    /// Changes the status and publishes it, if it is another.
    pub(super) fn update(&self, change: impl FnOnce(&mut GuestStatus)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        self.observed.publish_guest(self.uid, status.clone());
    }

    /// Something was seen to be so.
    pub(super) fn is(&self, condition: &'static str, reason: &'static str, message: impl Into<String>) {
        self.update(|status| status.conditions.set(condition, ConditionStatus::True, reason, message));
    }

    /// Something was seen not to be so.
    pub(super) fn is_not(&self, condition: &'static str, reason: &'static str, message: impl Into<String>) {
        self.update(|status| status.conditions.set(condition, ConditionStatus::False, reason, message));
    }

    /// Something cannot be seen now.
    pub(super) fn unknown(&self, condition: &'static str, reason: &'static str, message: impl Into<String>) {
        self.update(|status| status.conditions.set(condition, ConditionStatus::Unknown, reason, message));
    }

    /// Nothing of the guest is left.
    pub(super) fn wipe(&self) {
        self.observed.forget_guest(self.uid);
    }
}
