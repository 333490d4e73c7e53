//! Guests as rows.

use std::collections::HashMap;

use goliath_proto::agent::v1::{Condition, ConditionStatus, Guest, GuestPhase};
use jiff::Timestamp;

use super::{
    View,
    table::{Cell, Table},
    text::{age, or_dash, short_digest, size, until},
    words,
};
use crate::{manifest::words as manifest_words, style::Tone};

/// One row for each.
pub(crate) fn table(guests: &[Guest], wide: bool, now: Timestamp) -> Table {
    let mut heading =
        vec!["CLUSTER", "NAME", "PHASE", "BOOTED", "ADDRESS", "VCPUS", "MEMORY", "RESTARTS", "UP", "NOTE"];
    if wide {
        heading.splice(9..9, ["ACCEL", "PID", "GENERATION", "IMAGE", "MAC", "UID"]);
    }
    let mut table = Table::new(heading);
    for guest in guests {
        table.row(row(guest, wide, now));
    }
    table
}

/// The columns of a row, as [`table`] names them.
fn row(guest: &Guest, wide: bool, now: Timestamp) -> Vec<Cell> {
    let spec = guest.spec.clone().unwrap_or_default();
    let status = guest.status.clone().unwrap_or_default();
    let machine = spec.machine.unwrap_or_default();
    let address = spec.network.map(|network| network.ipv4_address).unwrap_or_default();
    let process = status.process.as_ref();
    let mut row: Vec<Cell> = vec![
        spec.cluster.into(),
        spec.name.into(),
        Cell::new(words::phase(status.phase()), words::phase_tone(status.phase())),
        booted(&status.conditions),
        or_dash(&address).into(),
        machine.vcpus.to_string().into(),
        size(machine.memory_bytes).into(),
        Cell::new(status.restart_count.to_string(), if status.restart_count > 0 { Tone::Warn } else { Tone::Plain }),
        process.map_or_else(|| "-".to_owned(), |process| age(process.started_at, now)).into(),
    ];
    if wide {
        let accelerator =
            process.and_then(|process| manifest_words::word(&manifest_words::ACCELERATORS, process.accelerator()));
        let generation = match status.running_generation {
            0 => format!("{} (none runs)", spec.generation),
            running if running == spec.generation => running.to_string(),
            running => format!("{} ({running} runs)", spec.generation),
        };
        row.extend([
            accelerator.unwrap_or("-").into(),
            process.map_or_else(|| "-".to_owned(), |process| process.pid.to_string()).into(),
            generation.into(),
            short_digest(&status.image_digest).into(),
            or_dash(&status.mac_address).into(),
            Cell::from(spec.uid),
        ]);
    }
    row.push(note(guest, now));
    row
}

/// Guests as they change, a line each time; what would look the same again is left out.
pub(crate) struct Lines {
    wide: bool,
    widths: Vec<usize>,
    begun: bool,
    last: HashMap<String, Vec<Cell>>,
}

impl Lines {
    pub(crate) fn new(wide: bool) -> Self {
        // A guest goes through many phases: room for the longest from the start.
        let widths = ["", "", "Quarantined"].map(str::len).to_vec();
        Self { wide, widths, begun: false, last: HashMap::new() }
    }

    /// The guest's line, below the heading if it is the first; empty where nothing to be seen has changed.
    pub(crate) fn next(&mut self, guest: &Guest, view: &View) -> String {
        let mut seen = row(guest, self.wide, view.now);
        // Time passes without being news.
        seen.remove(UP);
        let uid = guest.spec.as_ref().map(|spec| spec.uid.clone()).unwrap_or_default();
        if self.last.insert(uid, seen.clone()).as_ref() == Some(&seen) {
            return String::new();
        }
        let mut table = table(std::slice::from_ref(guest), self.wide, view.now);
        table.keep_in_line(&mut self.widths);
        // A line that was broken to fit could not be told from the next guest's.
        let view = View { width: None, ..*view };
        if std::mem::replace(&mut self.begun, true) { table.render_rows(&view) } else { table.render(&view) }
    }
}

/// The column that tells for how long QEMU runs.
const UP: usize = 8;

fn booted(conditions: &[Condition]) -> Cell {
    match conditions.iter().find(|condition| condition.r#type == "Booted").map(Condition::status) {
        Some(ConditionStatus::True) => Cell::new("yes", Tone::Good),
        Some(ConditionStatus::False) => "no".into(),
        _ => Cell::new("?", Tone::Dim),
    }
}

/// The one thing to know about a guest that is not as it should be.
fn note(guest: &Guest, now: Timestamp) -> Cell {
    let Some(status) = &guest.status else { return "".into() };
    let is_true = |name: &str| {
        status
            .conditions
            .iter()
            .any(|condition| condition.r#type == name && condition.status() == ConditionStatus::True)
    };
    if is_true("Deleting") {
        return Cell::new("is being deleted", Tone::Warn);
    }
    if status.phase() == GuestPhase::Backoff {
        let next = status.next_attempt_time.map(|time| format!("next try {}", until(time, now))).unwrap_or_default();
        let reason = status.last_exit.as_ref().map_or("", |exit| words::exit_reason(exit.reason()));
        return Cell::new(
            [reason, &next].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(", "),
            Tone::Warn,
        );
    }
    // The first rung that is broken holds up the others.
    let ladder = ["ImageReady", "NetworkReady", "CertificatesReady", "VolumesReady", "Running"];
    let broken = words::in_order(&status.conditions)
        .into_iter()
        .find(|condition| condition.status() == ConditionStatus::False && ladder.contains(&condition.r#type.as_str()));
    match broken {
        // Who was asked to stop does not run, and that is well.
        Some(_) if matches!(status.phase(), GuestPhase::Stopped | GuestPhase::Paused) => "".into(),
        Some(condition) => Cell::new(format!("{}: {}", condition.r#type, or_dash(&condition.reason)), Tone::Warn),
        None if is_true("RestartRequired") => Cell::new("needs a restart to take its new spec", Tone::Warn),
        None => "".into(),
    }
}
