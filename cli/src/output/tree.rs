//! A cluster with everything that belongs to it.

use std::fmt::Write as _;

use goliath_proto::{
    agent::v1::{Condition, ConditionStatus},
    operator::v1::TreeNode,
};

use super::{
    View,
    text::{age, or_dash, printable},
    words,
};
use crate::{operator::title, style::Tone};

/// Conditions that tell of trouble stand below their object; all of them where that is asked for.
pub(crate) fn tree(root: &TreeNode, all: bool, view: &View) -> String {
    let mut text = String::new();
    node(&mut text, root, "", "", all, view);
    text
}

fn node(text: &mut String, node_: &TreeNode, first: &str, rest: &str, all: bool, view: &View) {
    let TreeNode { kind, name, summary, conditions, deleting, children } = node_;
    let style = view.style;
    let ready = conditions.iter().find(|condition| condition.r#type == "Ready");
    let (mark, tone) = ready.map_or(("·", Tone::Dim), words::condition_mark);
    let deleting = if *deleting { style.paint(Tone::Warn, "  is being deleted") } else { String::new() };
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{first}{} {}  {}{deleting}",
        style.paint(tone, mark),
        style.paint(Tone::Strong, &printable(&title(kind, name))),
        printable(summary),
    );
    let below = if children.is_empty() { "  " } else { "│ " };
    for condition in words::in_order(conditions).into_iter().filter(|condition| all || is_trouble(condition)) {
        let (mark, tone) = words::condition_mark(condition);
        let message = if condition.message.is_empty() { or_dash(&condition.reason) } else { condition.message.clone() };
        let _ = writeln!(
            text,
            "{rest}{below}  {} {} for {}: {}",
            style.paint(tone, mark),
            printable(&condition.r#type),
            age(condition.last_transition_time, view.now),
            printable(&message),
        );
    }
    for (index, child) in children.iter().enumerate() {
        let (branch, trunk) = if index + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        node(text, child, &format!("{rest}{branch}"), &format!("{rest}{trunk}"), all, view);
    }
}

fn is_trouble(condition: &Condition) -> bool {
    let (_, tone) = words::condition_mark(condition);
    tone == Tone::Bad || tone == Tone::Warn || condition.status() == ConditionStatus::Unspecified
}
