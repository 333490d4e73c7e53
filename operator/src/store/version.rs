use std::{fmt, str::FromStr};

/// A point in the history of a store: it grows with each write of any object. Outside it is an opaque text, as in
/// Kubernetes: only whether two are equal means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceVersion(u64);

impl ResourceVersion {
    pub(super) fn new(number: u64) -> Self {
        Self(number)
    }

    pub(super) fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A text that no store gave out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a resource version: give back one that a list or a watch gave you")]
pub struct NotAResourceVersion(String);

impl FromStr for ResourceVersion {
    type Err = NotAResourceVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().map(Self).ok_or_else(|| NotAResourceVersion(text.to_owned()))
    }
}
