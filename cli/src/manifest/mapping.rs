//! Reads the fields of a mapping by name and keeps every mistake, so that all of them are told at once.
//! What was asked for is what is known: any other field is a mistake.

use std::{cell::RefCell, fmt::Display, str::FromStr, time::Duration};

use super::{
    problem::{Position, Problem},
    quantity,
    yaml::{Entry, Node, Value},
};

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    pub(crate) fn add(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    /// Takes back a mistake that another one explains.
    fn retract(&self, path: &str, message: &str) {
        self.0.borrow_mut().retain(|problem| problem.path != path || problem.message != message);
    }

    /// By line.
    pub(crate) fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|problem| problem.position);
        problems
    }
}

/// A mapping being read.
pub(crate) struct Mapping<'n> {
    entries: &'n [Entry],
    position: Position,
    path: String,
    known: RefCell<Vec<&'static str>>,
    problems: &'n Problems,
}

/// A field that is there, with a value.
struct Field<'n> {
    node: &'n Node,
    position: Position,
    path: String,
}

impl<'n> Mapping<'n> {
    /// The document's own mapping, or none (and a mistake) where it is something else.
    pub(crate) fn root(node: &'n Node, problems: &'n Problems) -> Option<Self> {
        Self::of(node, node.position, String::new(), problems)
    }

    fn of(node: &'n Node, position: Position, path: String, problems: &'n Problems) -> Option<Self> {
        let entries = match &node.value {
            Value::Mapping(entries) => entries.as_slice(),
            // `kernel:` with nothing below it asks for a kernel with nothing to add.
            _ if node.is_null() => &[],
            _ => {
                let message = format!("must be a mapping of fields, not {}", node.describe());
                problems.add(Problem::new(node.position, path, message));
                return None;
            }
        };
        Some(Self { entries, position, path, known: RefCell::default(), problems })
    }

    /// Where it is, for mistakes that concern it as a whole.
    pub(crate) fn problem(&self, message: impl Into<String>) {
        self.problems.add(Problem::new(self.position, &self.path, message));
    }

    /// About the value of a field.
    pub(crate) fn problem_of(&self, key: &'static str, message: impl Into<String>) {
        let position = self.field(key).map_or(self.position, |field| field.node.position);
        self.problems.add(Problem::new(position, self.path_of(key), message));
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn entry(&self, key: &'static str) -> Option<&'n Entry> {
        self.known.borrow_mut().push(key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn field(&self, key: &'static str) -> Option<Field<'n>> {
        self.entry(key).filter(|entry| !entry.value.is_null()).map(|entry| Field {
            node: &entry.value,
            position: entry.position,
            path: self.path_of(key),
        })
    }

    /// Whether the field stands there, be it empty.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.entry(key).is_some()
    }

    /// Known and of no concern.
    pub(crate) fn ignore(&self, key: &'static str) {
        self.known.borrow_mut().push(key);
    }

    fn scalar(&self, field: &Field<'n>) -> Option<&'n str> {
        if let Value::Scalar { text, .. } = &field.node.value {
            return Some(text);
        }
        let message = format!("must be a single value, not {}", field.node.describe());
        self.problems.add(Problem::new(field.position, &field.path, message));
        None
    }

    fn parsed<T>(&self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let field = self.field(key)?;
        parse(self.scalar(&field)?)
            .map_err(|message| self.problems.add(Problem::new(field.node.position, field.path, message)))
            .ok()
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_owned()))
    }

    /// A text that must be there; empty when it is not, with a mistake noted.
    pub(crate) fn required_text(&self, key: &'static str) -> String {
        self.required(key, self.text(key))
    }

    /// Notes a mistake where a field is not there at all.
    pub(crate) fn required<T: Default>(&self, key: &'static str, value: Option<T>) -> T {
        if value.is_none() && self.field(key).is_none() {
            self.problems.add(Problem::new(self.position, self.path_of(key), MISSING));
        }
        value.unwrap_or_default()
    }

    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.parsed(key, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("`{text}` must be true or false")),
        })
    }

    pub(crate) fn integer<T: FromStr>(&self, key: &'static str, most: impl Display) -> Option<T> {
        self.parsed(key, |text| text.parse().map_err(|_| format!("`{text}` must be a whole number from 0 to {most}")))
    }

    pub(crate) fn size(&self, key: &'static str) -> Option<u64> {
        self.parsed(key, quantity::parse_size)
    }

