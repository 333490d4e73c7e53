//! Shows on the standard error how far guests have come: lines that move on a terminal, a line for each step elsewhere.

use std::{collections::HashMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::ladder::Progress;
use crate::style::{Terminal, Tone};

pub(super) struct Board {
    terminal: Terminal,
    lines: MultiProgress,
    bars: HashMap<String, ProgressBar>,
    last: HashMap<String, String>,
}

impl Board {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { terminal, lines: MultiProgress::new(), bars: HashMap::new(), last: HashMap::new() }
    }

    pub(super) fn show(&mut self, name: &str, progress: &Progress, elapsed: Duration) {
        if self.terminal.progress { self.draw(name, progress, elapsed) } else { self.write(name, progress, elapsed) }
    }

    fn draw(&mut self, name: &str, progress: &Progress, elapsed: Duration) {
        let style = self.terminal.err;
        let bar = self.bars.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.lines.add(ProgressBar::new_spinner());
            // The template is a constant; were it wrong, the default would show.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_prefix(style.paint(Tone::Strong, name));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        match progress {
            Progress::Reached => {
                let done = format!("{} after {}", style.paint(Tone::Good, "✓ there"), seconds(elapsed));
                bar.finish_with_message(done);
            }
            Progress::Ended(why) => bar.abandon_with_message(style.paint(Tone::Bad, &format!("✗ {why}"))),
            Progress::Climbing { done, waits_for } => {
                let rungs: Vec<String> = done.iter().map(|rung| style.paint(Tone::Good, &format!("✓{rung}"))).collect();
                bar.set_message([rungs.join(" "), waits_for.clone()].join(" ").trim().to_owned());
            }
        }
    }

    fn write(&mut self, name: &str, progress: &Progress, elapsed: Duration) {
        let line = match progress {
            Progress::Reached => "there".to_owned(),
            // The error that follows says it.
            Progress::Ended(_) => return,
            Progress::Climbing { waits_for, .. } => format!("waits for {waits_for}"),
        };
        if self.last.insert(name.to_owned(), line.clone()).as_ref() != Some(&line) {
            eprintln!("{:>6} {name}: {line}", seconds(elapsed));
        }
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1}s", elapsed.as_secs_f64())
}
