//! Errors as callers get them; docs/operator.md lists the reasons.

use std::fmt::Display;

use goliath_server::{
    status::{self, details},
    violations::Violation,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    objects::Kind,
    store::{FieldProblem, StoreError, Unavailable, WatchError},
};

/// One field of a request as a value, or `INVALID_ARGUMENT`.
pub(super) fn field<T: std::str::FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|reason: T::Err| bad_field(name, reason.to_string()))
}

/// `INVALID_ARGUMENT` for one field.
pub(super) fn bad_field(name: &str, reason: impl Into<String>) -> Status {
    status::invalid(&[Violation::new(name, reason)])
}

/// `NOT_FOUND`.
pub(super) fn not_found(kind: Kind, name: &str) -> Status {
    let message = format!("there is no {kind} {name}");
    let mut details = details("OBJECT_NOT_FOUND", [("kind", kind.to_string()), ("name", name.to_owned())]);
    details.set_resource_info(kind.as_str(), name, "", &message);
    Status::with_error_details(Code::NotFound, message, details)
}

/// `ALREADY_EXISTS`.
pub(super) fn already_exists(kind: Kind, name: &str) -> Status {
    let message = format!("there is a {kind} {name} already");
    let mut details = details("ALREADY_EXISTS", [("kind", kind.to_string()), ("name", name.to_owned())]);
    details.set_resource_info(kind.as_str(), name, "", &message);
    Status::with_error_details(Code::AlreadyExists, message, details)
}

/// `OUT_OF_RANGE`: a place from which no watch can go on.
pub(super) fn expired(reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(Code::OutOfRange, message, details(reason, []))
}

/// `UNAVAILABLE`: the operator ends; guests do not.
pub(super) fn shutting_down() -> Status {
    status::unavailable("OPERATOR_ENDING", "the operator is ending; what runs goes on: call again when it is back")
}

/// `ABORTED`: somebody was faster, again and again.
pub(super) fn conflict(what: impl Display) -> Status {
    let message = format!("{what} was changed by somebody else at the same time: try again");
    status::other(Code::Aborted, "CONFLICT", message)
}

/// What a store's refusal means to the caller; fields are told below this prefix.
pub(super) fn of_store(error: &StoreError, prefix: &str) -> Status {
    match error {
        StoreError::NotFound { kind, name } => not_found(*kind, name),
        StoreError::AlreadyExists { kind, name } => already_exists(*kind, name),
        StoreError::Conflict { kind, name, .. } => conflict(format_args!("{kind} {name}")),
        StoreError::Invalid { problems, .. } => status::invalid(&violations(problems, prefix)),
        StoreError::Expired(_) => expired("RESOURCE_VERSION_EXPIRED", error.to_string()),
        StoreError::Unreadable { .. } => status::internal(error),
        StoreError::Unavailable(Unavailable::Closed) => shutting_down(),
        StoreError::Unavailable(Unavailable::Slow | Unavailable::Storage(_)) => {
            status::unavailable("STORE_UNAVAILABLE", goliath_server::errors::with_causes(error))
        }
    }
}

/// Why a watch ended.
pub(super) fn of_watch(error: &WatchError) -> Status {
    match error {
        WatchError::Expired(_) => expired("RESOURCE_VERSION_EXPIRED", error.to_string()),
        WatchError::Closed => shutting_down(),
        WatchError::Store(error) => of_store(error, ""),
    }
}

/// Problems of an object's fields, below a prefix.
pub(super) fn violations(problems: &[FieldProblem], prefix: &str) -> Vec<Violation> {
    let below = |path: &str| if prefix.is_empty() { path.to_owned() } else { format!("{prefix}.{path}") };
    problems.iter().map(|problem| Violation::new(below(&problem.path), &problem.message)).collect()
}
