//! The operator's objects, followed as a controller would follow them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use goliath_proto::operator::v1::{
    WatchObjectsRequest, WatchObjectsResponse, object_service_client::ObjectServiceClient, watch_objects_response::Type,
};
use serde_json::Value;
use tonic::Streaming;

use super::Operator;

/// A cluster of emulated guests comes up in half a minute; a machine with two busy processors is slower.
const LIMIT: Duration = Duration::from_mins(4);
/// Between two tries to reach an operator that is being started again.
const AGAIN: Duration = Duration::from_millis(100);

/// The objects of a kind, by name.
pub type Objects = BTreeMap<String, Value>;

impl Operator {
    /// Waits until the objects of a kind are as wanted, and gives them. An operator that is killed meanwhile is waited for.
    pub async fn until(&self, what: &str, kind: &str, wanted: impl Fn(&Objects) -> bool) -> Result<Objects> {
        let mut objects = Objects::new();
        let followed = async {
            loop {
                match self.follow(kind, &mut objects, &wanted).await {
                    Ok(()) => return,
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        };
        let followed = tokio::time::timeout(LIMIT, followed).await;
        if followed.is_err() {
            bail!("{what} was not seen within {LIMIT:?}: {}", serde_json::to_string_pretty(&statuses(&objects))?);
        }
        Ok(objects)
    }

    /// Waits until there is an object of this name with a condition that is true.
    pub async fn until_true(&self, kind: &str, name: &str, condition: &str) -> Result<Value> {
        let what = format!("{kind} {name} being {condition}");
        let is_true = |objects: &Objects| objects.get(name).is_some_and(|object| is_true(object, condition));
        self.until(&what, kind, is_true).await?.remove(name).context("it is gone again")
    }

    /// Ends with the stream, or when the objects are as wanted.
    async fn follow(&self, kind: &str, objects: &mut Objects, wanted: impl Fn(&Objects) -> bool) -> Result<()> {
        objects.clear();
        let mut changes = self.watch(kind).await?;
        // What is there already comes first; before its end nothing can be said of what is missing.
        let mut complete = false;
        while let Some(change) = changes.message().await? {
            let kind = change.r#type();
            if kind == Type::Bookmark {
                complete = true;
            } else {
                let object: Value = serde_json::from_str(&change.object)?;
                let name = object.pointer("/metadata/name").and_then(Value::as_str).context("no name")?.to_owned();
                match kind {
                    Type::Deleted => objects.remove(&name),
                    _ => objects.insert(name, object),
                };
            }
            if complete && wanted(objects) {
                return Ok(());
            }
        }
        bail!("the watch ended")
    }

    async fn watch(&self, kind: &str) -> Result<Streaming<WatchObjectsResponse>> {
        let request = WatchObjectsRequest { kind: kind.to_owned(), ..Default::default() };
        let mut service = ObjectServiceClient::new(self.channel("viewer").await?);
        Ok(service.watch_objects(request).await?.into_inner())
    }
}

/// Whether an object has a condition that is true.
pub fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let named = conditions.into_iter().flatten().find(|entry| entry.get("type").is_some_and(|name| name == condition));
    named.is_some_and(|entry| entry.get("status").is_some_and(|status| status == "True"))
}

/// A text of an object, by its JSON pointer; empty where there is none.
pub fn text<'o>(object: &'o Value, pointer: &str) -> &'o str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn statuses(objects: &Objects) -> BTreeMap<&String, Option<&Value>> {
    objects.iter().map(|(name, object)| (name, object.pointer("/status/conditions"))).collect()
}
