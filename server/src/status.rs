//! Errors as callers get them: the code that fits, and `google.rpc` details for programs. Every one has an `ErrorInfo`
//! with a reason.

use std::{collections::HashMap, error::Error};

use goliath_proto::values::InvalidValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use crate::{
    errors::{and_more, with_causes},
    violations::{Path, Violation},
};

const DOMAIN: &str = "goliath.dev";
/// Details travel in a header, of which clients take about 16 KiB: beyond this the bad fields are only counted.
const MOST_OF_VIOLATIONS: usize = 5 << 10;

/// Details with a reason, and what belongs to it.
pub fn details(reason: &str, metadata: impl IntoIterator<Item = (&'static str, String)>) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// `INVALID_ARGUMENT`, with every bad field.
pub fn invalid(violations: &[Violation]) -> Status {
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
pub fn field<T: std::str::FromStr<Err = InvalidValue>>(name: &str, text: &str) -> Result<T, Status> {
    text.parse()
        .map_err(|reason: InvalidValue| invalid(&[Violation::new(Path::root(name).to_string(), reason.to_string())]))
}

/// `FAILED_PRECONDITION`: what stands against the request, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// Of the `ErrorInfo`, and the violation's type.
    pub reason: &'static str,
    /// The field or resource.
    pub subject: String,
    /// A sentence.
    pub description: String,
}

/// `FAILED_PRECONDITION`, with all that stands against the request; a reason of its own for the first.
pub fn failed_precondition(preconditions: &[Precondition]) -> Status {
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

/// `UNAVAILABLE`: worth another try.
pub fn unavailable(reason: &'static str, message: impl Into<String>) -> Status {
    Status::with_error_details(Code::Unavailable, message, details(reason, []))
}

/// Any other code, with its reason.
pub fn other(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, bounded(message.into()), details(reason, []))
}

/// `INTERNAL`: nothing that the caller did; the log has it too.
pub fn internal(error: &(dyn Error + 'static)) -> Status {
    let message = with_causes(error);
    tracing::error!(reason = %message, "a call failed");
    Status::with_error_details(Code::Internal, bounded(message), details("INTERNAL", []))
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
