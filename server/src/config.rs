//! Configuration files, validated whole: every error at once, each with its line.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// What is wrong with a key of a section.
pub type Complaint = (&'static str, String);

/// What is wrong with a configuration file: all of it.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: PathBuf,
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    line: usize,
    message: String,
}

impl ConfigErrors {
    fn unreadable(file: &Path, reason: &std::io::Error) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem { line: 0, message: format!("cannot be read: {reason}") }],
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for Problem { line, message } in &self.problems {
            if !first {
                formatter.write_str("\n")?;
            }
            first = false;
            write!(formatter, "{}:{line}: {message}", self.file.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Part of a configuration.
pub trait Section: DeserializeOwned {
    /// What its types do not say; each complaint names the key it is about.
    fn complaints(&self) -> Vec<Complaint> {
        Vec::new()
    }
}

/// The text of a file.
pub fn text(file: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(file).map_err(|reason| ConfigErrors::unreadable(file, &reason))
}

/// Reads section by section and collects what is wrong.
#[derive(Debug)]
pub struct Reader<'t> {
    file: PathBuf,
    text: &'t str,
    sections: BTreeMap<String, (Range<usize>, DeValue<'t>)>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    /// Of a file's text; the file's name is for messages.
    pub fn new(file: &Path, text: &'t str) -> Self {
        let (document, errors) = DeTable::parse_recoverable(text);
        let sections = document.into_inner().into_iter();
        let sections =
            sections.map(|(key, value)| (key.get_ref().to_string(), (key.span(), value.into_inner()))).collect();
        let mut reader = Self { file: file.to_owned(), text, sections, known: Vec::new(), problems: Vec::new() };
        for error in errors {
            reader.problem(error.span().unwrap_or(0..0), error.message());
        }
        reader
    }

    fn take(&mut self, name: &'static str) -> Option<(Range<usize>, DeValue<'t>)> {
        self.known.push(name);
        self.sections.remove(name)
    }

    /// A text at the top, if it is there and good.
    pub fn string(&mut self, name: &'static str, good: impl Fn(&str) -> bool, expected: &str) -> Option<String> {
        match self.take(name)? {
            (_, DeValue::String(text)) if good(&text) => Some(text.into_owned()),
            (span, _) => {
                self.problem(span, &format!("{name} {expected}"));
                None
            }
        }
    }

    /// A section that may be left out.
    pub fn section<T: Section + Default>(&mut self, name: &'static str) -> T {
        let Some(section) = self.take(name) else {
            let section = T::default();
            self.complain(name, 0..0, &section.complaints());
            return section;
        };
        self.read(name, section).unwrap_or_default()
    }

    /// A section that must be there; none where it is not, or is not good.
    pub fn required<T: Section>(&mut self, name: &'static str) -> Option<T> {
        match self.take(name) {
            Some(section) => self.read(name, section),
            None => {
                self.problem(0..0, &format!("[{name}] must be there"));
                None
            }
        }
    }

    /// Tables with names of the user's choice: `[issuers.vault]`.
    pub fn tables<K: FromStr<Err: fmt::Display> + Ord, V: DeserializeOwned>(
        &mut self,
        name: &'static str,
        complaints: impl Fn(&V) -> Vec<Complaint>,
    ) -> BTreeMap<K, V> {
        let mut tables = BTreeMap::new();
        let table = match self.take(name) {
            None => return tables,
            Some((_, DeValue::Table(table))) => table,
            Some((span, _)) => {
                self.problem(span, &format!("{name} must be tables: [{name}.<name>]"));
                return tables;
            }
        };
        for (key, value) in table {
            let (span, full_name) = (key.span(), format!("{name}.{}", key.get_ref()));
            let key = match key.get_ref().parse::<K>() {
                Ok(key) => key,
                Err(reason) => {
                    self.problem(span, &format!("[{full_name}] the name {reason}"));
                    continue;
                }
            };
            if let Some(value) = self.deserialize::<V>(&full_name, (span.clone(), value.into_inner())) {
                self.complain(&full_name, span, &complaints(&value));
                tables.insert(key, value);
            }
        }
        tables
    }

    /// The configuration, if nothing was wrong and nothing is left over.
    pub fn finish<T>(mut self, config: Option<T>) -> Result<T, ConfigErrors> {
        for (name, (span, _)) in std::mem::take(&mut self.sections) {
            let known = self.known.join(", ");
            self.problem(span, &format!("`{name}` is not known here: {known}"));
        }
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => {
                self.problems.sort_by_key(|problem| problem.line);
                Err(ConfigErrors { file: self.file, problems: self.problems })
            }
        }
    }

    fn read<T: Section>(&mut self, name: &str, section: (Range<usize>, DeValue<'t>)) -> Option<T> {
        let span = section.0.clone();
        let section: T = self.deserialize(name, section)?;
        self.complain(name, span, &section.complaints());
        Some(section)
    }

    fn deserialize<T: DeserializeOwned>(&mut self, name: &str, value: (Range<usize>, DeValue<'t>)) -> Option<T> {
        let (span, value) = value;
        match T::deserialize(ValueDeserializer::from(toml::Spanned::new(span.clone(), value))) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(error.span().unwrap_or(span), &format!("[{name}] {}", error.message()));
                None
            }
        }
    }

    fn problem(&mut self, span: Range<usize>, message: &str) {
        let line = self.text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1;
        // A parser's message may have several lines; ours is one.
        self.problems.push(Problem { line, message: message.trim().replace('\n', ": ") });
    }

    fn complain(&mut self, name: &str, span: Range<usize>, complaints: &[Complaint]) {
        for (key, complaint) in complaints {
            let line_start = self.line_of_key(span.start, key).unwrap_or(span.start);
            self.problem(line_start..line_start, &format!("[{name}] {key}: {complaint}"));
        }
    }

    /// Where `key = …` stands at or after the section's start.
    fn line_of_key(&self, from: usize, key: &str) -> Option<usize> {
        let section = self.text.get(from..)?;
        let mut offset = from;
        for line in section.split_inclusive('\n') {
            if line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
                return Some(offset);
            }
            offset += line.len();
        }
        None
    }
}
