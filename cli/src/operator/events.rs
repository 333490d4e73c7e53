//! `goliath events`.

use std::time::Duration;

use clap::Args;
use goliath_proto::operator::v1::{Event, EventFilter, ListEventsRequest, WatchEventsRequest};
use tonic::Code;

use super::full_name;
use crate::{
    connection::Operator,
    failure::Failure,
    output::{event, print},
    refusal::Refusal,
    verbs::Session,
};

/// Between tries to reach an operator that went away.
const RECONNECT: Duration = Duration::from_millis(500);

/// Shows what happened lately in an operator's fleet
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath events --warnings
  goliath events --cluster acme -w
  goliath events --for guest/acme.master-0")]
pub(crate) struct EventsArguments {
    /// Of this object alone
    #[arg(long = "for", value_name = "KIND/NAME", value_parser = parse_object)]
    object: Option<(String, String)>,
    /// Of this cluster, and everything that belongs to it
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Warnings alone
    #[arg(long)]
    warnings: bool,
    /// Go on with what happens
    #[arg(short, long)]
    watch: bool,
}

fn parse_object(text: &str) -> Result<(String, String), String> {
    let (kind, name) = text.split_once('/').ok_or("write kind/name, such as guest/acme.master-0")?;
    Ok((kind.to_owned(), full_name(name)))
}

pub(crate) async fn run(session: &Session, arguments: &EventsArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let (kind, name) = arguments.object.clone().unwrap_or_default();
    let cluster = arguments.cluster.clone().unwrap_or_default();
    let filter = EventFilter { kind, name, cluster, warnings: arguments.warnings };
    let request = ListEventsRequest { filter: Some(filter.clone()) };
    let response = operator.events().list_events(request).await;
    let list = response.map_err(|status| Refusal::by_operator("list the events", &status))?.into_inner();
    if !arguments.watch {
        if list.events.is_empty() {
            eprintln!("nothing happened that is remembered");
            return Ok(());
        }
        return print(&event::table(&list.events, session.view().now).render(&session.view()));
    }
    let mut lines = event::Lines::default();
    for event in &list.events {
        print(&lines.next(event, &session.view()))?;
    }
    watch(&operator, filter, list.revision, |event| print(&lines.next(event, &session.view()))).await
}

/// Tells of every event, over restarts of the operator: what it knew is forgotten then, and what happens is told.
async fn watch(
    operator: &Operator,
    filter: EventFilter,
    mut revision: u64,
    mut tell: impl FnMut(&Event) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let request = WatchEventsRequest { filter: Some(filter.clone()), revision };
        let ended = match operator.events().watch_events(request).await {
            Ok(response) => {
                let mut events = response.into_inner();
                loop {
                    match events.message().await {
                        Ok(Some(message)) => {
                            let event = message.event.unwrap_or_default();
                            revision = event.revision;
                            tell(&event)?;
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        match ended.as_ref().map(tonic::Status::code) {
            Some(Code::OutOfRange) => revision = 0,
            None | Some(Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal) => {
                tokio::time::sleep(RECONNECT).await;
            }
            Some(_) => {
                let status = ended.unwrap_or_else(|| tonic::Status::unknown("the watch ended"));
                return Err(Refusal::by_operator("watch the events", &status).into());
            }
        }
    }
}
