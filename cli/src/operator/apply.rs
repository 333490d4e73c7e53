//! `goliath apply` of an operator.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::{Duration, Instant},
};

use goliath_proto::operator::v1::{AppliedObject, ApplyObjectsRequest, Prune, applied_object::Outcome};
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::{
    Object,
    object_watch::{Change, ObjectWatch},
    title,
};
use crate::{
    connection::Operator,
    failure::Failure,
    manifest::objects::ObjectDocuments,
    output::{print, structured::Notation},
    refusal::Refusal,
    style::{Style, Terminal, Tone},
    verbs::{Session, apply::WaitError},
};

/// What is to be applied, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) files: &'a [PathBuf],
    pub(crate) dry_run: bool,
    pub(crate) prune: Option<&'a str>,
    /// Until clusters are ready; so long at most.
    pub(crate) wait: Option<Duration>,
}

pub(crate) async fn run(session: &Session, wanted: Wanted<'_>) -> Result<(), Failure> {
    let documents = ObjectDocuments::read(wanted.files)?;
    let operator = session.operator().await?;
    let request = ApplyObjectsRequest {
        manifests: documents.json(),
        dry_run: wanted.dry_run,
        prune: wanted.prune.map(|selector| Prune { selector: selector.to_owned() }),
    };
    let locate = |field: &str, reason: &str| Some(documents.complaint(field, reason)?.to_string());
    let response = operator.objects().apply_objects(request).await;
    let response = response.map_err(|status| Refusal::in_files("apply the manifests", &status, &locate))?;
    let applied = response.into_inner().objects;
    for object in &applied {
        print(&line(object, wanted.dry_run, session.terminal.out))?;
        if wanted.dry_run {
            print(&difference(object, session.terminal.out))?;
        }
    }
    match wanted.wait {
        Some(timeout) if !wanted.dry_run => until_ready(&operator, &applied, timeout, session.terminal).await,
        _ => Ok(()),
    }
}

fn line(object: &AppliedObject, dry_run: bool, style: Style) -> String {
    let (word, tone) = match object.outcome() {
        Outcome::Created => ("created", Tone::Good),
        Outcome::Updated => ("updated", Tone::Good),
        Outcome::Unchanged => ("unchanged", Tone::Dim),
        Outcome::Pruned => ("pruned", Tone::Warn),
        Outcome::Unspecified => ("applied", Tone::Plain),
    };
    let dry = if dry_run { " (dry run: nothing was changed)" } else { "" };
    format!("{} {}{dry}\n", title(&object.kind, &object.name), style.paint(tone, word))
}

/// What would change of what people say, as YAML, with a few lines around it; empty where nothing would.
fn difference(object: &AppliedObject, style: Style) -> String {
    let (before, after) = (said(&object.before), said(&object.after));
    let diff = TextDiff::from_lines(&before, &after);
    let mut text = String::new();
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        text.push_str(&style.paint(Tone::Note, &format!("  {}", hunk.header())));
        text.push('\n');
        for change in hunk.iter_changes() {
            let (sign, tone) = match change.tag() {
                ChangeTag::Delete => ('-', Tone::Bad),
                ChangeTag::Insert => ('+', Tone::Good),
                ChangeTag::Equal => (' ', Tone::Plain),
            };
            let line = format!("  {sign} {}", change.value().trim_end_matches('\n'));
            text.push_str(&style.paint(tone, &line));
            text.push('\n');
        }
    }
    text
}

/// An object without what the operator says of it itself.
fn said(object: &str) -> String {
    if object.is_empty() {
        return String::new();
    }
    let Object(mut value) = Object::parse(object);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.retain(|name, _| matches!(name.as_str(), "name" | "labels" | "annotations"));
    }
    Notation::Yaml.one(&value)
}

/// Waits until every cluster that was applied is ready, as it was applied.
async fn until_ready(
    operator: &Operator,
    applied: &[AppliedObject],
    timeout: Duration,
    terminal: Terminal,
) -> Result<(), Failure> {
    let clusters = applied.iter().filter(|object| object.kind == "Cluster" && object.outcome() != Outcome::Pruned);
    let mut waiting: BTreeMap<String, i64> = clusters
        .map(|object| {
            let generation = Object::parse(&object.after).0.pointer("/metadata/generation").and_then(Value::as_i64);
            (object.name.clone(), generation.unwrap_or_default())
        })
        .collect();
    let start = Instant::now();
    let mut board = Board { terminal, start, last: HashMap::new() };
    let wait = async {
        let mut watch = ObjectWatch::start(operator, "Cluster", "");
        while !waiting.is_empty() {
            let Some(change) = watch.next().await? else { continue };
            let (Change::Present(cluster) | Change::Gone(cluster)) = &change;
            let Some(generation) = waiting.get(cluster.name()) else { continue };
            if matches!(change, Change::Gone(_)) {
                board.show(cluster.name(), "it is gone");
                waiting.remove(cluster.name());
                continue;
            }
            match waits_for(cluster, *generation) {
                Some(what) => board.show(cluster.name(), &format!("waits for {what}")),
                None => {
                    board.show(cluster.name(), "ready");
                    waiting.remove(cluster.name());
                }
            }
        }
        Ok::<(), Failure>(())
    };
    match tokio::time::timeout(timeout, wait).await {
        Ok(ended) => ended,
        Err(_) => Err(WaitError::TimedOut {
            after: timeout,
            waiting: waiting.into_keys().collect(),
            follow: "goliath get clusters -w",
        }
        .into()),
    }
}

/// What a cluster is not yet; none: it is ready.
fn waits_for(cluster: &Object, generation: i64) -> Option<String> {
    let seen = cluster.0.pointer("/status/observedGeneration").and_then(Value::as_i64).unwrap_or_default();
    if seen < generation {
        return Some("the operator to see the change".to_owned());
    }
    let text =
        |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(ready) = cluster.condition("Ready") else { return Some("Ready".to_owned()) };
    if text(ready, "status") == "True" {
        return None;
    }
    let message = text(ready, "message");
    Some(if message.is_empty() { text(ready, "reason") } else { message })
}

/// A line for each step, on the standard error.
struct Board {
    terminal: Terminal,
    start: Instant,
    last: HashMap<String, String>,
}

impl Board {
    fn show(&mut self, name: &str, what: &str) {
        if self.last.insert(name.to_owned(), what.to_owned()).as_deref() != Some(what) {
            let elapsed = self.start.elapsed().as_secs_f64();
            eprintln!("{elapsed:>5.1}s {}: {what}", self.terminal.err.paint(Tone::Strong, name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_what_people_say_alone() {
        let object = |replicas: u32, generation: u32| {
            serde_json::json!({
                "kind": "Cluster",
                "metadata": { "name": "acme", "generation": generation, "uid": "1" },
                "spec": { "replicas": replicas, "paused": false },
                "status": { "ready": generation },
            })
            .to_string()
        };
        let applied = |before: String, after: String| AppliedObject {
            kind: "Cluster".to_owned(),
            name: "acme".to_owned(),
            before,
            after,
            ..AppliedObject::default()
        };
        let plain = Style::plain();
        let text = difference(&applied(object(2, 1), object(5, 2)), plain);
        assert!(text.contains("  -   replicas: 2\n  +   replicas: 5\n"), "{text}");
        assert!(!text.contains("status") && !text.contains("generation"), "{text}");
        assert_eq!(difference(&applied(object(2, 1), object(2, 3)), plain), "");
        assert!(
            difference(&applied(String::new(), object(2, 1)), plain)
                .lines()
                .skip(1)
                .all(|line| line.starts_with("  +"))
        );
    }
}
