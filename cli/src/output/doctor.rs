//! What the doctor found.

use goliath_proto::agent::v1::{DoctorCheck, doctor_check::Verdict};

use super::{
    View,
    table::{Cell, Table},
    words,
};
use crate::failure::ExitCode;

/// A table, with the advice below what it is about, and a last line that sums up.
pub(crate) fn page(checks: &[DoctorCheck], view: &View) -> String {
    let mut table = Table::new(["VERDICT", "CHECK", "FOUND"]);
    for check in checks {
        let (verdict, tone) = words::verdict(check.verdict());
        let found = if check.hint.is_empty() {
            check.message.clone()
        } else {
            format!("{}\n→ {}", check.message, check.hint)
        };
        table.row(vec![Cell::new(verdict, tone), check.name.clone().into(), found.into()]);
    }
    let count = |verdict: Verdict| checks.iter().filter(|check| check.verdict() == verdict).count();
    let summary = match worst(checks) {
        None => "This host is ready for guests.".to_owned(),
        Some(ExitCode::Warnings) => {
            format!(
                "Guests will run here, with {}.",
                counted(count(Verdict::Warning) + count(Verdict::Unspecified), "warning")
            )
        }
        Some(_) => {
            format!("{} must be mended before guests run here.", counted(count(Verdict::Fail), "failure"))
        }
    };
    format!("{}\n{summary}\n", table.render(view))
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// None where all is well.
pub(crate) fn worst(checks: &[DoctorCheck]) -> Option<ExitCode> {
    let has = |verdict: Verdict| checks.iter().any(|check| check.verdict() == verdict);
    if has(Verdict::Fail) {
        Some(ExitCode::Error)
    } else if has(Verdict::Warning) || has(Verdict::Unspecified) {
        Some(ExitCode::Warnings)
    } else {
        None
    }
}
