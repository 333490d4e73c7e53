use goliath_proto::{
    agent::v1::{Condition, ConditionStatus},
    operator::v1::Event,
};
use jiff::Timestamp;
use serde_json::Value;

use super::Page;
use crate::{
    operator::Object,
    output::{View, event, structured::Notation, text::span},
    style::Tone,
};

/// All there is to know about an object of the operator, and what happened to it lately.
pub(crate) fn object(object: &Object, events: &[Event], view: &View) -> String {
    let conditions = conditions(object);
    let ready = conditions.iter().find(|condition| condition.r#type == "Ready").map(Condition::status);
    let (state, tone) = match ready {
        _ if object.is_being_deleted() => ("is being deleted", Tone::Warn),
        Some(ConditionStatus::True) => ("ready", Tone::Good),
        Some(ConditionStatus::False) => ("not ready", Tone::Bad),
        _ => ("", Tone::Plain),
    };
    let mut page = Page::new(view, &object.title(), state, tone);
    page.text.push('\n');
    page.fact("uid", object.uid());
    let generation = object.0.pointer("/metadata/generation").map(ToString::to_string).unwrap_or_default();
    let seen = object.0.pointer("/status/observedGeneration").map(ToString::to_string).unwrap_or_default();
    let behind = if seen.is_empty() || seen == generation { String::new() } else { format!(" ({seen} was seen)") };
    page.fact("generation", &format!("{generation}{behind}"));
    page.fact("created", &time(object.text("/metadata/creationTimestamp"), view.now));
    page.fact("deleted", &time(object.text("/metadata/deletionTimestamp"), view.now));
    let owners = object.0.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let owners: Vec<_> = owners.map(|owner| Object(owner.clone())).collect();
    let owners: Vec<_> =
        owners.iter().map(|owner| format!("{} {}", owner.kind().to_lowercase(), owner.text("/name"))).collect();
    page.fact("belongs to", &owners.join(", "));
    let finalizers = object.0.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
    let finalizers: Vec<_> = finalizers.filter_map(Value::as_str).collect();
    page.fact("kept by", &finalizers.join(", "));
    page.conditions(&conditions);
    for (heading, part) in [("Spec", "/spec"), ("Status", "/status")] {
        let Some(mut value) = object.0.pointer(part).cloned() else { continue };
        if let Some(fields) = value.as_object_mut() {
            fields.remove("conditions");
            fields.remove("observedGeneration");
            if fields.is_empty() {
                continue;
            }
        }
        page.heading(heading);
        page.lines(&Notation::Yaml.one(&value));
    }
    if !events.is_empty() {
        page.heading("Events");
        page.lines(&event::table(events, view.now).render(view));
    }
    page.text
}

fn conditions(object: &Object) -> Vec<Condition> {
    let conditions = object.0.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let condition = |value: &Value| {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = match text("status").as_str() {
            "True" => ConditionStatus::True,
            "False" => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        };
        let time = text("lastTransitionTime").parse::<Timestamp>().ok();
        Condition {
            r#type: text("type"),
            status: status.into(),
            reason: text("reason"),
            message: text("message"),
            last_transition_time: time.map(|time| prost_types::Timestamp { seconds: time.as_second(), nanos: 0 }),
        }
    };
    conditions.map(condition).collect()
}

/// A time and how long ago it was.
fn time(text: &str, now: Timestamp) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => format!("{text} ({} ago)", span(now.as_second() - time.as_second())),
        Err(_) => text.to_owned(),
    }
}
