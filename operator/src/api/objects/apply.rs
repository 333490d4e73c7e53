//! Everything is read and judged before the first object is written. Writes follow one after the other; each is safe to
//! repeat, so a call that broke off is made good by the same call.

use std::collections::{HashMap, HashSet};

use goliath_proto::operator::v1::{self as pb, applied_object::Outcome};
use goliath_server::{
    status::{self, Precondition},
    violations::{Path, Violation},
};
use tonic::Status;

use super::{Context, Shown, delete, errors, is_applied, text};
use crate::{
    api::{
        access::Caller,
        manifest::{self, About, Manifest},
    },
    objects::{Host, Kind, ObjectMeta},
    store::{AnyObject, Selector, Store, StoreError},
};

/// So often an object is read again that somebody else wrote in between.
const TRIES: usize = 8;
/// Labels and annotations of this domain are the operator's own: they stay where a manifest does not say them.
const OWN_DOMAIN: &str = "goliath.dev/";

pub(super) async fn apply<S: Store>(
    context: &Context<S>,
    caller: &Caller,
    request: pb::ApplyObjectsRequest,
) -> Result<pb::ApplyObjectsResponse, Status> {
    let manifests = read(&request.manifests)?;
    let prune = request.prune.as_ref().map(|prune| selector(prune, &manifests)).transpose()?;
    // Two that are applied at once could each be fine beside what is there, and not beside each other.
    let _turn = context.turn().await?;
    let mut changes = HashMap::new();
    for _ in 0..TRIES {
        let plan = Plan::make(context, &manifests, prune.as_ref()).await?;
        if request.dry_run {
            return plan.response(&changes);
        }
        match plan.carry_out(context, caller, &mut changes).await? {
            Some(plan) => return plan.response(&changes),
            None => tracing::debug!(%caller, "an object was written by somebody else while it was applied: once more"),
        }
    }
    Err(errors::conflict("an object"))
}

/// All manifests, or all that is wrong with them.
fn read(texts: &[String]) -> Result<Vec<Manifest>, Status> {
    let mut violations = Vec::new();
    let mut manifests = Vec::new();
    let mut first: HashMap<(Kind, String), usize> = HashMap::new();
    for (index, text) in texts.iter().enumerate() {
        let manifest = match manifest::read(&at(index), text) {
            Ok(manifest) => manifest,
            Err(found) => {
                violations.extend(found);
                continue;
            }
        };
        let (kind, name) = (manifest.kind(), manifest.name().to_owned());
        if !is_applied(kind) {
            let reason = format!("is {kind}: controllers make these; change the Cluster that it belongs to");
            violations.push(Violation::new(at(index).field("kind").to_string(), reason));
        }
        if let Some(other) = first.get(&(kind, name.clone())) {
            let reason = format!("is that of manifests[{other}] too: {kind} {name} is described twice");
            violations.push(Violation::new(name_of(index), reason));
        } else {
            first.insert((kind, name), index);
        }
        manifests.push(manifest);
    }
    if violations.is_empty() { Ok(manifests) } else { Err(status::invalid(&violations)) }
}

fn at(index: usize) -> Path {
    Path::root("manifests").index(index)
}

fn name_of(index: usize) -> String {
    at(index).field("metadata").field("name").to_string()
}

/// What is meant by a prune; every manifest has to be meant too.
fn selector(prune: &pb::Prune, manifests: &[Manifest]) -> Result<Selector, Status> {
    let selector: Selector = errors::field("prune.selector", &prune.selector)?;
    if selector == Selector::everything() {
        return Err(errors::bad_field("prune.selector", "must not be empty: it would mean every object there is"));
    }
    let strangers = manifests.iter().enumerate();
    let strangers = strangers.filter(|(_, manifest)| !selector.matches(manifest.object.metadata().labels.as_ref()));
    let violations: Vec<_> = strangers
        .map(|(index, _)| {
            let labels = at(index).field("metadata").field("labels").to_string();
            Violation::new(labels, format!("do not match {selector}: what is applied must be meant by the selector"))
        })
        .collect();
    if violations.is_empty() { Ok(selector) } else { Err(status::invalid(&violations)) }
}

/// What is to be done, judged as a whole.
struct Plan {
    steps: Vec<Step>,
    pruned: Vec<AnyObject>,
}

/// One object.
struct Step {
    before: Option<AnyObject>,
    after: AnyObject,
    outcome: Outcome,
}

