//! What the agent answered instead of doing what it was asked: every detail that it gave.

use std::{error::Error, fmt};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{failure::ExitCode, manifest::Document};

/// An RPC that did not succeed.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Answer>);

#[derive(Debug)]
struct Answer {
    /// What was asked, as a clause: "apply guest acme/worker-0".
    action: String,
    code: Code,
    message: String,
    details: Vec<Detail>,
    /// The other side rejected our certificate, which TLS 1.3 tells only after the connection is made.
    tls_alert: Option<String>,
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
    pub(crate) fn new(action: impl Into<String>, status: &Status) -> Self {
        Self(Box::new(Answer {
            action: action.into(),
            code: status.code(),
            message: status.message().to_owned(),
            details: details(status, None),
            tls_alert: tls_alert(status),
        }))
    }

    /// With the fields shown where they stand in the manifest.
    pub(crate) fn of_document(document: &Document, status: &Status) -> Self {
        let mut refusal = Self::new(format!("apply {}", document.item.title()), status);
        refusal.0.details = details(status, Some(document));
        refusal
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.0.code {
            _ if self.0.tls_alert.is_some() => ExitCode::NotPermitted,
            Code::NotFound => ExitCode::NotFound,
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::Aborted => ExitCode::Refused,
            // Our own time limit comes as CANCELLED.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ExitCode::Unreachable,
            Code::PermissionDenied | Code::Unauthenticated => ExitCode::NotPermitted,
            _ => ExitCode::Error,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        if self.0.tls_alert.is_some() {
            return Some(
                "give a certificate that the agent's client_ca signed: --cert and --key, or a context".to_owned(),
            );
        }
        let hint = match self.0.code {
            Code::Unavailable => {
                "the connection ended: `systemctl status goliath-agent` on the host says whether the agent runs"
            }
            Code::DeadlineExceeded | Code::Cancelled => {
                "the agent is there and slow: try again, or with a longer --request-timeout"
            }
            Code::PermissionDenied | Code::Unauthenticated => {
                "on the machine be root or in the group goliath; over the network use an operator's certificate"
            }
            Code::Unimplemented => "the agent does not know this request: is it older than this command?",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot {}: ", self.0.action)?;
        match &self.0.tls_alert {
            Some(alert) => write!(formatter, "the agent did not accept our certificate: {alert}")?,
            None if self.0.message.is_empty() => write!(formatter, "{}", self.0.code.description())?,
            None => formatter.write_str(&self.0.message)?,
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

fn details(status: &Status, document: Option<&Document>) -> Vec<Detail> {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    let line = |subject: &str, description: &str| Detail::Line {
        subject: subject.to_owned(),
        description: description.to_owned(),
    };
    for violation in details.bad_request().map(|request| &request.field_violations).into_iter().flatten() {
        lines.push(match document {
            Some(document) => Detail::InFile(document.complaint(&violation.field, &violation.description).to_string()),
            None => line(&violation.field, &violation.description),
        });
    }
    for violation in details.precondition_failure().map(|failure| &failure.violations).into_iter().flatten() {
        lines.push(line(&violation.subject, &violation.description));
    }
    for violation in details.quota_failure().map(|failure| &failure.violations).into_iter().flatten() {
        lines.push(line(&violation.subject, &violation.description));
    }
    for link in details.help().map(|help| &help.links).into_iter().flatten() {
        lines.push(line(&link.url, &link.description));
    }
    // What only repeats the message tells nothing new.
    lines.retain(|detail| !matches!(detail, Detail::Line { description, .. } if description == status.message()));
    lines
}

/// The alert that the other side's TLS sent, found below the layers of HTTP.
fn tls_alert(status: &Status) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if let Some(alert) = rustls_alert(error) {
            return Some(alert);
        }
        cause = error.source();
    }
    None
}

/// An io::Error hides what it wraps from `source`.
pub(crate) fn rustls_alert(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref::<rustls::Error>() {
        return Some(format!("{alert:?}"));
    }
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    rustls_alert(inner)
}
