//! What a write does to an object: the rules of the Kubernetes API, as pure functions. They know nothing of where
//! objects are kept; resource versions are given out by who writes.

use jiff::Timestamp;

use super::{AnyObject, FieldProblem, Preconditions, StoreError};
use crate::objects::{ObjectMeta, OwnerReference, whole_seconds};

/// What etcd takes by default.
const LARGEST_OBJECT: usize = 1_500_000;
const LARGEST_ANNOTATIONS: usize = 256 << 10;

/// What is to be done to an object that exists.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// It is so already.
    None,
    /// Write this in its place.
    Write(AnyObject),
    /// This is its last state.
    Remove(AnyObject),
}

/// A new object as it shall be written.
pub(super) fn create(object: AnyObject, uid: String, now: Timestamp) -> Result<AnyObject, StoreError> {
    let given = object.metadata();
    let mut problems = problems_of_metadata(&object);
    if given.resource_version.is_some() {
        problems.push(problem("metadata.resourceVersion", "must not be set on an object that is to be created"));
    }
    let metadata = ObjectMeta {
        creation_timestamp: Some(whole_seconds(now)),
        deletion_grace_period_seconds: None,
        deletion_timestamp: None,
        generation: Some(1),
        managed_fields: None,
        namespace: None,
        resource_version: None,
        self_link: None,
        uid: Some(uid),
        ..normal(given)
    };
    let object = object.without_status().with_metadata(metadata);
    refuse(&object, problems)?;
    Ok(object)
}

/// Spec and metadata of an object are replaced.
pub(super) fn replace(current: &AnyObject, object: AnyObject) -> Result<Change, StoreError> {
    check_identity(current, &object)?;
    let (was, given) = (current.metadata(), object.metadata());
    let mut problems = problems_of_metadata(&object);
    if given.creation_timestamp.is_some() && given.creation_timestamp != was.creation_timestamp {
        problems.push(problem("metadata.creationTimestamp", "cannot be changed"));
    }
    if given.deletion_timestamp.is_some() && given.deletion_timestamp != was.deletion_timestamp {
        problems.push(problem("metadata.deletionTimestamp", "cannot be changed: delete the object"));
    }
    if was.deletion_timestamp.is_some() {
        let known = was.finalizers.as_deref().unwrap_or_default();
        for (index, finalizer) in given.finalizers.iter().flatten().enumerate() {
            if !known.contains(finalizer) {
                let path = format!("metadata.finalizers[{index}]");
                problems.push(problem(path, "is new: an object that is being deleted takes no more finalizers"));
            }
        }
    }
    refuse(&object, problems)?;
    let same_spec = current.same_spec(&object);
    let metadata = ObjectMeta {
        annotations: normal(given).annotations,
        finalizers: normal(given).finalizers,
        generate_name: given.generate_name.clone(),
        generation: if same_spec { was.generation } else { was.generation.map(|generation| generation + 1) },
        labels: normal(given).labels,
        owner_references: normal(given).owner_references,
        ..was.clone()
    };
    if metadata.deletion_timestamp.is_some() && metadata.finalizers.is_none() {
        return Ok(Change::Remove(object.with_metadata(metadata).with_status_of(current)));
    }
    if same_spec && metadata == *was {
        return Ok(Change::None);
    }
    let written = if same_spec { object.with_spec_of(current) } else { object };
    Ok(Change::Write(written.with_metadata(metadata).with_status_of(current)))
}

/// The status of an object is replaced.
pub(super) fn replace_status(current: &AnyObject, object: &AnyObject) -> Result<Change, StoreError> {
    check_identity(current, object)?;
    if current.same_status(object) {
        return Ok(Change::None);
    }
    let written = current.clone().with_status_of(object);
    refuse(&written, Vec::new())?;
    Ok(Change::Write(written))
}

/// The object is to go. As in Kubernetes its generation grows when it is marked.
pub(super) fn delete(current: &AnyObject, conditions: &Preconditions, now: Timestamp) -> Result<Change, StoreError> {
    let was = current.metadata();
    if let Some(uid) = &conditions.uid
        && was.uid.as_ref() != Some(uid)
    {
        return Err(conflict(current, "it is another object of the same name, with another uid"));
    }
    if let Some(version) = conditions.resource_version
        && current.resource_version() != Some(version)
    {
        return Err(conflict(current, "somebody changed it meanwhile"));
    }
    if was.finalizers.is_none() {
        return Ok(Change::Remove(current.clone()));
    }
    if was.deletion_timestamp.is_some() {
        return Ok(Change::None);
    }
    let metadata = ObjectMeta {
        deletion_grace_period_seconds: Some(0),
        deletion_timestamp: Some(whole_seconds(now)),
        generation: was.generation.map(|generation| generation + 1),
        ..was.clone()
    };
    Ok(Change::Write(current.clone().with_metadata(metadata)))
}

/// One or more of its owners are gone: the object goes when it has no other, else it forgets them.
pub(super) fn lose_owners(
    current: &AnyObject,
    is_gone: impl Fn(&OwnerReference) -> bool,
    now: Timestamp,
) -> Result<Change, StoreError> {
    let owners = current.metadata().owner_references.as_deref().unwrap_or_default();
    let left: Vec<_> = owners.iter().filter(|owner| !is_gone(owner)).cloned().collect();
    if left.len() == owners.len() {
        return Ok(Change::None);
    }
    if left.is_empty() {
        return delete(current, &Preconditions::default(), now);
    }
    let metadata = ObjectMeta { owner_references: Some(left), ..current.metadata().clone() };
    Ok(Change::Write(current.clone().with_metadata(metadata)))
}