impl Plan {
    async fn make<S: Store>(
        context: &Context<S>,
        manifests: &[Manifest],
        prune: Option<&Selector>,
    ) -> Result<Self, Status> {
        let mut steps = Vec::new();
        let mut against = Vec::new();
        for (index, manifest) in manifests.iter().enumerate() {
            let before = match context.store.get_any(manifest.kind(), manifest.name()).await {
                Ok(object) => Some(object),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(errors::of_store(&error, "")),
            };
            against.extend(against_change(index, manifest, before.as_ref()));
            steps.push(Step::of(manifest, before)?);
        }
        let wanted: Vec<_> = steps.iter().map(|step| step.after.clone()).collect();
        let problems = context.questions.judge(&wanted);
        let violations: Vec<_> = problems
            .into_iter()
            .map(|(index, problem)| Violation::new(at(index).field(&problem.path).to_string(), problem.message))
            .collect();
        if !violations.is_empty() {
            return Err(status::invalid(&violations));
        }
        let pruned = match prune {
            Some(selector) => to_prune(context, manifests, selector).await?,
            None => Vec::new(),
        };
        against.extend(pruned.iter().filter_map(|object| delete::against_deletion(context, object)));
        if against.is_empty() { Ok(Self { steps, pruned }) } else { Err(status::failed_precondition(&against)) }
    }

    /// Writes; none where somebody else was faster. What was done stays in `changes`, since the next try finds it done.
    async fn carry_out<S: Store>(
        mut self,
        context: &Context<S>,
        caller: &Caller,
        changes: &mut HashMap<(Kind, String), (Outcome, Option<AnyObject>)>,
    ) -> Result<Option<Self>, Status> {
        for (index, step) in self.steps.iter_mut().enumerate() {
            if step.outcome == Outcome::Unchanged {
                continue;
            }
            tracing::info!(%caller, object = ?step.after, outcome = step.outcome.as_str_name(), "applies");
            let written = match &step.before {
                None => context.store.create_any(step.after.clone()).await,
                Some(_) => context.store.replace_any(step.after.clone()).await,
            };
            let written = match written {
                Ok(object) => object,
                Err(StoreError::Conflict { .. } | StoreError::AlreadyExists { .. } | StoreError::NotFound { .. }) => {
                    return Ok(None);
                }
                Err(error) => return Err(errors::of_store(&error, &at(index).to_string())),
            };
            context.seen(&written).await;
            let key = (written.kind(), written.name().to_owned());
            changes.entry(key).or_insert((step.outcome, step.before.clone()));
            step.after = written;
        }
        for object in &mut self.pruned {
            tracing::info!(%caller, ?object, "prunes");
            delete::remove(context, object).await?;
        }
        Ok(Some(self))
    }

    fn response(
        self,
        changes: &HashMap<(Kind, String), (Outcome, Option<AnyObject>)>,
    ) -> Result<pb::ApplyObjectsResponse, Status> {
        let shown = |object: Option<&AnyObject>| object.map_or(Ok(String::new()), |object| text(object, Shown::Whole));
        let mut objects = Vec::new();
        for Step { before, after, outcome } in self.steps {
            let (kind, name) = (after.kind(), after.name().to_owned());
            // An earlier try may have written it.
            let earlier = changes.get(&(kind, name.clone()));
            let (outcome, before) =
                earlier.map_or((outcome, before.as_ref()), |(outcome, before)| (*outcome, before.as_ref()));
            objects.push(pb::AppliedObject {
                kind: kind.to_string(),
                name,
                outcome: outcome.into(),
                before: shown(before)?,
                after: shown(Some(&after))?,
            });
        }
        for object in self.pruned {
            objects.push(pb::AppliedObject {
                kind: object.kind().to_string(),
                name: object.name().to_owned(),
                outcome: Outcome::Pruned.into(),
                before: shown(Some(&object))?,
                after: String::new(),
            });
        }
        Ok(pb::ApplyObjectsResponse { objects })
    }
}

impl Step {
    fn of(manifest: &Manifest, before: Option<AnyObject>) -> Result<Self, Status> {
        let Some(current) = before else {
            return Ok(Self { before: None, after: manifest.object.clone(), outcome: Outcome::Created });
        };
        let after = merged(manifest, &current).map_err(|error| errors::of_store(&error, ""))?;
        let same = current.same_spec(&after) && current.metadata() == after.metadata();
        let outcome = if same { Outcome::Unchanged } else { Outcome::Updated };
        Ok(Self { after: if same { current.clone() } else { after }, before: Some(current), outcome })
    }
}

