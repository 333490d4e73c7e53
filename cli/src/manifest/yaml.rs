//! YAML as a tree that knows where each thing stands, so that a mistake can be shown in the file.

use std::{collections::HashMap, rc::Rc};

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle};

use super::problem::{Position, Problem};

/// Deeper than any manifest; keeps a hostile file from using up the stack.
const MAX_DEPTH: usize = 64;

/// A value and where it starts.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) position: Position,
}

/// What a node holds. Scalars stay text: the field they stand in says what they must be.
#[derive(Debug)]
pub(crate) enum Value {
    Scalar {
        text: String,
        /// Written without quotes, so that `null` and `true` have their YAML meaning.
        plain: bool,
    },
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) position: Position,
    pub(crate) value: Rc<Node>,
}

impl Node {
    /// An empty value, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain: true } => matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            _ => false,
        }
    }

    /// For messages: what stands here.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

/// The documents of a file, without those that are empty.
pub(crate) fn parse(text: &str) -> Result<Vec<Rc<Node>>, Problem> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| Problem::new(position(error.marker()), "", format!("not YAML: {}", error.info())))?;
        builder.take(event, position(&span.start))?;
    }
    Ok(builder.documents)
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

/// A collection whose end has not come yet.
struct Open {
    position: Position,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Entry>, Option<(String, Position)>),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, position: Position) -> Result<(), Problem> {
        if event.tag().is_some() {
            return Err(Problem::new(position, "", "YAML tags have no meaning in a manifest: leave the tag out"));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.close(Rc::new(Node { value, position }), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Open { position, anchor, content: OpenContent::Sequence(Vec::new()) })
            }
            Event::MappingStart(_, anchor, _) => {
                self.open(Open { position, anchor, content: OpenContent::Mapping(Vec::new(), None) })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { position, anchor, content }) => {
                    let value = match content {
                        OpenContent::Sequence(items) => Value::Sequence(items),
                        OpenContent::Mapping(entries, _) => Value::Mapping(entries),
                    };
                    self.close(Rc::new(Node { value, position }), anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.close(node, 0),
                None => Err(Problem::new(position, "", "an alias cannot stand inside what it names")),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::new(open.position, "", format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn close(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(OpenContent::Sequence(items)) => items.push(node),
            Some(OpenContent::Mapping(entries, pending)) => match pending.take() {
                Some((key, position)) => entries.push(Entry { key, position, value: node }),
                None => *pending = Some(key(&node, entries)?),
            },
        }
        Ok(())
    }
}

fn key(node: &Node, entries: &[Entry]) -> Result<(String, Position), Problem> {
    let Value::Scalar { text, .. } = &node.value else {
        return Err(Problem::new(node.position, "", format!("{} cannot be the name of a field", node.describe())));
    };
    match entries.iter().find(|entry| entry.key == *text) {
        Some(first) => {
            let message = format!("`{text}` stands here twice: first in line {}", first.position.line);
            Err(Problem::new(node.position, "", message))
        }
        None => Ok((text.clone(), node.position)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_knows_its_line_and_column() {
        let documents = parse("a: 1\nb:\n  - c: x\n---\n# nothing\n---\nd: [1, 2]\n").unwrap();
        assert_eq!(documents.len(), 2);
        let Value::Mapping(entries) = &documents[0].value else { panic!("a mapping") };
        assert_eq!(entries[1].key, "b");
        assert_eq!(entries[1].position, Position { line: 2, column: 1 });
        let Value::Sequence(items) = &entries[1].value.value else { panic!("a list") };
        assert_eq!(items[0].position, Position { line: 3, column: 5 });
    }

    #[test]
    fn a_field_written_twice_is_an_error() {
        let problem = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(problem.position, Position { line: 3, column: 1 });
        assert_eq!(problem.message, "`a` stands here twice: first in line 1");
    }

    #[test]
    fn an_anchor_can_be_used_again() {
        let documents = parse("a: &x {b: 1}\nc: *x\n").unwrap();
        let Value::Mapping(entries) = &documents[0].value else { panic!("a mapping") };
        assert!(Rc::ptr_eq(&entries[0].value, &entries[1].value));
    }

    #[test]
    fn what_would_use_up_the_stack_is_refused() {
        let problem = parse(&"[".repeat(100_000)).unwrap_err();
        assert!(problem.message.contains("nested") || problem.message.contains("not YAML"), "{}", problem.message);
    }
}
