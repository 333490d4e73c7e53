//! The manifest's form of what the agent holds: `get -o yaml` prints it, and `apply` takes it back. The generation held
//! stands in the status, so that a printed manifest can be changed and applied without a thought of it.

mod guest;
mod network;

use std::collections::BTreeMap;

use goliath_proto::agent::v1::{Condition, ConditionStatus};
use prost_types::Timestamp;
use serde::Serialize;

use super::{API_VERSION, quantity};
pub(crate) use guest::GuestForm;
pub(crate) use network::NetworkForm;

/// A whole document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Form<Spec, Status> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

/// An observed fact.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConditionForm {
    r#type: String,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_transition_time: Option<String>,
}

/// `True`, `False` or `Unknown`.
pub(crate) fn condition_status(condition: &Condition) -> &'static str {
    match condition.status() {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown | ConditionStatus::Unspecified => "Unknown",
    }
}

/// As documents have them.
pub(crate) fn conditions(conditions: &[Condition]) -> Vec<ConditionForm> {
    let form = |condition: &Condition| ConditionForm {
        r#type: condition.r#type.clone(),
        status: condition_status(condition),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition_time: condition.last_transition_time.and_then(time),
    };
    conditions.iter().map(form).collect()
}

/// RFC 3339; none for a time outside the calendar.
pub(crate) fn time(timestamp: Timestamp) -> Option<String> {
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok().map(|time| time.to_string())
}

fn some_text(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn duration(duration: Option<prost_types::Duration>) -> Option<String> {
    duration.and_then(quantity::from_proto).map(quantity::format_duration)
}
