use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer, de::Error as _, ser::SerializeStruct};
use serde_json::Value;

use super::{FieldProblem, ResourceVersion, StoreError, semantics};
use crate::objects::{API_VERSION, Kind, Object, ObjectMeta, OwnerReference, with_kind};

/// An object of any kind. Its spec and status are kept as text that its kind's types wrote, so it is always one that
/// they read. Cheap to clone.
#[derive(Clone)]
pub struct AnyObject(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    kind: Kind,
    metadata: ObjectMeta,
    spec: Arc<str>,
    status: Option<Arc<str>>,
}

/// A manifest before its kind is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Value,
    #[serde(default)]
    status: Option<Value>,
}

impl AnyObject {
    /// The typed object as one of any kind.
    pub fn encode<T: Object>(object: &T) -> Result<Self, StoreError> {
        let metadata = object.meta().clone();
        let text = |part: Result<String, serde_json::Error>| {
            part.map(Arc::from).map_err(|error| StoreError::Invalid {
                kind: T::KIND,
                name: metadata.name.clone().unwrap_or_default(),
                problems: vec![FieldProblem { path: "spec".to_owned(), message: error.to_string() }],
            })
        };
        let spec = text(serde_json::to_string(object.spec()))?;
        let status = object.status().map(|status| text(serde_json::to_string(status))).transpose()?;
        Ok(Self::from_texts(T::KIND, metadata, spec, status))
    }

    /// The object as its type. The error is for objects that another version of the program wrote,
    /// and for another type than that of its kind.
    pub fn decode<T: Object>(&self) -> Result<T, StoreError> {
        let unreadable =
            |error| StoreError::Unreadable { kind: self.kind(), name: self.name().to_owned(), source: Arc::new(error) };
        if self.kind() != T::KIND {
            return Err(unreadable(serde_json::Error::custom(format!("it is not a {}", T::KIND))));
        }
        let spec = serde_json::from_str(self.spec()).map_err(unreadable)?;
        let status = self.status().map(serde_json::from_str).transpose().map_err(unreadable)?;
        Ok(T::from_parts(self.0.metadata.clone(), spec, status))
    }

    /// Reads a manifest of any kind; defaults are filled in. Unknown fields of metadata are passed over, as everywhere.
    pub fn from_json(manifest: Value) -> Result<Self, serde_json::Error> {
        let Manifest { api_version, kind, metadata, spec, status } = serde_json::from_value(manifest)?;
        if api_version != API_VERSION {
            return Err(serde_json::Error::custom(format!("apiVersion is {api_version:?}: {API_VERSION} is known")));
        }
        let kind = Kind::ALL.iter().copied().find(|known| known.as_str() == kind).ok_or_else(|| {
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            serde_json::Error::custom(format!("kind is {kind:?}: there are {}", known.join(", ")))
        })?;
        with_kind!(kind, T => {
            let object = T::from_parts(metadata, serde_json::from_value(spec)?, status.map(serde_json::from_value).transpose()?);
            Self::encode(&object).map_err(serde_json::Error::custom)
        })
    }

    pub(super) fn from_texts(kind: Kind, metadata: ObjectMeta, spec: Arc<str>, status: Option<Arc<str>>) -> Self {
        Self(Arc::new(Parts { kind, metadata, spec, status }))
    }

    /// Which kind.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Unique in its kind; empty where none was given yet.
    pub fn name(&self) -> &str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    /// Name, labels and the rest.
    pub fn metadata(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    /// The spec, JSON.
    pub fn spec(&self) -> &str {
        &self.0.spec
    }

    /// The status, JSON.
    pub fn status(&self) -> Option<&str> {
        self.0.status.as_deref()
    }

    /// When it was last written; none before it was.
    pub fn resource_version(&self) -> Option<ResourceVersion> {
        self.0.metadata.resource_version.as_ref().and_then(|text| text.parse().ok())
    }

    /// What stands against writing it, whatever is there already.
    pub fn problems(&self) -> Vec<FieldProblem> {
        semantics::problems(self)
    }

    /// The same with other metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: ObjectMeta) -> Self {
        Arc::make_mut(&mut self.0).metadata = metadata;
        self
    }

    pub(super) fn with_resource_version(mut self, version: ResourceVersion) -> Self {
        Arc::make_mut(&mut self.0).metadata.resource_version = Some(version.to_string());
        self
    }

    pub(super) fn with_spec_of(mut self, other: &Self) -> Self {
        Arc::make_mut(&mut self.0).spec = Arc::clone(&other.0.spec);
        self
    }

    pub(super) fn with_status_of(mut self, other: &Self) -> Self {
        Arc::make_mut(&mut self.0).status.clone_from(&other.0.status);
        self
    }

    pub(super) fn without_status(mut self) -> Self {
        if self.0.status.is_some() {
            Arc::make_mut(&mut self.0).status = None;
        }
        self
    }

    /// Whether both say the same. Texts that differ are compared as their types read them: a newer version of the
    /// program writes more defaults, and those are no change.
    pub(crate) fn same_spec(&self, other: &Self) -> bool {
        self.spec() == other.spec()
            || with_kind!(self.kind(), T => same::<<T as kube::core::object::HasSpec>::Spec>(self.spec(), other.spec()))
    }

    /// As [`Self::same_spec`], of statuses.
    pub(super) fn same_status(&self, other: &Self) -> bool {
        match (self.status(), other.status()) {
            (Some(one), Some(two)) if one != two => {
                with_kind!(self.kind(), T => same::<<T as kube::core::object::HasStatus>::Status>(one, two))
            }
            (one, two) => one == two,
        }
    }

    /// About how much memory it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        let metadata = self.metadata();
        let texts = metadata.annotations.iter().chain(&metadata.labels).flatten();
        let texts: usize = texts.map(|(key, value)| key.len() + value.len()).sum();
        let owners = metadata.owner_references.as_ref().map_or(0, |owners| owners.len() * size_of::<OwnerReference>());
        size_of::<Parts>() + 512 + texts + owners + self.spec().len() + self.status().map_or(0, str::len)
    }
}

fn same<T: serde::de::DeserializeOwned + PartialEq>(one: &str, two: &str) -> bool {
    match (serde_json::from_str::<T>(one), serde_json::from_str::<T>(two)) {
        (Ok(one), Ok(two)) => one == two,
        _ => false,
    }
}

impl PartialEq for AnyObject {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind()
            && self.metadata() == other.metadata()
            && self.spec() == other.spec()
            && self.status() == other.status()
    }
}

/// The whole manifest.
impl Serialize for AnyObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |text: &str| serde_json::from_str::<Value>(text).map_err(<S::Error as serde::ser::Error>::custom);
        let mut manifest = serializer.serialize_struct("AnyObject", 5)?;
        manifest.serialize_field("apiVersion", API_VERSION)?;
        manifest.serialize_field("kind", self.kind().as_str())?;
        manifest.serialize_field("metadata", self.metadata())?;
        manifest.serialize_field("spec", &value(self.spec())?)?;
        match self.status() {
            Some(status) => manifest.serialize_field("status", &value(status)?)?,
            None => manifest.skip_field("status")?,
        }
        manifest.end()
    }
}

/// Who it is; specs may hold secrets.
impl fmt::Debug for AnyObject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.metadata().resource_version.as_deref().unwrap_or("none");
        write!(formatter, "{} {} at {version}", self.kind(), self.name())
    }
}
