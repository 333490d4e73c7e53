//! Manifests as callers send them, into objects: strictly, and with everything that is wrong with them.

mod strict;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::LazyLock};

use goliath_server::violations::{Path, Violation};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    objects::{API_VERSION, Kind, Object, ObjectMeta, OwnerReference, definitions, with_kind},
    store::AnyObject,
};

/// What a caller wants an object to be.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    /// With name, labels, annotations and spec; nothing else is the caller's to say.
    pub(super) object: AnyObject,
    /// What it says of the object that is there; a manifest that was printed from it has all of this.
    pub(super) about: About,
    /// Whether it says if the host is cordoned.
    pub(super) says_cordoned: bool,
}

/// What a manifest says of the object that is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct About {
    pub(super) uid: Option<String>,
    pub(super) generation: Option<i64>,
    pub(super) finalizers: Vec<String>,
    pub(super) owners: Vec<OwnerReference>,
}

impl Manifest {
    pub(super) fn kind(&self) -> Kind {
        self.object.kind()
    }

    pub(super) fn name(&self) -> &str {
        self.object.name()
    }
}

/// The schemas of the kinds, as their definitions have them.
static SCHEMAS: LazyLock<BTreeMap<Kind, JSONSchemaProps>> = LazyLock::new(|| {
    let schema =
        |definition: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
            definition.spec.versions.into_iter().find_map(|version| version.schema?.open_api_v3_schema)
        };
    let schemas = Kind::ALL.iter().zip(definitions());
    schemas.filter_map(|(kind, definition)| Some((*kind, schema(definition)?))).collect()
});

/// What stands around a spec.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "read so that it is known")]
struct Envelope {
    api_version: KnownVersion,
    kind: KnownKind,
    metadata: Metadata,
    spec: IgnoredAny,
    /// Read over, so that what `get` prints can be applied.
    #[serde(default)]
    status: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "read so that it is known")]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    uid: Option<String>,
    generation: Option<i64>,
    #[serde(default)]
    finalizers: Vec<String>,
    #[serde(default)]
    owner_references: Vec<OwnerReference>,
    #[serde(default)]
    creation_timestamp: IgnoredAny,
    #[serde(default)]
    deletion_timestamp: IgnoredAny,
    #[serde(default)]
    deletion_grace_period_seconds: IgnoredAny,
    #[serde(default)]
    resource_version: IgnoredAny,
    #[serde(default)]
    managed_fields: IgnoredAny,
    #[serde(default)]
    self_link: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct KnownVersion;

impl TryFrom<String> for KnownVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == API_VERSION { Ok(Self) } else { Err(format!("is {text:?}: {API_VERSION} is known")) }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct KnownKind(Kind);

impl TryFrom<String> for KnownKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // In a manifest nothing but the kind itself, as everywhere.
        Kind::ALL.iter().find(|kind| kind.as_str() == text).map(|kind| Self(*kind)).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("is {text:?}: there are {}", known.join(", "))
        })
    }
}

/// Reads the manifest at a place of a request.
pub(super) fn read(at: &Path, text: &str) -> Result<Manifest, Vec<Violation>> {
    let manifest: Value = serde_json::from_str(text)
        .map_err(|error| vec![Violation::new(at.to_string(), format!("is not JSON: {error}"))])?;
    let mut violations = strict::missing(at, &manifest, &["apiVersion", "kind", "metadata", "spec"]);
    if let Some(metadata) = manifest.get("metadata") {
        violations.extend(strict::missing(&at.field("metadata"), metadata, &["name"]));
    }
    let kind = manifest.get("kind").and_then(|kind| KnownKind::deserialize(kind).ok()).map(|KnownKind(kind)| kind);
    let envelope = strict::parse::<Envelope>(at, &manifest, &mut violations);
    let spec = match (kind, manifest.get("spec")) {
        (Some(kind), Some(spec)) => with_kind!(kind, T => read_spec::<T>(&at.field("spec"), spec, &mut violations)),
        _ => None,
    };
    let (Some(envelope), Some(spec)) = (envelope, spec) else { return Err(violations) };
    let Metadata { name, labels, annotations, uid, generation, finalizers, owner_references, .. } = envelope.metadata;
    if let Err(reason) = envelope.kind.0.check_name(&name) {
        violations.push(Violation::new(at.field("metadata").field("name").to_string(), reason.to_string()));
    }
    let object = spec.with_metadata(ObjectMeta {
        name: Some(name),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    });
    for problem in object.problems() {
        // Of the name it was said above, with what is allowed.
        if problem.path != "metadata.name" {
            violations.push(Violation::new(at.field(&problem.path).to_string(), problem.message));
        }
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(Manifest {
        object,
        about: About { uid, generation, finalizers, owners: owner_references },
        says_cordoned: manifest.pointer("/spec/cordoned").is_some(),
    })
}

fn read_spec<T: Object>(at: &Path, spec: &Value, violations: &mut Vec<Violation>) -> Option<AnyObject> {
    let schema = SCHEMAS.get(&T::KIND).and_then(|schema| schema.properties.as_ref()?.get("spec"));
    if let Some(schema) = schema {
        strict::required(at, spec, schema, violations);
    }
    let spec = strict::parse::<T::Spec>(at, spec, violations)?;
    AnyObject::encode(&T::from_parts(ObjectMeta::default(), spec, None))
        .map_err(|error| violations.push(Violation::new(at.to_string(), error.to_string())))
        .ok()
}
