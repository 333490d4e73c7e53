//! What the agent, or the operator, answered instead of doing what it was asked: every detail that it gave.

use std::{error::Error, fmt};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{connection::Server, failure::ExitCode, manifest::Document};

/// An RPC that did not succeed.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Answer>);

#[derive(Debug)]
struct Answer {
    server: Server,
    /// What was asked, as a clause: "apply guest acme/worker-0".
    action: String,
    code: Code,
    message: String,
    details: Vec<Detail>,
    origin: Origin,
    /// What the caller knows to do.
    hint: Option<&'static str>,
}

/// Shows what is said of a field where it stands in a file; none where it stands in none.
pub(crate) type Locate<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// Who said that it did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Server,
    /// Our own time limit.
    Clock,
    /// The connection broke before there was an answer.
    Transport,
}

impl Origin {
    fn of(status: &Status) -> Self {
        let mut cause = status.source();
        if cause.is_none() {
            return Self::Server;
        }
        while let Some(error) = cause {
            if error.is::<tonic::TimeoutExpired>() {
                return Self::Clock;
            }
            cause = error.source();
        }
        Self::Transport
    }
}

#[derive(Debug)]
enum Detail {
    Line {
        subject: String,
        description: String,
    },
    /// A field of a manifest, shown where it stands there.
    InFile(String),
}

impl Refusal {
    /// Of an agent.
    pub(crate) fn new(action: impl Into<String>, status: &Status) -> Self {
        Self::read(Server::Agent, action.into(), None, status)
    }

    /// Of an agent, with the fields shown where they stand in the manifest.
    pub(crate) fn of_document(document: &Document, status: &Status) -> Self {
        let locate = |field: &str, reason: &str| Some(document.complaint(field, reason).to_string());
        Self::read(Server::Agent, format!("apply {}", document.item.title()), Some(&locate), status)
    }

    /// Of an operator.
    pub(crate) fn by_operator(action: impl Into<String>, status: &Status) -> Self {
        Self::read(Server::Operator, action.into(), None, status)
    }

    /// Of an operator, with fields shown where they stand in files, as far as they do.
    pub(crate) fn in_files(action: impl Into<String>, status: &Status, locate: Locate<'_>) -> Self {
        Self::read(Server::Operator, action.into(), Some(locate), status)
    }

    fn read(server: Server, action: String, locate: Option<Locate<'_>>, status: &Status) -> Self {
        Self(Box::new(Answer {
            server,
            action,
            code: status.code(),
            message: message(server, status, locate.is_some()),
            details: details(status, locate),
            origin: Origin::of(status),
            hint: None,
        }))
    }

    /// With what to do about it.
    pub(crate) fn with_hint(mut self, hint: Option<&'static str>) -> Self {
        self.0.hint = hint;
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.0.code {
            _ if self.0.origin != Origin::Server => ExitCode::Unreachable,
            Code::NotFound => ExitCode::NotFound,
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Aborted => ExitCode::Refused,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ExitCode::Unreachable,
            Code::PermissionDenied | Code::Unauthenticated => ExitCode::NotPermitted,
            _ => ExitCode::Error,
        }
    }

    /// The connection broke: nobody knows yet why.
    pub(crate) fn is_connection_lost(&self) -> bool {
        self.0.origin == Origin::Transport
    }

