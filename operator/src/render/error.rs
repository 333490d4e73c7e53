use std::{error::Error as _, fmt, io, path::PathBuf};

use minijinja::ErrorKind;

use crate::objects::TemplateName;

/// Why a document cannot be rendered. Values of templates are not in it: they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template {template}{}: {problem}", Line(*.line))]
pub struct RenderError {
    /// Where it stopped: the template, or one that it includes.
    pub template: String,
    /// Of that template.
    pub line: Option<usize>,
    /// What is wrong; names the value where it is one that was not given.
    pub problem: String,
}

struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(formatter, ", line {line}"))
    }
}

impl RenderError {
    /// The innermost place that the template engine tells: the outer ones are the includes that led there.
    pub(super) fn of(template: &str, error: &minijinja::Error) -> Self {
        let mut innermost = error;
        while let Some(cause) = innermost.source().and_then(|cause| cause.downcast_ref::<minijinja::Error>()) {
            innermost = cause;
        }
        let problem = match (innermost.kind(), innermost.detail()) {
            (ErrorKind::OutOfFuel, _) => "takes too long: does it ever end?".to_owned(),
            (ErrorKind::UndefinedError, Some(detail)) => detail.to_owned(),
            (ErrorKind::UndefinedError, None) => "a value is not defined".to_owned(),
            (kind, Some(detail)) => format!("{kind}: {detail}"),
            (kind, None) => kind.to_string(),
        };
        Self { template: innermost.name().unwrap_or(template).to_owned(), line: innermost.line(), problem }
    }

    /// It renders, but to something that no guest can read.
    pub(super) fn gives(template: &str, problem: impl fmt::Display) -> Self {
        Self { template: template.to_owned(), line: None, problem: format!("gives a document that {problem}") }
    }

    pub(super) fn unknown(name: &TemplateName, known: &[String]) -> Self {
        let problem = format!("there is none of this name: there are {}", known.join(", "));
        Self { template: name.to_string(), line: None, problem }
    }
}

/// Why templates cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TemplatesError {
    /// The directory cannot be read, or something in it.
    #[error("{} cannot be read as a template", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One is not in the language of templates.
    #[error(transparent)]
    Template(RenderError),
}
