use goliath_proto::{agent::v1 as agent, operator::v1 as pb};
use tonic::Status;

use super::{Context, errors};
use crate::{
    api::events::timestamp,
    controllers::placement::ExplainedHost,
    objects::{Condition, ConditionStatus, Conditions, Guest, Kind},
    store::Store,
};

/// What a guest reaches one after the other.
const RUNGS: [&str; 9] = [
    "Scheduled",
    "Applied",
    "ImageReady",
    "NetworkReady",
    "CertificatesReady",
    "VolumesReady",
    "Running",
    "Booted",
    "Ready",
];

pub(super) fn explain<S: Store>(context: &Context<S>, name: &str) -> Result<pb::ExplainGuestResponse, Status> {
    let guest = context.caches.guests.get(name).ok_or_else(|| errors::not_found(Kind::Guest, name))?;
    let binding = guest.spec.binding.as_ref();
    let explained = context.questions.explain(name);
    let (hosts, no_room) = explained.map(|explained| (explained.hosts, explained.no_room)).unwrap_or_default();
    let verdict = |ExplainedHost { host, fits, reasons }: ExplainedHost| pb::HostVerdict { host, fits, reasons };
    Ok(pb::ExplainGuestResponse {
        name: name.to_owned(),
        host: binding.map(|binding| binding.host.to_string()).unwrap_or_default(),
        reason: binding.map(|binding| binding.reason.clone()).unwrap_or_default(),
        time: binding.map(|binding| timestamp(binding.time.0)),
        waits_for: waits_for(&guest),
        conditions: guest.status.as_ref().map(|status| conditions(&status.conditions)).unwrap_or_default(),
        hosts: hosts.into_iter().map(verdict).collect(),
        no_room: no_room.unwrap_or_default(),
    })
}

/// The first step that a guest has not taken; empty where it has taken all.
fn waits_for(guest: &Guest) -> String {
    let none = Conditions::default();
    let conditions = guest.status.as_ref().map_or(&none, |status| &status.conditions);
    if guest.metadata.deletion_timestamp.is_some() {
        let message = conditions.get("Deleting").map(|condition| condition.message.as_str()).unwrap_or_default();
        return if message.is_empty() {
            "it is being deleted".to_owned()
        } else {
            format!("it is being deleted: {message}")
        };
    }
    if let Some(lost) = conditions.get("HostReachable").filter(|seen| seen.status == ConditionStatus::False) {
        return lost.message.clone();
    }
    if guest.spec.binding.is_none() {
        let scheduled = conditions.get("Scheduled").map(|condition| condition.message.as_str()).unwrap_or_default();
        return if scheduled.is_empty() { "a host: none was chosen yet".to_owned() } else { scheduled.to_owned() };
    }
    let waiting =
        RUNGS.iter().filter_map(|rung| conditions.get(rung)).find(|seen| seen.status != ConditionStatus::True);
    waiting
        .map(|Condition { type_, reason, message, .. }| {
            let what = if message.is_empty() { reason } else { message };
            format!("{type_}: {what}")
        })
        .unwrap_or_default()
}

/// Conditions as the API tells them.
pub(super) fn conditions(conditions: &Conditions) -> Vec<agent::Condition> {
    let message = |condition: &Condition| agent::Condition {
        r#type: condition.type_.clone(),
        status: match condition.status {
            ConditionStatus::True => agent::ConditionStatus::True,
            ConditionStatus::False => agent::ConditionStatus::False,
            ConditionStatus::Unknown => agent::ConditionStatus::Unknown,
        }
        .into(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_transition_time: Some(timestamp(condition.last_transition_time.0)),
    };
    conditions.iter().map(message).collect()
}
