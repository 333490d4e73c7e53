//! A line for each thing as it is proved, with the time since the start; at the end a table.

use std::{
    io::{IsTerminal as _, stdout},
    time::{Duration, Instant},
};

/// What was proved so far.
pub(crate) struct Report {
    start: Instant,
    color: bool,
    proofs: Vec<Proof>,
}

struct Proof {
    at: Duration,
    subject: String,
    result: String,
}

impl Report {
    pub(crate) fn new() -> Self {
        let color = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { start: Instant::now(), color, proofs: Vec::new() }
    }

    /// What comes next.
    pub(crate) fn chapter(&self, title: &str) {
        println!("\n{}", self.paint("1", title));
    }

    /// Something that was seen to be so just now.
    pub(crate) fn proved(&mut self, subject: &str, result: &str) {
        let at = self.start.elapsed();
        let time = self.paint("2", &format!("{:6.1} s", at.as_secs_f64()));
        println!("{time}  {} {}: {result}", self.paint("32", "proved"), self.paint("1", subject));
        self.proofs.push(Proof { at, subject: subject.to_owned(), result: result.to_owned() });
    }

    /// Something that is not a proof and good to know.
    pub(crate) fn note(&self, text: &str) {
        let time = self.paint("2", &format!("{:6.1} s", self.start.elapsed().as_secs_f64()));
        println!("{time}  {text}");
    }

    /// A command of `goliath` that is run now.
    pub(crate) fn command(&self, line: &str) {
        println!("\n{}", self.paint("36", &format!("$ goliath {line}")));
    }

    /// What it said, or what stands in a file.
    pub(crate) fn output(&self, text: &str) {
        println!("{}", self.paint("2", text.trim_end()));
    }

    /// Everything at a glance.
    pub(crate) fn table(&self) {
        let width = self.proofs.iter().map(|proof| proof.subject.len()).max().unwrap_or_default();
        self.chapter("What was proved");
        for Proof { at, subject, result } in &self.proofs {
            println!("{:6.1} s  {subject:width$}  {result}", at.as_secs_f64());
        }
        println!("\n{} proofs in {:.1} s.", self.proofs.len(), self.start.elapsed().as_secs_f64());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
