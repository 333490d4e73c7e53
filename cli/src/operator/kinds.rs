//! The kinds that an operator has, with the columns that it wants shown.

use goliath_proto::operator::v1::{Column, Kind, ListKindsRequest};
use serde_json::Value;

use super::Object;
use crate::{
    connection::Operator,
    failure::Failure,
    guest_reference::ReferenceError,
    output::{
        table::{Cell, Table},
        text::{or_dash, span},
    },
    refusal::Refusal,
    style::Tone,
};

/// The kind that is meant, by its name, its plural or one of its short names.
pub(super) async fn find(operator: &Operator, wanted: &str) -> Result<Kind, Failure> {
    let response = operator.objects().list_kinds(ListKindsRequest {}).await;
    let kinds = response.map_err(|status| Refusal::by_operator("list the kinds", &status))?.into_inner().kinds;
    let lower = wanted.to_lowercase();
    let meant =
        |kind: &&Kind| kind.kind.to_lowercase() == lower || kind.plural == lower || kind.short_names.contains(&lower);
    match kinds.iter().find(meant) {
        Some(kind) => Ok(kind.clone()),
        None => Err(ReferenceError::no_kind(wanted, kinds.into_iter().map(|kind| kind.plural)).into()),
    }
}

/// Objects of one kind as rows.
#[derive(Debug)]
pub(super) struct Columns {
    columns: Vec<(Column, Path)>,
    now: jiff::Timestamp,
}

impl Columns {
    pub(super) fn of(kind: &Kind, wide: bool, now: jiff::Timestamp) -> Self {
        let shown = kind.columns.iter().filter(|column| wide || column.priority == 0);
        Self { columns: shown.map(|column| (column.clone(), Path::parse(&column.json_path))).collect(), now }
    }

    pub(super) fn table(&self) -> Table {
        let names = self.columns.iter().map(|(column, _)| column.name.to_uppercase());
        Table::new(std::iter::once("NAME".to_owned()).chain(names))
    }

    pub(super) fn row(&self, object: &Object) -> Vec<Cell> {
        let name = if object.is_being_deleted() { Cell::new(object.name(), Tone::Dim) } else { object.name().into() };
        let cells = self.columns.iter().map(|(column, path)| self.cell(column, path.find(&object.0)));
        std::iter::once(name).chain(cells).collect()
    }

    /// The row without what changes by time alone.
    pub(super) fn news(&self, object: &Object) -> Vec<Cell> {
        let lasting = self.columns.iter().filter(|(column, _)| column.r#type != "date");
        lasting.map(|(column, path)| self.cell(column, path.find(&object.0))).collect()
    }

    fn cell(&self, column: &Column, value: Option<&Value>) -> Cell {
        match (column.r#type.as_str(), value) {
            (_, None | Some(Value::Null)) => Cell::new("-", Tone::Dim),
            ("date", Some(Value::String(time))) => match time.parse::<jiff::Timestamp>() {
                Ok(time) => age(time, self.now).into(),
                Err(_) => time.clone().into(),
            },
            (_, Some(Value::Bool(true))) => "yes".into(),
            (_, Some(Value::Bool(false))) => "no".into(),
            (_, Some(Value::String(text))) => Cell::new(or_dash(text), tone(&column.name, text)),
            (_, Some(other)) => other.to_string().into(),
        }
    }
}

/// How long ago, or in how long.
fn age(time: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second() - time.as_second();
    if seconds >= 0 { span(seconds) } else { format!("in {}", span(-seconds)) }
}

/// The states that the eye looks for.
fn tone(column: &str, text: &str) -> Tone {
    match (column, text) {
        ("Ready", "True") | ("Phase", "Running") => Tone::Good,
        ("Ready", "False") | ("Phase", "Failed" | "Quarantined") => Tone::Bad,
        ("Ready", _) => Tone::Dim,
        ("Phase", "Backoff" | "Stopping") => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// A JSON path as definitions of columns have them: `.a.b`, `.list[?(@.key=="value")].c`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// The item whose field has this value.
    Item {
        field: String,
        value: String,
    },
}

impl Path {
    /// What is not understood finds nothing.
    fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(filter) = rest.strip_prefix("[?(@.") {
                let Some((filter, after)) = filter.split_once(")]") else { break };
                let Some((field, value)) = filter.split_once("==") else { break };
                let value = value.trim_matches(['"', '\'', ' ']).to_owned();
                steps.push(Step::Item { field: field.trim().to_owned(), value });
                rest = after;
            } else {
                let name = rest.strip_prefix('.').unwrap_or(rest);
                let end = name.find(['.', '[']).unwrap_or(name.len());
                let (name, after) = name.split_at(end);
                steps.push(Step::Field(name.to_owned()));
                rest = after;
            }
        }
        Self(steps)
    }

    fn find<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(value, |value, step| match step {
            Step::Field(name) => value.get(name),
            Step::Item { field, value: wanted } => {
                value.as_array()?.iter().find(|item| item.get(field).and_then(Value::as_str) == Some(wanted))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_column_finds_its_value() {
        let object = json!({
            "metadata": { "name": "acme" },
            "status": { "conditions": [{ "type": "Booted", "status": "False" }, { "type": "Ready", "status": "True" }] },
        });
        for (path, found) in [
            (".metadata.name", Some("acme")),
            (r#".status.conditions[?(@.type=="Ready")].status"#, Some("True")),
            (".status.conditions[?(@.type=='Booted')].status", Some("False")),
            (r#".status.conditions[?(@.type=="Other")].status"#, None),
            (".status.none.deeper", None),
            (r#".metadata[?(@.a=="b")]"#, None),
        ] {
            assert_eq!(Path::parse(path).find(&object).and_then(Value::as_str), found, "{path}");
        }
    }
}
