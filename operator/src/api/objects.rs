//! ObjectService.

mod apply;
mod delete;
mod list;
mod watch;

use std::sync::LazyLock;

use futures::stream::BoxStream;
use goliath_proto::operator::v1::{self as pb, object_service_server::ObjectService};
use goliath_server::status;
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::{
    access::{Role, caller},
    context::Context,
    errors,
};
use crate::{
    objects::{Kind, definitions},
    store::{AnyObject, Store},
};

pub(super) use apply::is_owned;
pub(super) use delete::remove;

#[derive(Debug)]
pub(super) struct Objects<S: Store>(pub(super) Context<S>);

#[tonic::async_trait]
impl<S: Store> ObjectService for Objects<S> {
    async fn list_kinds(&self, _: Request<pb::ListKindsRequest>) -> Result<Response<pb::ListKindsResponse>, Status> {
        Ok(Response::new(KINDS.clone()))
    }

    async fn apply_objects(
        &self,
        request: Request<pb::ApplyObjectsRequest>,
    ) -> Result<Response<pb::ApplyObjectsResponse>, Status> {
        let caller = caller(&request)?;
        apply::apply(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn get_object(
        &self,
        request: Request<pb::GetObjectRequest>,
    ) -> Result<Response<pb::GetObjectResponse>, Status> {
        let caller = caller(&request)?;
        let pb::GetObjectRequest { kind, name } = request.into_inner();
        let object = get(&self.0, errors::field("kind", &kind)?, &name).await?;
        let shown = if caller.role >= Role::Operator { Shown::Whole } else { Shown::WithoutSeeds };
        Ok(Response::new(pb::GetObjectResponse { object: text(&object, shown)? }))
    }

    type ListObjectsStream = BoxStream<'static, Result<pb::ListObjectsResponse, Status>>;

    async fn list_objects(
        &self,
        request: Request<pb::ListObjectsRequest>,
    ) -> Result<Response<Self::ListObjectsStream>, Status> {
        list::list(&self.0, request.get_ref()).await.map(Response::new)
    }

    type WatchObjectsStream = BoxStream<'static, Result<pb::WatchObjectsResponse, Status>>;

    async fn watch_objects(
        &self,
        request: Request<pb::WatchObjectsRequest>,
    ) -> Result<Response<Self::WatchObjectsStream>, Status> {
        watch::watch(&self.0, request.get_ref()).await.map(Response::new)
    }

    async fn delete_object(
        &self,
        request: Request<pb::DeleteObjectRequest>,
    ) -> Result<Response<pb::DeleteObjectResponse>, Status> {
        let caller = caller(&request)?;
        delete::delete(&self.0, &caller, request.into_inner()).await.map(Response::new)
    }
}

/// Whether a guest's first-boot configuration is told: it is large and may hold secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Whole,
    WithoutSeeds,
}

/// An object as callers get it.
pub(super) fn text(object: &AnyObject, shown: Shown) -> Result<String, Status> {
    let broken = |error: serde_json::Error| status::internal(&error);
    if object.kind() != Kind::Guest || shown == Shown::Whole {
        return serde_json::to_string(object).map_err(broken);
    }
    let mut value = serde_json::to_value(object).map_err(broken)?;
    if let Some(Value::Object(spec)) = value.get_mut("spec") {
        spec.remove("seed");
    }
    Ok(value.to_string())
}

/// One object, or `NOT_FOUND`.
pub(super) async fn get<S: Store>(context: &Context<S>, kind: Kind, name: &str) -> Result<AnyObject, Status> {
    context.store.get_any(kind, name).await.map_err(|error| errors::of_store(&error, ""))
}

/// Whether people apply objects of this kind; the others are made by controllers alone.
pub(super) fn is_applied(kind: Kind) -> bool {
    kind != Kind::Guest
}

/// The kinds with the columns of their definitions.
static KINDS: LazyLock<pb::ListKindsResponse> = LazyLock::new(|| {
    let kind = |(kind, definition): (
        &Kind,
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    )| {
        let columns = definition.spec.versions.into_iter().filter_map(|version| version.additional_printer_columns);
        let columns = columns.flatten().map(|column| pb::Column {
            name: column.name,
            r#type: column.type_,
            json_path: column.json_path,
            priority: column.priority.unwrap_or_default(),
        });
        pb::Kind {
            kind: kind.to_string(),
            plural: kind.plural(),
            short_names: kind.short_names().iter().map(ToString::to_string).collect(),
            applied: is_applied(*kind),
            columns: columns.collect(),
        }
    };
    pb::ListKindsResponse { kinds: Kind::ALL.iter().zip(definitions()).map(kind).collect() }
});
