//! Label selectors, as `kubectl -l` takes them.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::semantics::{check_label_key, check_label_value};

/// Which objects are meant, by their labels. The empty one takes all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Takes all.
    pub fn everything() -> Self {
        Self::default()
    }

    /// And the label has this value.
    #[must_use]
    pub fn and_equals(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push(Requirement { key: key.into(), test: Test::In(vec![value.into()]) });
        self
    }

    /// Whether it takes an object with these labels.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|Requirement { key, test }| {
            let value = labels.and_then(|labels| labels.get(key));
            match test {
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }

    /// A label and value that all it takes have: what an index can be asked for.
    pub(super) fn equality(&self) -> Option<(&str, &str)> {
        self.0.iter().find_map(|Requirement { key, test }| match test {
            Test::In(values) => match values.as_slice() {
                [value] => Some((key.as_str(), value.as_str())),
                _ => None,
            },
            _ => None,
        })
    }
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSelector(String);

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k`
impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        split_outside_parentheses(text).map(|part| requirement(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |character| {
        inside = match character {
            '(' => true,
            ')' => false,
            _ => inside,
        };
        character == ',' && !inside
    })
}

fn requirement(text: &str) -> Result<Requirement, InvalidSelector> {
    let malformed = || {
        InvalidSelector(format!(
            "{text:?} is not a requirement on labels: write a=b, a!=b, a in (b,c), a notin (b,c), a or !a"
        ))
    };
    let set = |values: &str| -> Option<Vec<String>> {
        let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(values.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    let (key, test) = if let Some((key, values)) = text.split_once(" notin ") {
        (key, Test::NotIn(set(values).ok_or_else(malformed)?))
    } else if let Some((key, values)) = text.split_once(" in ") {
        (key, Test::In(set(values).ok_or_else(malformed)?))
    } else if let Some((key, value)) = text.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    check_label_key(key).map_err(|_| malformed())?;
    if let Test::In(values) | Test::NotIn(values) = &test {
        for value in values {
            check_label_value(value).map_err(|_| malformed())?;
        }
    }
    Ok(Requirement { key: key.to_owned(), test })
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.0.iter().enumerate() {
            formatter.write_str(if index == 0 { "" } else { "," })?;
            match test {
                Test::In(values) => match values.as_slice() {
                    [value] => write!(formatter, "{key}={value}")?,
                    values => write!(formatter, "{key} in ({})", values.join(","))?,
                },
                Test::NotIn(values) => match values.as_slice() {
                    [value] => write!(formatter, "{key}!={value}")?,
                    values => write!(formatter, "{key} notin ({})", values.join(","))?,
                },
                Test::Exists => formatter.write_str(key)?,
                Test::Absent => write!(formatter, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_takes_by_labels() {
        let labels =
            BTreeMap::from([("zone".to_owned(), "a".to_owned()), ("goliath.dev/role".to_owned(), "master".to_owned())]);
        for (selector, takes) in [
            ("", true),
            ("zone=a", true),
            ("zone==a", true),
            ("zone=b", false),
            ("zone!=b", true),
            ("rack!=b", true),
            ("zone in (a, b)", true),
            ("zone notin (a,b)", false),
            ("zone,goliath.dev/role=master", true),
            ("!zone", false),
            ("!rack,zone", true),
            ("rack", false),
        ] {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(Some(&labels)), takes, "{selector}");
            assert_eq!(parsed.to_string().parse::<Selector>().unwrap(), parsed, "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for bad in ["a=b,", "=b", "a in b", "a b=c", "a=b c", "(a)", "!"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
