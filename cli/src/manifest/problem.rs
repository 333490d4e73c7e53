//! A mistake in a manifest, shown where it stands.

use std::fmt::{self, Write as _};

/// Where in a file; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) position: Position,
    /// As in the file, for example `spec.machine.memory`; empty for the document itself.
    pub(crate) path: String,
    pub(crate) message: String,
    /// What to do, where it is known.
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(position: Position, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { position, path: path.into(), message: message.into(), help: None }
    }

    pub(crate) fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// A file's name and text: `-` is called `<stdin>`.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A mistake with the file it is in.
#[derive(Debug, Clone)]
pub(crate) struct LocatedProblem {
    pub(crate) source: std::rc::Rc<Source>,
    pub(crate) problem: Problem,
}

/// Shows the mistake as compilers do: where, what, the line itself, what to do.
impl fmt::Display for LocatedProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { position: Position { line, column }, path, message, help } = &self.problem;
        write!(formatter, "{}:{line}:{column}: ", self.source.name)?;
        if !path.is_empty() {
            write!(formatter, "{path}: ")?;
        }
        formatter.write_str(message)?;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        if let Some(text) = self.source.text.lines().nth(line.saturating_sub(1)) {
            // A column counts characters; a tab before it stays a tab, so that the mark stands right below.
            let indent: String =
                text.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let mark = "^".repeat(word_length(text, *column));
            write!(formatter, "\n{margin} |\n{number} | {text}\n{margin} | {indent}{mark}")?;
        }
        match help {
            Some(help) => write!(formatter, "\n{margin} = {help}"),
            None => Ok(()),
        }
    }
}

/// How much to underline: up to the end of the word, of a key or of a quoted text.
fn word_length(text: &str, column: usize) -> usize {
    let rest: Vec<char> = text.chars().skip(column.saturating_sub(1)).collect();
    let length = match rest.first() {
        Some(quote @ ('"' | '\'')) => rest.iter().skip(1).position(|c| c == quote).map_or(rest.len(), |end| end + 2),
        _ => rest
            .iter()
            .enumerate()
            .position(|(at, c)| {
                c.is_whitespace()
                    || ",]}".contains(*c)
                    || (*c == ':' && rest.get(at + 1).is_none_or(|c| c.is_whitespace()))
            })
            .unwrap_or(rest.len()),
    };
    length.max(1)
}

/// All mistakes of all files, in the order of the files and their lines.
pub(crate) fn report(problems: &[LocatedProblem]) -> String {
    let mut text = String::new();
    for problem in problems {
        // Writing to a String does not fail.
        let _ = write!(text, "{}{problem}", if text.is_empty() { "" } else { "\n\n" });
    }
    text
}