/// Whoever writes has read this very object, in this very state.
fn check_identity(current: &AnyObject, object: &AnyObject) -> Result<(), StoreError> {
    let given = object.metadata();
    if given.uid.is_some() && given.uid != current.metadata().uid {
        return Err(conflict(current, "it is another object of the same name, with another uid"));
    }
    match &given.resource_version {
        None => {
            let message = "must be that of the object as it was read";
            Err(invalid(object, vec![problem("metadata.resourceVersion", message)]))
        }
        Some(version) if Some(version) != current.metadata().resource_version.as_ref() => {
            Err(conflict(current, "somebody changed it meanwhile"))
        }
        Some(_) => Ok(()),
    }
}

/// Empty collections are none, so that what says the same is the same.
fn normal(metadata: &ObjectMeta) -> ObjectMeta {
    let mut metadata = metadata.clone();
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    metadata.finalizers.take_if(|finalizers| finalizers.is_empty());
    metadata.labels.take_if(|labels| labels.is_empty());
    metadata.owner_references.take_if(|owners| owners.is_empty());
    metadata
}

fn problems_of_metadata(object: &AnyObject) -> Vec<FieldProblem> {
    let metadata = object.metadata();
    let mut problems = Vec::new();
    let mut check = |path: String, result: Result<(), String>| {
        if let Err(message) = result {
            problems.push(FieldProblem { path, message });
        }
    };
    let name = object.kind().check_name(object.name()).map_err(|reason| reason.to_string());
    check("metadata.name".to_owned(), name);
    for (key, value) in metadata.labels.iter().flatten() {
        check(format!("metadata.labels[{key:?}]"), check_label(key, value));
    }
    let mut annotations = 0;
    for (key, value) in metadata.annotations.iter().flatten() {
        check(format!("metadata.annotations[{key:?}]"), check_label_key(key));
        annotations += key.len() + value.len();
    }
    if annotations > LARGEST_ANNOTATIONS {
        let message = format!("have {annotations} bytes: {LARGEST_ANNOTATIONS} are allowed");
        check("metadata.annotations".to_owned(), Err(message));
    }
    for (index, finalizer) in metadata.finalizers.iter().flatten().enumerate() {
        check(format!("metadata.finalizers[{index}]"), check_label_key(finalizer));
    }
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    for (index, owner) in owners.iter().enumerate() {
        for (field, value) in
            [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)]
        {
            if value.is_empty() {
                check(format!("metadata.ownerReferences[{index}].{field}"), Err("must not be empty".to_owned()));
            }
        }
    }
    if owners.iter().filter(|owner| owner.controller == Some(true)).count() > 1 {
        check("metadata.ownerReferences".to_owned(), Err("have more than one controller".to_owned()));
    }
    problems
}

/// Whether this may be a label of an object.
pub(crate) fn check_label(key: &str, value: &str) -> Result<(), String> {
    check_label_key(key).and_then(|()| check_label_value(value))
}

/// A qualified name: `name` or `domain/name`. Finalizers have the same form.
pub(super) fn check_label_key(key: &str) -> Result<(), String> {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    let good_domain = domain.is_none_or(|domain| domain.parse::<crate::objects::DomainName>().is_ok());
    if !good_domain || name.is_empty() || !is_label_text(name) {
        return Err(format!("{key:?} is not a name such as role or goliath.dev/role"));
    }
    Ok(())
}

pub(super) fn check_label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) {
        return Ok(());
    }
    Err(format!(
        "{value:?} is not a label's value: at most 63 letters, digits and `-_.`, none of these three at the ends"
    ))
}

fn is_label_text(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

fn refuse(object: &AnyObject, mut problems: Vec<FieldProblem>) -> Result<(), StoreError> {
    problems.extend(problem_of_size(object));
    if problems.is_empty() { Ok(()) } else { Err(invalid(object, problems)) }
}

/// What stands against writing an object whatever is there already.
pub(super) fn problems(object: &AnyObject) -> Vec<FieldProblem> {
    let mut problems = problems_of_metadata(object);
    problems.extend(problem_of_size(object));
    problems
}

fn problem_of_size(object: &AnyObject) -> Option<FieldProblem> {
    let bytes = object.spec().len() + object.status().map_or(0, str::len);
    (bytes > LARGEST_OBJECT)
        .then(|| problem("spec", format!("and status have {bytes} bytes: {LARGEST_OBJECT} are allowed")))
}

fn problem(path: impl Into<String>, message: impl Into<String>) -> FieldProblem {
    FieldProblem { path: path.into(), message: message.into() }
}

fn invalid(object: &AnyObject, problems: Vec<FieldProblem>) -> StoreError {
    StoreError::Invalid { kind: object.kind(), name: object.name().to_owned(), problems }
}

fn conflict(object: &AnyObject, reason: &str) -> StoreError {
    StoreError::Conflict { kind: object.kind(), name: object.name().to_owned(), reason: reason.to_owned() }
}
