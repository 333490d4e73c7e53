//! Events as rows.

use goliath_proto::operator::v1::{Event, event::Severity};
use jiff::Timestamp;

use super::{
    View,
    table::{Cell, Table},
    text::age,
};
use crate::{operator::title, style::Tone};

pub(crate) fn table(events: &[Event], now: Timestamp) -> Table {
    let mut table = Table::new(["LAST", "SEVERITY", "REASON", "OBJECT", "COUNT", "MESSAGE"]);
    for event in events {
        table.row(row(event, now));
    }
    table
}

fn row(event: &Event, now: Timestamp) -> Vec<Cell> {
    let (severity, tone) = match event.severity() {
        Severity::Warning => ("warning", Tone::Warn),
        Severity::Normal | Severity::Unspecified => ("normal", Tone::Dim),
    };
    vec![
        age(event.last_time, now).into(),
        Cell::new(severity, tone),
        event.reason.clone().into(),
        title(&event.kind, &event.name).into(),
        event.count.to_string().into(),
        event.message.clone().into(),
    ]
}

/// Events one after the other, each a line.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    widths: Vec<usize>,
    begun: bool,
}

impl Lines {
    pub(crate) fn next(&mut self, event: &Event, view: &View) -> String {
        let mut table = table(std::slice::from_ref(event), view.now);
        table.keep_in_line(&mut self.widths);
        let view = View { width: None, ..*view };
        if std::mem::replace(&mut self.begun, true) { table.render_rows(&view) } else { table.render(&view) }
    }
}
