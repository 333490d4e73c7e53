//! Why an agent did not do what it was asked, by what to do about it.

use std::{fmt, time::Duration};

use goliath_proto::values::HostName;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::CredentialsError;

/// Why an agent did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentError {
    /// Nobody answers there, or not any more: dial again. Whether the call had an effect is not known.
    #[error("the agent cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long: dial again. Whether the call has, or will have, an effect is not known until the connection is
    /// closed.
    #[error("the agent did not answer within {} s", .0.as_secs_f32())]
    NoAnswer(Duration),
    /// Another machine answers: nothing was told to it. Mend the address, or the name in the agent's configuration.
    #[error("asked for {asked}, and the agent that answers calls itself {answered:?}: is the address right?")]
    WrongHost {
        /// The Host object's name.
        asked: HostName,
        /// What the agent says.
        answered: String,
    },
    /// Our own certificate files are no good.
    #[error("the operator's own TLS files are no good")]
    Credentials(#[source] CredentialsError),
    /// It has no such thing.
    #[error("the agent has no such thing")]
    NotFound,
    /// Changes after that revision are forgotten, or were of another life of the agent: list again.
    #[error("the agent does not know that revision any more")]
    RevisionGone,
    /// It understood and will not: nothing was changed. Asking the same again gets the same answer until something else
    /// changes.
    #[error("the agent refused: {0}")]
    Refused(Refusal),
    /// It failed; its log has more. Ask again later.
    #[error("the agent failed: {0}")]
    Failed(String),
}

/// What an agent has against a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
    /// The fields or resources, each with what is wrong.
    pub problems: Vec<Problem>,
}

/// One thing that an agent has against a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As the agent's API calls it: `spec.machine.vcpus`.
    pub subject: String,
    /// What is wrong with it.
    pub description: String,
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Fields that it does not take.
    Invalid,
    /// It holds a newer generation.
    NewerGenerationHeld,
    /// It holds the same generation, which says something else.
    GenerationReused,
    /// What is to be changed is being deleted.
    Deleting,
    /// It takes no new guests.
    Cordoned,
    /// It lacks memory, disk or vCPUs.
    Full,
    /// A network that guests are in.
    InUse,
    /// We are not allowed to.
    NotPermitted,
    /// Anything else that stands against it.
    Other,
}

impl RefusalKind {
    /// As a condition's reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::NewerGenerationHeld => "NewerGenerationHeld",
            Self::GenerationReused => "GenerationReused",
            Self::Deleting => "Deleting",
            Self::Cordoned => "HostCordoned",
            Self::Full => "HostFull",
            Self::InUse => "InUse",
            Self::NotPermitted => "NotPermitted",
            Self::Other => "Refused",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The message tells the first problem of bad fields, and all of everything else.
        match (self.kind, self.problems.as_slice()) {
            (RefusalKind::Invalid, [first, rest @ ..]) => {
                write!(formatter, "{} {}", first.subject, first.description)?;
                rest.iter().try_for_each(|problem| write!(formatter, "; {} {}", problem.subject, problem.description))
            }
            _ => formatter.write_str(&self.message),
        }
    }
}

impl AgentError {
    /// The connection is gone.
    pub(crate) fn lost(reason: impl fmt::Display) -> Self {
        Self::Unreachable(reason.to_string())
    }