    pub(crate) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, quantity::parse_duration)
    }

    /// A text of a form that a type of the standard library checks, for example an address; `what` names the form.
    pub(crate) fn checked<T: FromStr>(&self, key: &'static str, what: &str) -> Option<String> {
        self.parsed(key, |text| check::<T>(text, what))
    }

    /// One of a few words, in any case.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let field = self.field(key)?;
        let text = self.scalar(&field)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let problem = Problem::new(field.node.position, field.path, format!("`{text}` is not known here"));
        self.problems.add(problem.with_help(suggestion(text, &words)));
        None
    }

    pub(crate) fn texts(&self, key: &'static str) -> Vec<String> {
        self.items(key).into_iter().filter_map(|item| self.scalar(&item).map(str::to_owned)).collect()
    }

    /// As [`Self::checked`], for each of a list.
    pub(crate) fn all_checked<T: FromStr>(&self, key: &'static str, what: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for item in self.items(key) {
            match self.scalar(&item).map(|text| check::<T>(text, what)) {
                Some(Ok(text)) => texts.push(text),
                Some(Err(message)) => self.problems.add(Problem::new(item.position, item.path, message)),
                None => {}
            }
        }
        texts
    }

    /// Texts by key.
    pub(crate) fn text_map(&self, key: &'static str) -> impl Iterator<Item = (String, String)> {
        let pairs = self.mapping(key).map(|mapping| {
            let pair = |entry: &'n Entry| {
                let field = Field { node: &entry.value, position: entry.position, path: mapping.path_of(&entry.key) };
                Some((entry.key.clone(), mapping.scalar(&field)?.to_owned()))
            };
            mapping.entries.iter().filter_map(pair).collect::<Vec<_>>()
        });
        pairs.into_iter().flatten()
    }

    /// The mapping below a field; an empty one where the field stands with nothing below it.
    pub(crate) fn mapping(&self, key: &'static str) -> Option<Mapping<'n>> {
        let entry = self.entry(key)?;
        Self::of(&entry.value, entry.position, self.path_of(key), self.problems)
    }

    /// A mapping that must be there.
    pub(crate) fn required_mapping(&self, key: &'static str) -> Option<Mapping<'n>> {
        if !self.has(key) {
            self.problems.add(Problem::new(self.position, self.path_of(key), MISSING));
        }
        self.mapping(key)
    }

    /// A list of mappings.
    pub(crate) fn mappings(&self, key: &'static str) -> Vec<Mapping<'n>> {
        self.items(key)
            .into_iter()
            .filter_map(|item| Self::of(item.node, item.position, item.path, self.problems))
            .collect()
    }

    fn items(&self, key: &'static str) -> Vec<Field<'n>> {
        let Some(field) = self.field(key) else { return Vec::new() };
        let Value::Sequence(items) = &field.node.value else {
            let message = format!("must be a list, not {}", field.node.describe());
            self.problems.add(Problem::new(field.position, field.path, message));
            return Vec::new();
        };
        let item = |(index, node): (usize, &'n std::rc::Rc<Node>)| Field {
            node,
            position: node.position,
            path: format!("{}[{index}]", field.path),
        };
        items.iter().enumerate().map(item).collect()
    }

    /// Every field was asked for by now: what is left is unknown.
    pub(crate) fn finish(self) {
        let mut known = self.known.take();
        known.sort_unstable();
        known.dedup();
        for entry in self.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            if let Some(meant) = closest(&entry.key, &known) {
                // One slip of the pen is one mistake.
                self.problems.retract(&self.path_of(meant), MISSING);
            }
            let problem = Problem::new(entry.position, self.path_of(&entry.key), "unknown field");
            self.problems.add(problem.with_help(suggestion(&entry.key, &known)));
        }
    }
}

const MISSING: &str = "is missing";

fn check<T: FromStr>(text: &str, what: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| text.to_owned()).map_err(|_| format!("`{text}` is not {what}"))
}

/// The word that was meant, or the words there are.
fn suggestion(text: &str, words: &[&str]) -> String {
    match closest(text, words) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("known here: {}", words.join(", ")),
    }
}

/// The word that is like the text, where one is.
fn closest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_ascii_lowercase();
    let distance = |word: &str| strsim::damerau_levenshtein(&text, &word.to_ascii_lowercase());
    let (distance, word) = words.iter().map(|word| (distance(word), *word)).min()?;
    (distance <= text.len().max(word.len()) / 3).then_some(word)
}
