//! `goliath get` and `goliath watch` of an operator.

use std::collections::HashMap;

use goliath_proto::operator::v1::{Kind, ListObjectsRequest};
use serde_json::Value;

use super::{
    Object, full_name, get_object, kinds,
    object_watch::{Change, ObjectWatch},
};
use crate::{
    connection::Operator,
    failure::Failure,
    output::{Format, View, print, structured::Notation, table::Cell},
    refusal::Refusal,
    verbs::Session,
};

/// What is to be shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) kind: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) selector: &'a str,
    pub(crate) output: Format,
    /// Go on with every change.
    pub(crate) watch: bool,
}

pub(crate) async fn run(session: &Session, wanted: Wanted<'_>) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let kind = kinds::find(&operator, wanted.kind).await?;
    let name = wanted.name.map(full_name);
    if wanted.watch {
        return watch(session, &operator, &kind, wanted, name.as_deref()).await;
    }
    let objects = match &name {
        Some(name) => vec![get_object(&operator, &kind.kind, name).await?],
        None => list(&operator, &kind, wanted.selector).await?,
    };
    match wanted.output {
        Format::Table | Format::Wide if objects.is_empty() => {
            eprintln!("no {}", kind.plural);
            Ok(())
        }
        Format::Table | Format::Wide => {
            let view = session.view();
            let columns = kinds::Columns::of(&kind, wanted.output == Format::Wide, view.now);
            let mut table = columns.table();
            for object in &objects {
                table.row(columns.row(object));
            }
            print(&table.render(&view))
        }
        format => {
            let notation = if format == Format::Json { Notation::Json } else { Notation::Yaml };
            let values: Vec<Value> = objects.into_iter().map(|object| object.0).collect();
            match values.as_slice() {
                [one] if name.is_some() => print(&notation.one(one)),
                several => print(&notation.many(several)),
            }
        }
    }
}

async fn list(operator: &Operator, kind: &Kind, selector: &str) -> Result<Vec<Object>, Failure> {
    let refused = |status| Refusal::by_operator(format!("list the {}", kind.plural), &status);
    let request = ListObjectsRequest { kind: kind.kind.clone(), selector: selector.to_owned() };
    let mut messages = operator.objects().list_objects(request).await.map_err(refused)?.into_inner();
    let mut objects = Vec::new();
    while let Some(message) = messages.message().await.map_err(refused)? {
        objects.extend(message.objects.iter().map(|object| Object::parse(object)));
    }
    Ok(objects)
}

/// Prints each object again when something to be seen of it changes, until it is interrupted.
async fn watch(
    session: &Session,
    operator: &Operator,
    kind: &Kind,
    wanted: Wanted<'_>,
    name: Option<&str>,
) -> Result<(), Failure> {
    let mut watch = ObjectWatch::start(operator, &kind.kind, wanted.selector);
    let mut lines = Lines::new(kind, wanted.output == Format::Wide);
    loop {
        let Some(change) = watch.next().await? else { continue };
        let (object, gone) = match &change {
            Change::Present(object) => (object, false),
            Change::Gone(object) => (object, true),
        };
        if name.is_some_and(|name| name != object.name()) {
            continue;
        }
        match wanted.output {
            Format::Table | Format::Wide if gone => print(&format!("{} is gone\n", object.title()))?,
            Format::Table | Format::Wide => print(&lines.next(object, &session.view()))?,
            // What is gone is nothing to print: its last state would look as if it were there.
            Format::Json | Format::Yaml if gone => {}
            Format::Json => print(&Notation::Json.streamed(&object.0))?,
            Format::Yaml => print(&Notation::Yaml.streamed(&object.0))?,
        }
    }
}

/// A line for each change that can be seen, one below the other.
struct Lines<'k> {
    kind: &'k Kind,
    wide: bool,
    widths: Vec<usize>,
    begun: bool,
    last: HashMap<String, Vec<Cell>>,
}

impl<'k> Lines<'k> {
    fn new(kind: &'k Kind, wide: bool) -> Self {
        Self { kind, wide, widths: Vec::new(), begun: false, last: HashMap::new() }
    }

    /// Empty where nothing to be seen has changed.
    fn next(&mut self, object: &Object, view: &View) -> String {
        let columns = kinds::Columns::of(self.kind, self.wide, view.now);
        let news = columns.news(object);
        if self.last.insert(object.uid().to_owned(), news.clone()).as_ref() == Some(&news) {
            return String::new();
        }
        let mut table = columns.table();
        table.row(columns.row(object));
        table.keep_in_line(&mut self.widths);
        // A line that was broken to fit could not be told from the next object's.
        let view = View { width: None, ..*view };
        if std::mem::replace(&mut self.begun, true) { table.render_rows(&view) } else { table.render(&view) }
    }
}