    pub(crate) fn hint(&self) -> Option<String> {
        if let Some(hint) = self.0.hint {
            return Some(hint.to_owned());
        }
        let hint = match (self.0.origin, self.0.code) {
            (Origin::Transport, _) if self.0.server == Server::Operator => {
                "`systemctl status goliath-operator` on its machine says whether the operator runs"
            }
            (Origin::Clock, _) | (_, Code::DeadlineExceeded) if self.0.server == Server::Operator => {
                "the operator is there and slow: try again, or with a longer --request-timeout"
            }
            (_, Code::PermissionDenied | Code::Unauthenticated) if self.0.server == Server::Operator => {
                "the operator knows roles by the organisations of certificates: [roles] in its operator.toml"
            }
            (_, Code::Unimplemented) if self.0.server == Server::Operator => {
                "the operator does not know this request: is it older than this command?"
            }
            (Origin::Transport, _) => "`systemctl status goliath-agent` on the host says whether the agent runs",
            (Origin::Clock, _) | (_, Code::DeadlineExceeded) => {
                "the agent is there and slow: try again, or with a longer --request-timeout"
            }
            (_, Code::PermissionDenied | Code::Unauthenticated) => {
                "on the machine be root or in the group goliath; over the network use an operator's certificate"
            }
            (_, Code::Unimplemented) => "the agent does not know this request: is it older than this command?",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot {}: ", self.0.action)?;
        match (self.0.origin, self.0.message.as_str()) {
            (Origin::Transport, _) => write!(formatter, "the connection to the {} broke", self.0.server)?,
            (Origin::Clock, _) => write!(formatter, "the {} did not answer in time", self.0.server)?,
            (Origin::Server, "") => formatter.write_str(self.0.code.description())?,
            (Origin::Server, message) => formatter.write_str(message)?,
        }
        for detail in &self.0.details {
            match detail {
                Detail::Line { subject, description } if subject.is_empty() => write!(formatter, "\n  {description}")?,
                Detail::Line { subject, description } => write!(formatter, "\n  {subject}: {description}")?,
                Detail::InFile(text) => write!(formatter, "\n\n{text}")?,
            }
        }
        Ok(())
    }
}

impl Error for Refusal {}

/// The fields are told one by one below: there the message only counts them.
fn message(server: Server, status: &Status, has_files: bool) -> String {
    let preconditions = status.get_details_precondition_failure().map(|failure| failure.violations).unwrap_or_default();
    let in_file = has_files && !preconditions.is_empty();
    match status.get_details_bad_request().map_or(0, |request| request.field_violations.len()) {
        0 if in_file && preconditions.iter().all(|violation| is_field(&violation.subject)) => match server {
            Server::Agent => "what the host has stands against it".to_owned(),
            Server::Operator => "what is there stands against it".to_owned(),
        },
        0 => status.message().to_owned(),
        1 => format!("the {server} does not accept a field"),
        fields => format!("the {server} does not accept {fields} fields"),
    }
}

/// Whether something stands against a field of the request, and not against the request as a whole.
fn is_field(subject: &str) -> bool {
    ["spec.", "peers.", "manifests["].iter().any(|start| subject.starts_with(start))
}

/// The agent's sentences begin with the field where they must be understood alone.
fn without_field<'d>(field: &str, description: &'d str) -> &'d str {
    description.strip_prefix(field).map_or(description, |rest| rest.trim_start_matches([':', ' ']))
}

fn details(status: &Status, locate: Option<Locate<'_>>) -> Vec<Detail> {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    let line = |subject: &str, description: &str| Detail::Line {
        subject: subject.to_owned(),
        description: description.to_owned(),
    };
    for violation in details.bad_request().map(|request| &request.field_violations).into_iter().flatten() {
        let (field, reason) = (&violation.field, &violation.description);
        let shown = locate.filter(|_| !field.is_empty()).and_then(|locate| locate(field, reason));
        lines.push(shown.map_or_else(|| line(field, reason), Detail::InFile));
    }
    for violation in details.precondition_failure().map(|failure| &failure.violations).into_iter().flatten() {
        let (subject, reason) = (&violation.subject, &violation.description);
        let shown = locate.filter(|_| is_field(subject));
        let shown = shown.and_then(|locate| locate(subject, without_field(subject, reason)));
        lines.push(shown.map_or_else(|| line(subject, reason), Detail::InFile));
    }
    for violation in details.quota_failure().map(|failure| &failure.violations).into_iter().flatten() {
        lines.push(line(&violation.subject, &violation.description));
    }
    for link in details.help().map(|help| &help.links).into_iter().flatten() {
        lines.push(line(&link.url, &link.description));
    }
    // What the message says already tells nothing new.
    let told = |detail: &Detail| matches!(detail, Detail::Line { subject, description } if !subject.is_empty() && status.message().contains(description.as_str()));
    if details.bad_request().is_none() {
        lines.retain(|detail| !told(detail));
    }
    lines
}
