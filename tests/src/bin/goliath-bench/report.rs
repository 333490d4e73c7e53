//! The table for people and the file for programs.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::figure::Figure;

/// Tells what is measured now; on standard error, so that the table can be piped.
pub(crate) fn progress(what: &str) {
    eprintln!("bench: {what}");
}

/// Writes `{"figures": […]}`, whole.
pub(crate) fn write(figures: &[Figure], path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "figures": figures }))?;
    let temporary = path.with_extension("json.new");
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        fs::write(&temporary, text + "\n")?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// All figures, and below them a line on each goal that was missed.
pub(crate) fn table(figures: &[Figure]) -> String {
    let names = figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
    let peers = figures.iter().map(|figure| figure.baseline_name.len()).max().unwrap_or_default();
    let mut table =
        format!("{:names$}  {:>12}  {:>12}  {:peers$}  {:>6}  {:>6}\n", "", "measured", "beside", "", "ratio", "goal");
    for figure in figures {
        let Figure { name, value, unit, baseline, baseline_name, ratio, goal, met, .. } = figure;
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            table,
            "{name:names$}  {:>12}  {:>12}  {baseline_name:peers$}  {:>6}  {:>6}  {verdict}",
            quantity(*value, unit),
            quantity(*baseline, unit),
            number(*ratio),
            number(*goal),
        );
    }
    for figure in figures.iter().filter(|figure| figure.met == Some(false)) {
        if let (Some(ratio), Some(goal)) = (figure.ratio, figure.goal) {
            let over = (ratio / goal - 1.0) * 100.0;
            let _ = writeln!(table, "\n{}: {over:.0} % over its goal. {}", figure.name, figure.cost);
        }
    }
    if cfg!(debug_assertions) {
        table.push_str("\nThis was not optimised: run `make bench` for figures that count.\n");
    }
    table
}

fn quantity(value: f64, unit: &str) -> String {
    format!("{value:.1} {unit}")
}

fn number(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.2}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Plan;

    #[test]
    fn a_missed_goal_is_told_with_by_how_much_and_why() {
        let plan = Plan { name: "start", unit: "ms", baseline_name: "bare", goal: Some(1.25), cost: "Disks." };
        let table = table(&[plan.measured(150.0, 100.0), Plan { name: "calm", ..plan }.measured(100.0, 100.0)]);
        assert!(table.contains("start: 20 % over its goal. Disks."), "{table}");
        assert!(!table.contains("calm:"), "{table}");
    }
}
