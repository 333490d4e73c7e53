//! What is wrong with a request: all of it, each with the path of its field.

use std::{fmt, str::FromStr};

use goliath_proto::values::InvalidValue;

/// Of one field's name or complaint: a value of megabytes is not sent back.
const LONGEST: usize = 200;

/// A field of a request, as a caller would write it: `spec.certificates[1].dns_names[0]`.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A field of the request itself.
    pub fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of this one.
    pub fn field(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// An item of this list.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A value of this map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{:?}]", self.0, shortened(key)))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One bad field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// As a caller would write it.
    pub field: String,
    /// A clause that can follow the path: "must not be empty".
    pub reason: String,
}

impl Violation {
    /// A field and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: shortened(&reason.into()) }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.field, self.reason)
    }
}

/// Collects bad fields while the good ones are read on.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// One more.
    pub fn add(&mut self, field: &Path, reason: impl Into<String>) {
        self.0.push(Violation::new(field.to_string(), reason));
    }

    /// A value, or a violation of this field.
    pub fn take<T>(&mut self, field: &Path, value: Result<T, InvalidValue>) -> Option<T> {
        value.map_err(|reason| self.add(field, reason.to_string())).ok()
    }

    /// A text as a value, or a violation of this field.
    pub fn parse<T: FromStr<Err = InvalidValue>>(&mut self, field: &Path, text: &str) -> Option<T> {
        self.take(field, text.parse())
    }

    /// A part of a message that must be there.
    pub fn required<T>(&mut self, field: &Path, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(field, "must be set");
        }
        value
    }

    /// Says so where a condition does not hold.
    pub fn check(&mut self, field: &Path, holds: bool, reason: impl FnOnce() -> String) {
        if !holds {
            self.add(field, reason());
        }
    }

    /// The value, if nothing was wrong: a value that could not be made has its violation.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Violation>> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_a_caller_would() {
        let path = Path::root("spec").field("certificates").index(1).field("dns_names").index(0);
        assert_eq!(path.to_string(), "spec.certificates[1].dns_names[0]");
        assert_eq!(Path::root("spec").field("labels").key("a\nb").to_string(), r#"spec.labels["a\nb"]"#);
    }

    #[test]
    fn what_is_told_of_a_value_is_short_whatever_the_value() {
        let mut violations = Violations::default();
        violations.add(&Path::root("labels").key(&"é".repeat(100_000)), "x".repeat(100_000));
        let told = violations.finish(Some(())).unwrap_err();
        assert!(told[0].to_string().len() < 1000);
    }
}
