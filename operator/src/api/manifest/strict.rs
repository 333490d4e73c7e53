//! Parses JSON into a type and finds not the first but every field that stands against it: what was found is taken out,
//! and the rest is parsed again. So each complaint is the type's own.

use goliath_server::violations::{Path, Violation};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

/// Nobody mends more at once, and each costs a look at the whole.
const MOST_COMPLAINTS: usize = 64;

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The value as a type; none where anything is wrong with it, which is then told.
pub(super) fn parse<T: DeserializeOwned>(at: &Path, value: &Value, violations: &mut Vec<Violation>) -> Option<T> {
    let mut left = value.clone();
    let mut taken: Vec<Vec<Step>> = Vec::new();
    for _ in 0..MOST_COMPLAINTS {
        let error = match serde_path_to_error::deserialize::<_, T>(&left) {
            Ok(parsed) if taken.is_empty() => return Some(parsed),
            Ok(_) => return None,
            Err(error) => error,
        };
        let message = error.inner().to_string();
        let mut path = steps(error.path());
        if let Some(name) = between_quotes(&message, "unknown field ")
            && path.last() != Some(&Step::Key(name.to_owned()))
        {
            path.push(Step::Key(name.to_owned()));
        }
        let original = in_original(&path, &taken);
        let (subject, complaint) = match between_quotes(&message, "missing field ") {
            Some(name) => {
                let mut subject = original.clone();
                subject.push(Step::Key(name.to_owned()));
                (subject, "must be set".to_owned())
            }
            None => (original.clone(), clause(&message)),
        };
        // What is missing was told before, or is missing because it was taken out.
        let known =
            taken.contains(&subject) || violations.iter().any(|violation| violation.field == told(at, &subject));
        if !known {
            violations.push(Violation::new(told(at, &subject), complaint));
        }
        // The whole is wrong, or nobody knows what: no more is to be learned.
        if path.is_empty() || !take_out(&mut left, &path) {
            return None;
        }
        taken.push(original);
    }
    None
}

/// The fields of an object that must be there and are not.
pub(super) fn missing(at: &Path, value: &Value, names: &[&str]) -> Vec<Violation> {
    let Value::Object(fields) = value else { return Vec::new() };
    let absent = names.iter().filter(|name| !fields.contains_key(**name));
    absent.map(|name| Violation::new(at.field(name).to_string(), "must be set")).collect()
}

/// The fields that a schema wants, wherever their object is: a parser would tell of the first alone.
pub(super) fn required(at: &Path, value: &Value, schema: &JSONSchemaProps, violations: &mut Vec<Violation>) {
    let names: Vec<&str> = schema.required.iter().flatten().map(String::as_str).collect();
    violations.extend(missing(at, value, &names));
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let known = schema.properties.as_ref().and_then(|properties| properties.get(name));
                let other = match &schema.additional_properties {
                    Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(&**schema),
                    _ => None,
                };
                if let Some(schema) = known.or(other) {
                    required(&at.field(name), value, schema, violations);
                }
            }
        }
        // A parser would take a list's items for an object's fields.
        Value::Array(_) if schema.type_.as_deref() == Some("object") => {
            violations.push(Violation::new(at.to_string(), "is a list: expected an object"));
        }
        Value::Array(items) => {
            if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    required(&at.index(index), item, schema, violations);
                }
            }
        }
        _ => {}
    }
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { variant } => Some(Step::Key(variant.clone())),
        Segment::Unknown => None,
    };
    path.iter().map_while(step).collect()
}

/// The same place before anything was taken out of lists.
fn in_original(path: &[Step], taken: &[Vec<Step>]) -> Vec<Step> {
    let mut original: Vec<Step> = Vec::new();
    for step in path {
        let step = match step {
            Step::Key(key) => Step::Key(key.clone()),
            Step::Index(index) => {
                let mut before: Vec<usize> = taken
                    .iter()
                    .filter_map(|place| match place.split_last() {
                        Some((Step::Index(index), list)) if list == original => Some(*index),
                        _ => None,
                    })
                    .collect();
                before.sort_unstable();
                Step::Index(
                    before.into_iter().fold(*index, |index, taken| if taken <= index { index + 1 } else { index }),
                )
            }
        };
        original.push(step);
    }
    original
}

/// Removes what is at a place, or the nearest thing around it; tells whether it could.
fn take_out(value: &mut Value, path: &[Step]) -> bool {
    let Some((last, around)) = path.split_last() else { return false };
    let mut holder = value;
    for step in around {
        let inner = match (step, holder) {
            (Step::Key(key), Value::Object(fields)) => fields.get_mut(key),
            (Step::Index(index), Value::Array(items)) => items.get_mut(*index),
            _ => None,
        };
        let Some(inner) = inner else { return false };
        holder = inner;
    }
    match (last, holder) {
        (Step::Key(key), Value::Object(fields)) => fields.remove(key).is_some(),
        (Step::Index(index), Value::Array(items)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

fn told(at: &Path, steps: &[Step]) -> String {
    let plain =
        |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let path = steps.iter().fold(at.clone(), |path, step| match step {
        Step::Key(key) if plain(key) => path.field(key),
        Step::Key(key) => path.key(key),
        Step::Index(index) => path.index(*index),
    });
    path.to_string()
}

/// A parser's message as a clause that can follow the field.
fn clause(message: &str) -> String {
    if let Some(name) = between_quotes(message, "unknown field ") {
        return match closest(name, message) {
            Some(known) => format!("is not known here: did you mean `{known}`?"),
            None => "is not known here".to_owned(),
        };
    }
    for start in ["invalid type: ", "invalid value: ", "unknown variant ", "invalid length "] {
        if let Some((found, expected)) = message.strip_prefix(start).and_then(|rest| rest.rsplit_once(", expected ")) {
            return format!("is {found}: expected {}", in_words(expected));
        }
    }
    message.to_owned()
}

/// What a parser expects, for those who do not know its types.
fn in_words(expected: &str) -> &str {
    match expected {
        "a map" => "an object",
        "a sequence" => "a list",
        "u8" | "u16" | "u32" | "u64" | "i32" | "i64" => "a whole number",
        _ if expected.starts_with("struct ") => "an object",
        _ => expected,
    }
}

fn between_quotes<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start)?.strip_prefix('`')?.split('`').next()
}

/// Of the names that the parser knows, the one that was likely meant.
fn closest<'m>(name: &str, message: &'m str) -> Option<&'m str> {
    let (_, expected) = message.split_once(", expected ")?;
    let known = expected.split('`').skip(1).step_by(2);
    let likeness = known.map(|known| (strsim::jaro_winkler(name, known), known));
    likeness
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}
