//! `ImageService`.

mod pull;

use futures::stream::BoxStream;
use goliath_proto::agent::v1::{self as pb, image_service_server::ImageService};
use tonic::{Code, Request, Response, Status};

use super::{
    Context, caller,
    errors::{self, Precondition, Resource},
    render,
};
use crate::{
    errors::with_causes,
    image::{Image, ImageError, ImageErrorKind, ImageSelector},
    spec::ImageReference,
};

#[derive(Debug)]
pub(super) struct Images(pub(super) Context);

#[tonic::async_trait]
impl ImageService for Images {
    type PullImageStream = BoxStream<'static, Result<pb::PullImageResponse, Status>>;

    async fn pull_image(
        &self,
        request: Request<pb::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let caller = caller(&request)?;
        let reference: ImageReference = errors::field("reference", &request.get_ref().reference)?;
        tracing::info!(%caller, %reference, "an image is to be pulled");
        Ok(Response::new(pull::pull(&self.0, &reference)))
    }

    async fn list_images(&self, _: Request<pb::ListImagesRequest>) -> Result<Response<pb::ListImagesResponse>, Status> {
        let images = self.0.images.list().iter().map(|image| render_image(&self.0, image)).collect();
        Ok(Response::new(pb::ListImagesResponse { images }))
    }

    async fn remove_image(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Result<Response<pb::RemoveImageResponse>, Status> {
        let caller = caller(&request)?;
        let selector: ImageSelector = errors::field("reference", &request.get_ref().reference)?;
        let freed = self.0.images.remove(&selector).await.map_err(|error| failed(&error, &selector))?;
        tracing::info!(%caller, image = %selector, %freed, "an image was removed");
        Ok(Response::new(pb::RemoveImageResponse { freed_bytes: freed.get() }))
    }

    async fn collect_garbage(
        &self,
        request: Request<pb::CollectGarbageRequest>,
    ) -> Result<Response<pb::CollectGarbageResponse>, Status> {
        let caller = caller(&request)?;
        let dry_run = request.get_ref().dry_run;
        let garbage = self.0.images.collect_garbage(dry_run).await.map_err(|error| failed(&error, &"garbage"))?;
        if !dry_run {
            tracing::info!(%caller, images = garbage.removed.len(), freed = %garbage.freed, "garbage was collected");
        }
        Ok(Response::new(pb::CollectGarbageResponse {
            removed: garbage.removed.iter().map(|image| render_image(&self.0, image)).collect(),
            freed_bytes: garbage.freed.get(),
        }))
    }
}

fn render_image(context: &Context, image: &Image) -> pb::Image {
    render::image(image, &context.images.used_by(&image.digest))
}

/// What a failure of the store or of a registry means to the caller.
fn failed(error: &ImageError, what: &impl ToString) -> Status {
    let message = || with_causes(error);
    let precondition = |reason| {
        let description = message();
        errors::failed_precondition(&[Precondition { reason, subject: what.to_string(), description }])
    };
    match error.kind() {
        ImageErrorKind::NotFound => errors::not_found(Resource::Image, what),
        ImageErrorKind::Unauthorized => precondition("REGISTRY_UNAUTHORIZED"),
        ImageErrorKind::Unavailable => errors::unavailable("REGISTRY_UNAVAILABLE", message()),
        ImageErrorKind::Refused => precondition("IMAGE_REFUSED"),
        ImageErrorKind::InUse => precondition("IMAGE_IN_USE"),
        ImageErrorKind::NoSpace => errors::other(Code::ResourceExhausted, "NO_SPACE", message()),
        ImageErrorKind::Misconfigured => precondition("HOST_MISCONFIGURED"),
        ImageErrorKind::Storage => errors::internal(error),
        ImageErrorKind::Cancelled => errors::other(Code::Aborted, "PULL_GIVEN_UP", message()),
    }
}