    /// Whether the connection is of no more use, or must be closed before anything else is believed.
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::NoAnswer(_) | Self::WrongHost { .. } | Self::Credentials(_))
    }

    /// As a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "Unreachable",
            Self::NoAnswer(_) => "NoAnswer",
            Self::WrongHost { .. } => "WrongHost",
            Self::Credentials(_) => "Credentials",
            Self::NotFound => "NotFound",
            Self::RevisionGone => "RevisionGone",
            Self::Refused(refusal) => refusal.kind.reason(),
            Self::Failed(_) => "AgentFailed",
        }
    }

    /// With its causes, as one sentence.
    pub fn told(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

/// What a gRPC status means to us.
impl From<Status> for AgentError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.as_str()).unwrap_or_default();
        let refused = |kind| {
            let fields = details.bad_request().into_iter().flat_map(|bad| &bad.field_violations);
            let fields = fields.map(|one| (&one.field, &one.description));
            let conditions = details.precondition_failure().into_iter().flat_map(|failure| &failure.violations);
            let conditions = conditions.map(|one| (&one.subject, &one.description));
            let quotas = details.quota_failure().into_iter().flat_map(|failure| &failure.violations);
            let quotas = quotas.map(|one| (&one.subject, &one.description));
            let problems = fields
                .chain(conditions)
                .chain(quotas)
                .map(|(subject, description)| Problem { subject: subject.clone(), description: description.clone() });
            Self::Refused(Refusal { kind, message: message.clone(), problems: problems.collect() })
        };
        match (status.code(), reason) {
            (Code::NotFound, _) => Self::NotFound,
            (Code::OutOfRange, _) => Self::RevisionGone,
            (Code::InvalidArgument, _) => refused(RefusalKind::Invalid),
            // Without details it is the transport's word: a message too large.
            (Code::ResourceExhausted, "HOST_FULL") => refused(RefusalKind::Full),
            (Code::FailedPrecondition, "STALE_GENERATION") => refused(RefusalKind::NewerGenerationHeld),
            (Code::FailedPrecondition, "REUSED_GENERATION") => refused(RefusalKind::GenerationReused),
            (Code::FailedPrecondition, "DELETING") => refused(RefusalKind::Deleting),
            (Code::FailedPrecondition, "HOST_CORDONED") => refused(RefusalKind::Cordoned),
            (Code::FailedPrecondition, "NETWORK_IN_USE") => refused(RefusalKind::InUse),
            (Code::FailedPrecondition | Code::AlreadyExists | Code::Unimplemented | Code::ResourceExhausted, _) => {
                refused(RefusalKind::Other)
            }
            (Code::PermissionDenied | Code::Unauthenticated, _) => refused(RefusalKind::NotPermitted),
            // Unknown without a reason is how the transport breaks a stream when the connection goes under it.
            (Code::Unavailable | Code::Cancelled | Code::Aborted, _) | (Code::Unknown, "") => {
                Self::lost(deepest(&status))
            }
            _ => Self::Failed(message),
        }
    }
}

/// The transport's outer layers say "transport error" and the like.
fn deepest(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, "goliath.dev", std::collections::HashMap::new());
        Status::with_error_details(code, "so it is", details)
    }

    #[test]
    fn a_refusal_has_the_paths_of_all_bad_fields() {
        let mut details =
            ErrorDetails::with_error_info("INVALID_FIELDS", "goliath.dev", std::collections::HashMap::new());
        details.set_bad_request(vec![
            FieldViolation::new("spec.image", "must be pinned by digest"),
            FieldViolation::new("spec.machine.vcpus", "is 0"),
        ]);
        let status = Status::with_error_details(Code::InvalidArgument, "spec.image must be (and 1 more)", details);
        let AgentError::Refused(refusal) = AgentError::from(status) else { panic!("it is a refusal") };
        assert_eq!(refusal.kind, RefusalKind::Invalid);
        assert_eq!(refusal.to_string(), "spec.image must be pinned by digest; spec.machine.vcpus is 0");
    }

    #[test]
    fn a_code_and_a_reason_tell_what_to_do() {
        let kind = |code, reason| match AgentError::from(status(code, reason)) {
            AgentError::Refused(refusal) => refusal.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(Code::ResourceExhausted, "HOST_FULL"), RefusalKind::Full);
        assert_eq!(kind(Code::FailedPrecondition, "STALE_GENERATION"), RefusalKind::NewerGenerationHeld);
        assert_eq!(kind(Code::FailedPrecondition, "REUSED_GENERATION"), RefusalKind::GenerationReused);
        assert_eq!(kind(Code::FailedPrecondition, "DELETING"), RefusalKind::Deleting);
        assert_eq!(kind(Code::FailedPrecondition, "HOST_CORDONED"), RefusalKind::Cordoned);
        assert_eq!(kind(Code::FailedPrecondition, "NETWORK_IN_USE"), RefusalKind::InUse);
        assert_eq!(kind(Code::FailedPrecondition, "ADDRESS_TAKEN"), RefusalKind::Other);
        assert_eq!(kind(Code::Unauthenticated, ""), RefusalKind::NotPermitted);
        assert!(matches!(AgentError::from(status(Code::NotFound, "GUEST_NOT_FOUND")), AgentError::NotFound));
        assert!(matches!(AgentError::from(status(Code::OutOfRange, "REVISION_GONE")), AgentError::RevisionGone));
        assert!(matches!(AgentError::from(status(Code::Internal, "INTERNAL")), AgentError::Failed(_)));
        assert!(AgentError::from(status(Code::Unavailable, "AGENT_ENDING")).ends_connection());
        assert!(AgentError::from(Status::unknown("h2 protocol error")).ends_connection());
        assert!(!AgentError::NotFound.ends_connection());
    }
}
