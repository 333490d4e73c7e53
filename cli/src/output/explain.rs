//! Why a guest is where it is.

use std::fmt::Write as _;

use goliath_proto::operator::v1::{ExplainGuestResponse, HostVerdict, Score};

use super::{
    View,
    table::{Cell, Table},
    text::{age, printable},
};
use crate::style::Tone;

pub(crate) fn guest(told: &ExplainGuestResponse, view: &View) -> String {
    let ExplainGuestResponse { name, host, reason, time, waits_for, hosts, .. } = told;
    let style = view.style;
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = match host.as_str() {
        "" => writeln!(text, "{}  {}", style.paint(Tone::Strong, name), style.paint(Tone::Warn, "has no host")),
        host => writeln!(
            text,
            "{}  is on {} for {}: {}",
            style.paint(Tone::Strong, name),
            style.paint(Tone::Strong, host),
            age(*time, view.now),
            printable(reason)
        ),
    };
    let _ = match waits_for.as_str() {
        "" => writeln!(text, "It waits for nothing."),
        what => writeln!(text, "It waits for {}", style.paint(Tone::Warn, &printable(what))),
    };
    if hosts.is_empty() {
        return text;
    }
    let _ = writeln!(text, "\n{}", style.paint(Tone::Strong, "Were it placed now"));
    let mut table = Table::new(["HOST", "FITS", "WHY"]);
    for verdict in hosts {
        table.row(row(verdict, host));
    }
    text + &table.render(view)
}

fn row(HostVerdict { host, score, rejections }: &HostVerdict, bound: &str) -> Vec<Cell> {
    let name = if host == bound { Cell::new(format!("{host} *"), Tone::Strong) } else { host.as_str().into() };
    match score {
        Some(Score { points, description, .. }) => {
            vec![name, Cell::new("yes", Tone::Good), format!("{points} points: {description}").into()]
        }
        None => {
            let why: Vec<_> = rejections.iter().map(|rejection| rejection.message.as_str()).collect();
            vec![name, Cell::new("no", Tone::Bad), why.join("; ").into()]
        }
    }
}
