//! Errors as callers get them: the code that fits, and `google.rpc` details for programs.
//!
//! Every one has an `ErrorInfo` with a reason; docs/api.md lists the reasons.

use std::{collections::HashMap, error::Error};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt as _};

use super::violations::{Path, Violation};
use crate::{
    errors::{and_more, with_causes},
    ledger::UpdateError,
    spec::InvalidValue,
};

const DOMAIN: &str = "goliath.dev";
/// Details travel in a header, of which clients take about 16 KiB: beyond this the bad fields are only counted.
const MOST_OF_VIOLATIONS: usize = 5 << 10;

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

fn details(reason: &str, metadata: impl IntoIterator<Item = (&'static str, String)>) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// `INVALID_ARGUMENT`, with every bad field.
pub(super) fn invalid(violations: &[Violation]) -> Status {
    let mut told = Vec::new();
    let mut size = 0;
    for violation in violations {
        size += violation.field.len() + violation.reason.len();
        if size > MOST_OF_VIOLATIONS {
            break;
        }
        told.push(FieldViolation::new(&violation.field, &violation.reason));
    }
    let message = match violations {
        [] => "the request is invalid".to_owned(),
        [first, rest @ ..] => and_more(first, rest.len()),
    };
    let untold = violations.len() - told.len();
    let mut details = details("INVALID_FIELDS", [("violations", violations.len().to_string())]);
    if untold > 0 {
        told.push(FieldViolation::new("", format!("{untold} more fields are bad; mend these first")));
    }
    details.set_bad_request(told);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// One field of a request as a value, or `INVALID_ARGUMENT`.
pub(super) fn field<T: std::str::FromStr<Err = InvalidValue>>(name: &str, text: &str) -> Result<T, Status> {
    text.parse()
        .map_err(|reason: InvalidValue| invalid(&[Violation::new(Path::root(name).to_string(), reason.to_string())]))
}

/// `NOT_FOUND`.
pub(super) fn not_found(resource: Resource, name: &impl ToString) -> Status {
    let name = name.to_string();
    let message = format!("this host has no {} {name}", resource.word());
    let mut details = details(resource.not_found_reason(), [("name", name.clone())]);
    details.set_resource_info(resource.message_type(), name, "", &message);
    Status::with_error_details(Code::NotFound, message, details)
}

/// `FAILED_PRECONDITION`: what stands against the request, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Precondition {
    /// Of the `ErrorInfo`, and the violation's type.
    pub(super) reason: &'static str,
    /// The field or resource.
    pub(super) subject: String,
    /// A sentence.
    pub(super) description: String,
}

/// `FAILED_PRECONDITION`, with all that stands against the request; a reason of its own for the first.
pub(super) fn failed_precondition(preconditions: &[Precondition]) -> Status {
    let reason = preconditions.first().map_or("PRECONDITION", |first| first.reason);
    let message = preconditions.iter().map(|one| one.description.as_str()).collect::<Vec<_>>().join("; ");
    let mut details = details(reason, []);
    details.set_precondition_failure(
        preconditions
            .iter()
            .map(|one| PreconditionViolation::new(one.reason, &one.subject, &one.description))
            .collect::<Vec<_>>(),
    );
    Status::with_error_details(Code::FailedPrecondition, bounded(message), details)
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

/// `UNAVAILABLE`: worth another try.
pub(super) fn unavailable(reason: &'static str, message: impl Into<String>) -> Status {
    Status::with_error_details(Code::Unavailable, message, details(reason, []))
}

/// Any other code, with its reason.
pub(super) fn other(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, bounded(message.into()), details(reason, []))
}

/// `UNAVAILABLE`: the agent ends; guests do not.
pub(super) fn shutting_down() -> Status {
    unavailable("AGENT_ENDING", "the agent is ending; its guests go on: call again when it is back")
}

/// `INTERNAL`: nothing that the caller did; the log has it too.
pub(super) fn internal(error: &(dyn Error + 'static)) -> Status {
    let message = with_causes(error);
    tracing::error!(reason = %message, "a call failed");
    Status::with_error_details(Code::Internal, bounded(message), details("INTERNAL", []))
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

/// A message travels in a header too.
fn bounded(mut message: String) -> String {
    const LONGEST: usize = 2 << 10;
    if let Some((end, _)) = message.char_indices().take_while(|(at, _)| *at <= LONGEST).last()
        && end >= LONGEST
    {
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bad_fields_are_told_by_path() {
        let status = invalid(&[Violation::new("spec.name", "is bad"), Violation::new("spec.machine.vcpus", "is 0")]);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "spec.name is bad (and 1 more)");
        let details = status.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["spec.name", "spec.machine.vcpus"]);
        assert_eq!(details.error_info().unwrap().domain, "goliath.dev");
    }

    #[test]
    fn a_hostile_request_gets_an_answer_that_a_client_can_take() {
        let many: Vec<_> =
            (0..100_000).map(|index| Violation::new(format!("spec.disks[{index}]"), "is bad".repeat(20))).collect();
        let status = invalid(&many);
        assert!(status.details().len() < 9 << 10, "{}", status.details().len());
        let told = status.get_details_bad_request().unwrap().field_violations;
        assert!(told.last().unwrap().description.contains("more fields are bad"));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(bounded("short".to_owned()), "short");
        assert!(bounded("é".repeat(10_000)).len() <= 2 << 10);
    }
}
