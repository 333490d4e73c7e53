//! Why a guest is where it is.

use std::fmt::Write as _;

use goliath_proto::operator::v1::{ExplainGuestResponse, HostVerdict};

use super::{
    View,
    table::{Cell, Table},
    text::{age, printable},
};
use crate::style::Tone;

pub(crate) fn guest(told: &ExplainGuestResponse, view: &View) -> String {
    let ExplainGuestResponse { name, host, reason, time, waits_for, hosts, no_room, .. } = told;
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
    text.push_str(&table.render(view));
    if !no_room.is_empty() {
        let _ = writeln!(text, "{}", style.paint(Tone::Warn, &printable(no_room)));
    }
    text
}

fn row(HostVerdict { host, fits, reasons }: &HostVerdict, bound: &str) -> Vec<Cell> {
    let name = if host == bound { Cell::new(format!("{host} *"), Tone::Strong) } else { host.as_str().into() };
    let fits = if *fits { Cell::new("yes", Tone::Good) } else { Cell::new("no", Tone::Bad) };
    vec![name, fits, reasons.join("; ").into()]
}
