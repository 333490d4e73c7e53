//! Verbs as an operator of many hosts does them: objects come as JSON, and it tells itself which columns they have.

pub(crate) mod apply;
pub(crate) mod cordon;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod host;
mod kinds;
mod object_watch;
pub(crate) mod scale;
pub(crate) mod tree;

use goliath_proto::operator::v1::GetObjectRequest;
use serde_json::Value;

use crate::{connection::Operator, failure::Failure, refusal::Refusal};

/// An object of the operator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object(pub(crate) Value);

impl Object {
    /// The operator sends nothing else; were it something else, it would be shown as it is.
    pub(crate) fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())))
    }

    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub(crate) fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// For people: `cluster acme`.
    pub(crate) fn title(&self) -> String {
        title(self.kind(), self.name())
    }

    pub(crate) fn is_being_deleted(&self) -> bool {
        !self.text("/metadata/deletionTimestamp").is_empty()
    }

    /// What is said of a condition.
    pub(crate) fn condition(&self, name: &str) -> Option<&Value> {
        let conditions = self.0.pointer("/status/conditions")?.as_array()?;
        conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(name))
    }
}

/// For people: `cluster acme`.
pub(crate) fn title(kind: &str, name: &str) -> String {
    format!("{} {name}", kind.to_lowercase())
}

/// What belongs to a cluster may be named as agents name guests, `acme/master-0`; here it is `acme.master-0`.
pub(crate) fn full_name(name: &str) -> String {
    name.replacen('/', ".", 1)
}

async fn get_object(operator: &Operator, kind: &str, name: &str) -> Result<Object, Failure> {
    let request = GetObjectRequest { kind: kind.to_owned(), name: name.to_owned() };
    let response = operator.objects().get_object(request).await;
    let response = response.map_err(|status| Refusal::by_operator(format!("get {}", title(kind, name)), &status))?;
    Ok(Object::parse(&response.into_inner().object))
}
