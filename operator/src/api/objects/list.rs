use std::collections::VecDeque;

use futures::stream::{self, BoxStream, StreamExt as _};
use goliath_proto::operator::v1 as pb;
use tonic::Status;

use super::{Context, Shown, errors, text};
use crate::store::{AnyObject, List, Selector, Store};

/// Messages are filled up to about so many bytes: clients take 4 MiB.
const MESSAGE_BYTES: usize = 1 << 20;

pub(super) async fn list<S: Store>(
    context: &Context<S>,
    request: &pb::ListObjectsRequest,
) -> Result<BoxStream<'static, Result<pb::ListObjectsResponse, Status>>, Status> {
    let kind = errors::field("kind", &request.kind)?;
    let selector: Selector = errors::field("selector", &request.selector)?;
    let list = context.store.list_any(kind, &selector).await.map_err(|error| errors::of_store(&error, ""))?;
    let List { items, resource_version } = list;
    let version = resource_version.to_string();
    // An empty list has a version too.
    let left = Some(VecDeque::from(items));
    Ok(stream::unfold(left, move |left| {
        let message = left.map(|left| message(left, &version));
        async move { message }
    })
    .boxed())
}

type Rest = Option<VecDeque<AnyObject>>;

/// The next message, and what is left after it; rendered when it is asked for.
fn message(mut left: VecDeque<AnyObject>, version: &str) -> (Result<pb::ListObjectsResponse, Status>, Rest) {
    let mut message = pb::ListObjectsResponse { objects: Vec::new(), resource_version: version.to_owned() };
    let mut bytes = 0;
    while bytes < MESSAGE_BYTES
        && let Some(object) = left.pop_front()
    {
        match text(&object, Shown::WithoutSeeds) {
            Ok(object) => {
                bytes += object.len();
                message.objects.push(object);
            }
            Err(status) => return (Err(status), None),
        }
    }
    (Ok(message), Some(left).filter(|left| !left.is_empty()))
}
