//! Errors as callers get them: the code that fits, and `google.rpc` details for programs.
//!
//! Every one has an `ErrorInfo` with a reason; docs/api.md lists the reasons.

use goliath_server::status::details;
pub(super) use goliath_server::status::{
    Precondition, failed_precondition, field, internal, invalid, other, unavailable,
};
use tonic::{Code, Status};
use tonic_types::{QuotaViolation, StatusExt as _};

use crate::ledger::UpdateError;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Guest,
    Network,
    Image,
}

impl Resource {
    fn message_type(self) -> &'static str {
        match self {
            Self::Guest => "goliath.agent.v1.Guest",
            Self::Network => "goliath.agent.v1.Network",
            Self::Image => "goliath.agent.v1.Image",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Network => "network",
            Self::Image => "image",
        }
    }

    fn not_found_reason(self) -> &'static str {
        match self {
            Self::Guest => "GUEST_NOT_FOUND",
            Self::Network => "NETWORK_NOT_FOUND",
            Self::Image => "IMAGE_NOT_FOUND",
        }
    }
}

/// `NOT_FOUND`.
pub(super) fn not_found(resource: Resource, name: &impl ToString) -> Status {
    let name = name.to_string();
    let message = format!("this host has no {} {name}", resource.word());
    let mut details = details(resource.not_found_reason(), [("name", name.clone())]);
    details.set_resource_info(resource.message_type(), name, "", &message);
    Status::with_error_details(Code::NotFound, message, details)
}

/// `RESOURCE_EXHAUSTED`: a number that is short, and by how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quota {
    /// For example `memory`.
    pub(super) resource: &'static str,
    /// A sentence.
    pub(super) description: String,
    /// What was asked for, what there is, in one unit.
    pub(super) asked: u64,
    /// What a new guest could get.
    pub(super) available: u64,
}

/// `RESOURCE_EXHAUSTED`, with every number that is short.
pub(super) fn exhausted(host: &str, quotas: &[Quota]) -> Status {
    let message = quotas.iter().map(|quota| quota.description.as_str()).collect::<Vec<_>>().join("; ");
    let metadata = quotas.iter().flat_map(|quota| {
        let (asked, available) = match quota.resource {
            "memory" => ("memory_asked_bytes", "memory_available_bytes"),
            "disk" => ("disk_asked_bytes", "disk_available_bytes"),
            _ => ("vcpus_asked", "vcpus_available"),
        };
        [(asked, quota.asked.to_string()), (available, quota.available.to_string())]
    });
    let mut details = details("HOST_FULL", metadata);
    details.set_quota_failure(
        quotas
            .iter()
            .map(|quota| QuotaViolation::new(format!("host:{host}/{}", quota.resource), &quota.description))
            .collect::<Vec<_>>(),
    );
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// `OUT_OF_RANGE`: a revision from which no watch can go on.
pub(super) fn revision_gone(message: impl Into<String>, newest: u64) -> Status {
    let mut details = details("REVISION_GONE", [("newest", newest.to_string())]);
    details.set_localized_message("en", "list again, and watch from the revision of that list");
    Status::with_error_details(Code::OutOfRange, message, details)
}

/// `UNAVAILABLE`: the agent ends; guests do not.
pub(super) fn shutting_down() -> Status {
    unavailable("AGENT_ENDING", "the agent is ending; its guests go on: call again when it is back")
}

/// What a ledger's refusal means to the caller; their own refusal is a status already.
pub(super) fn update_failed(error: UpdateError<Status>) -> Status {
    match error {
        UpdateError::Refused(status) => status,
        UpdateError::ShuttingDown => shutting_down(),
        UpdateError::Unreadable { .. } => failed_precondition(&[Precondition {
            reason: "RECORD_UNREADABLE",
            subject: "ledger".to_owned(),
            description: error.to_string(),
        }]),
        UpdateError::Ledger(_) => internal(&error),
    }
}