/// The object as the manifest wants it; what is not the manifest's to say stays.
fn merged(manifest: &Manifest, current: &AnyObject) -> Result<AnyObject, StoreError> {
    let (given, was) = (manifest.object.metadata(), current.metadata());
    let metadata = ObjectMeta {
        labels: with_own(given.labels.as_ref(), was.labels.as_ref()),
        annotations: with_own(given.annotations.as_ref(), was.annotations.as_ref()),
        ..was.clone()
    };
    let wanted = manifest.object.clone();
    if manifest.kind() == Kind::Host && !manifest.says_cordoned {
        let mut host: Host = wanted.decode()?;
        host.spec.cordoned = current.decode::<Host>()?.spec.cordoned;
        return Ok(AnyObject::encode(&host)?.with_metadata(metadata));
    }
    Ok(wanted.with_metadata(metadata))
}

type Texts = std::collections::BTreeMap<String, String>;

fn with_own(given: Option<&Texts>, was: Option<&Texts>) -> Option<Texts> {
    let own = was.into_iter().flatten().filter(|(key, _)| key.starts_with(OWN_DOMAIN));
    let all: Texts = own.chain(given.into_iter().flatten()).map(|(key, value)| (key.clone(), value.clone())).collect();
    (!all.is_empty()).then_some(all)
}

/// What there is against changing, or making, an object by this manifest.
fn against_change(index: usize, manifest: &Manifest, current: Option<&AnyObject>) -> Vec<Precondition> {
    let About { uid, generation, finalizers, owners } = &manifest.about;
    let mut against = Vec::new();
    let mut say = |reason, field: &str, description: String| {
        let subject = at(index).field("metadata").field(field).to_string();
        against.push(Precondition { reason, subject, description });
    };
    let (kind, name) = (manifest.kind(), manifest.name());
    let Some(current) = current else {
        if uid.is_some() {
            say(
                "ANOTHER_UID",
                "uid",
                format!("there is no {kind} {name} with this uid: leave it out to make a new one"),
            );
        }
        if !finalizers.is_empty() || !owners.is_empty() {
            let field = if finalizers.is_empty() { "ownerReferences" } else { "finalizers" };
            say("NOT_YOURS", field, "only controllers say this: leave it out".to_owned());
        }
        return against;
    };
    let was = current.metadata();
    if was.deletion_timestamp.is_some() {
        let description = format!("{kind} {name} is being deleted: apply it again when it is gone");
        say("DELETING", "name", description);
    }
    if let Some(owner) = is_owned(current) {
        say("OWNED", "name", format!("{kind} {name} belongs to {owner}, which says what it is: change that"));
    }
    if uid.is_some() && *uid != was.uid {
        say("ANOTHER_UID", "uid", format!("{kind} {name} is another object of that name: it has another uid"));
    }
    if generation.is_some_and(|generation| was.generation.is_some_and(|held| held > generation)) {
        let held = was.generation.unwrap_or_default();
        let description = format!(
            "somebody changed {kind} {name} since: it has generation {held}; get it again, or leave the generation out"
        );
        say("STALE_GENERATION", "generation", description);
    }
    let held: HashSet<_> = was.finalizers.iter().flatten().collect();
    if let Some(new) = finalizers.iter().find(|finalizer| !held.contains(finalizer)) {
        say("NOT_YOURS", "finalizers", format!("{new:?} is not there: only controllers add finalizers"));
    }
    let held = was.owner_references.as_deref().unwrap_or_default();
    if owners.iter().any(|owner| !held.contains(owner)) {
        say("NOT_YOURS", "ownerReferences", "only controllers say who owns an object: leave them out".to_owned());
    }
    against
}

/// The object whose controller says what this one is: `Cluster acme`.
pub(in crate::api) fn is_owned(object: &AnyObject) -> Option<String> {
    let owners = object.metadata().owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| format!("{} {}", owner.kind, owner.name))
}

/// What was applied, is meant by the selector, and is not among the manifests.
async fn to_prune<S: Store>(
    context: &Context<S>,
    manifests: &[Manifest],
    selector: &Selector,
) -> Result<Vec<AnyObject>, Status> {
    let kept: HashSet<_> = manifests.iter().map(|manifest| (manifest.kind(), manifest.name())).collect();
    let mut pruned = Vec::new();
    for kind in Kind::ALL.iter().copied().filter(|kind| is_applied(*kind)) {
        let list = context.store.list_any(kind, selector).await.map_err(|error| errors::of_store(&error, ""))?;
        pruned.extend(list.items.into_iter().filter(|object| {
            let going = object.metadata().deletion_timestamp.is_some();
            !going && is_owned(object).is_none() && !kept.contains(&(object.kind(), object.name()))
        }));
    }
    Ok(pruned)
}
