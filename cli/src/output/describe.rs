//! Pages for 3 am: all there is to know about one thing, and what to do.

mod advice;
mod guest;
mod host;
mod network;
mod object;

use std::fmt::Write as _;

use goliath_proto::agent::v1::Condition;

pub(crate) use guest::guest;
pub(crate) use host::host;
pub(crate) use network::network;
pub(crate) use object::object;

use super::{
    View,
    text::{age, or_dash, printable},
    words,
};
use crate::style::Tone;

/// A page being written: facts in two columns below headings.
struct Page<'v> {
    view: &'v View,
    text: String,
}

impl<'v> Page<'v> {
    fn new(view: &'v View, title: &str, state: &str, tone: Tone) -> Self {
        let title = view.style.paint(Tone::Strong, &printable(title));
        Self { view, text: format!("{title}  {}\n", view.style.paint(tone, &printable(state))) }
    }

    fn heading(&mut self, heading: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "\n{}", self.view.style.paint(Tone::Strong, heading));
    }

    /// Left out where there is nothing to say.
    fn fact(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            let name = self.view.style.paint(Tone::Dim, &format!("{name:<13}"));
            let _ = writeln!(self.text, "  {name} {}", printable(value));
        }
    }

    fn lines(&mut self, text: &str) {
        for line in text.lines() {
            let _ = writeln!(self.text, "  {line}");
        }
    }

    /// One line each, and the message below it where there is one.
    fn conditions(&mut self, conditions: &[Condition]) {
        self.heading("Conditions");
        if conditions.is_empty() {
            self.lines("none seen yet");
        }
        for condition in words::in_order(conditions) {
            let (mark, tone) = words::condition_mark(condition);
            let _ = writeln!(
                self.text,
                "  {} {:<18} {:<7} {}",
                self.view.style.paint(tone, mark),
                printable(&condition.r#type),
                age(condition.last_transition_time, self.view.now),
                self.view.style.paint(tone, &or_dash(&printable(&condition.reason))),
            );
            if !condition.message.is_empty() {
                let _ = writeln!(self.text, "    {}", printable(&condition.message));
            }
        }
    }

    fn advice(&mut self, advice: &[String]) {
        if !advice.is_empty() {
            self.heading("What to do");
            for line in advice {
                let _ = writeln!(self.text, "  • {}", printable(line));
            }
        }
    }
}
