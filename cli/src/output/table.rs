//! Tables as `kubectl` has taught people to read them: no lines, a heading, columns that line up.

use std::borrow::Cow;

use comfy_table::{Attribute, Cell as TableCell, Color, ContentArrangement, Table as Layout, presets};

use super::{View, text::printable};
use crate::style::Tone;

/// A text and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows below a heading.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<Cow<'static, str>>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new<T: Into<Cow<'static, str>>>(heading: impl IntoIterator<Item = T>) -> Self {
        Self { heading: heading.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Makes columns at least as wide as they were, and remembers how wide they are now: rows that come one after the
    /// other, each as a table of its own, stay in line.
    pub(crate) fn keep_in_line(&mut self, widths: &mut Vec<usize>) {
        widths.resize(self.heading.len(), 0);
        for (column, (width, heading)) in widths.iter_mut().zip(&self.heading).enumerate() {
            let cells = || self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells().map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            *width = (*width).max(widest).max(heading.chars().count());
        }
        for cells in &mut self.rows {
            for (cell, width) in cells.iter_mut().zip(widths.iter()) {
                cell.text = format!("{:<width$}", cell.text);
            }
        }
    }

    /// The rows alone, as lines.
    pub(crate) fn render_rows(&self, view: &View) -> String {
        self.render(view).split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
    }

    /// Each line ends with a newline and has no blanks before it.
    pub(crate) fn render(&self, view: &View) -> String {
        let mut layout = Layout::new();
        layout.load_style(presets::NOTHING).force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        if view.style.has_colours() {
            layout.enforce_styling();
        }
        if let Some(width) = view.width {
            layout.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        let heading = |text: &Cow<'static, str>| TableCell::new(text).add_attribute(Attribute::Bold);
        layout.set_header(self.heading.iter().map(heading).collect::<Vec<_>>());
        for row in &self.rows {
            layout.add_row(row.iter().map(table_cell).collect::<Vec<_>>());
        }
        for column in layout.column_iter_mut() {
            column.set_padding((0, 2));
        }
        layout.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

fn table_cell(Cell { text, tone }: &Cell) -> TableCell {
    let lines: Vec<String> = text.lines().map(printable).collect();
    let cell = TableCell::new(lines.join("\n"));
    match tone {
        Tone::Good => cell.fg(Color::Green),
        Tone::Warn => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
        Tone::Note => cell.fg(Color::Cyan),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
        Tone::Strong => cell.add_attribute(Attribute::Bold),
        Tone::Plain => cell,
    }
}
