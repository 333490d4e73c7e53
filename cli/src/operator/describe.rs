//! `goliath describe` of an operator.

use goliath_proto::operator::v1::{EventFilter, ListEventsRequest};

use super::{full_name, get_object, kinds};
use crate::{
    failure::Failure,
    output::{describe, print},
    verbs::Session,
};

pub(crate) async fn run(session: &Session, kind: &str, name: &str) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let kind = kinds::find(&operator, kind).await?.kind;
    let object = get_object(&operator, &kind, &full_name(name)).await?;
    let filter = EventFilter { kind, name: object.name().to_owned(), ..EventFilter::default() };
    let events = operator.events().list_events(ListEventsRequest { filter: Some(filter) }).await;
    // The rest of the page is worth showing without them.
    let events = events.map(|response| response.into_inner().events).unwrap_or_default();
    print(&describe::object(&object, &events, &session.view()))
}
