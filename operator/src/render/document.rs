//! Whether a rendered document is one that guests can read. Problems tell places, not content, which may be secret.

use std::fmt;

/// What agents take, of all documents of a seed together.
const LARGEST: usize = 512 << 10;

/// What is wrong with a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    TooLarge(usize),
    NotJson { line: usize, column: usize },
    NotIgnition,
    NotYaml { line: u64, column: u64 },
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => write!(formatter, "has {bytes} bytes: {LARGEST} are allowed"),
            Self::NotJson { line, column } => write!(formatter, "is not JSON from line {line}, column {column} on"),
            Self::NotIgnition => formatter.write_str("is no Ignition document: it lacks `ignition.version`"),
            Self::NotYaml { line, column } => write!(formatter, "is not YAML from line {line}, column {column} on"),
        }
    }
}

/// The Ignition specification: a JSON object with the version that it follows.
pub(super) fn check_ignition(text: &str) -> Result<(), Problem> {
    check_size(text)?;
    let document: serde_json::Value =
        serde_json::from_str(text).map_err(|error| Problem::NotJson { line: error.line(), column: error.column() })?;
    let version = document.pointer("/ignition/version").and_then(serde_json::Value::as_str);
    if version.is_none_or(str::is_empty) { Err(Problem::NotIgnition) } else { Ok(()) }
}

/// cloud-init knows many formats; the one that most use is YAML, and a mistake in it shows only in the guest's log.
pub(super) fn check_user_data(text: &str) -> Result<(), Problem> {
    check_size(text)?;
    if !text.starts_with("#cloud-config") {
        return Ok(());
    }
    serde_saphyr::from_str::<serde_json::Value>(text).map(drop).map_err(|error| {
        let place = error.location().map(|location| (location.line(), location.column()));
        let (line, column) = place.unwrap_or((1, 1));
        Problem::NotYaml { line, column }
    })
}

fn check_size(text: &str) -> Result<(), Problem> {
    if text.len() > LARGEST { Err(Problem::TooLarge(text.len())) } else { Ok(()) }
}
