//! Marks: what says in Vault that something is ours, and for which object.

use std::fmt;

use uuid::Uuid;

/// Says that something is ours.
pub(super) const OWNED: &str = "owned-by=goliath";

/// The object that something in Vault is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `cluster` or `host`.
    pub(super) kind: &'static str,
    /// Its name.
    pub(super) name: String,
    /// Its `metadata.uid`: another object of the same name is another owner.
    pub(super) uid: Uuid,
}

/// As it stands in a mount's description and in a policy's first line.
impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{OWNED} {}={} uid={}", self.kind, self.name, self.uid)
    }
}

/// What was found where a mark should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Made by people, or by something else.
    None,
    /// Ours, for this object, in the words of [`Owner`].
    Ours(String),
}

impl Mark {
    /// Reads the text where a mark stands.
    pub(super) fn read(text: &str) -> Self {
        if text.split(' ').next() == Some(OWNED) { Self::Ours(text.to_owned()) } else { Self::None }
    }

    /// Whether it is for this object and no other.
    pub fn is_of(&self, owner: &Owner) -> bool {
        matches!(self, Self::Ours(text) if *text == owner.to_string())
    }
}
