//! Follows the guests of a host over restarts of its agent: every change is told, none twice.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use goliath_proto::agent::v1::{
    Guest, ListGuestsRequest, WatchGuestsRequest, WatchGuestsResponse, watch_guests_response::Kind,
};
use tonic::{Code, Status, Streaming};

use crate::{connection::Agent, guest_reference::uid, refusal::Refusal};

/// Between tries to reach an agent that went away.
const RECONNECT: Duration = Duration::from_millis(500);

/// What became of a guest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// It is there, as it is now.
    Present(Box<Guest>),
    /// It is gone; as it was last.
    Gone(Box<Guest>),
}

/// The guests as last heard of.
pub(crate) struct GuestWatch {
    agent: Agent,
    guests: BTreeMap<String, Guest>,
    revision: u64,
    stream: Option<Streaming<WatchGuestsResponse>>,
    pending: VecDeque<Change>,
}

impl GuestWatch {
    /// The first changes are the guests that are there now.
    pub(crate) async fn start(agent: &Agent) -> Result<Self, Refusal> {
        let mut watch =
            Self { agent: agent.clone(), guests: BTreeMap::new(), revision: 0, stream: None, pending: VecDeque::new() };
        watch.list().await.map_err(|status| Refusal::new("list the guests", &status))?;
        Ok(watch)
    }

    /// Whether a guest was there when last heard of.
    pub(crate) fn holds(&self, uid: &str) -> bool {
        self.guests.contains_key(uid)
    }

    /// The next change; it waits as long as it takes. An agent that went away is waited for too.
    pub(crate) async fn next(&mut self) -> Result<Change, Refusal> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            if let Err(status) = self.receive().await {
                self.stream = None;
                match status.code() {
                    Code::OutOfRange => self.revision = 0,
                    Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted => {
                        tokio::time::sleep(RECONNECT).await;
                    }
                    _ => return Err(Refusal::new("watch the guests", &status)),
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Status> {
        if self.revision == 0 {
            return self.list().await;
        }
        if self.stream.is_none() {
            let request = WatchGuestsRequest { revision: self.revision, cluster: String::new() };
            self.stream = Some(self.agent.guests().watch_guests(request).await?.into_inner());
        }
        let message = match &mut self.stream {
            Some(stream) => stream.message().await?,
            None => None,
        };
        let Some(response) = message else { return Err(Status::unavailable("the agent ended the watch")) };
        self.take(response);
        Ok(())
    }

    fn take(&mut self, response: WatchGuestsResponse) {
        self.revision = self.revision.max(response.revision);
        let kind = response.kind();
        let Some(guest) = response.guest else { return };
        if kind == Kind::Deleted {
            self.guests.remove(uid(&guest));
            self.pending.push_back(Change::Gone(Box::new(guest)));
        } else {
            self.present(guest);
        }
    }

    fn present(&mut self, guest: Guest) {
        self.guests.insert(uid(&guest).to_owned(), guest.clone());
        self.pending.push_back(Change::Present(Box::new(guest)));
    }

    /// From nothing, or when changes were missed: what is there is compared with what was last heard.
    async fn list(&mut self) -> Result<(), Status> {
        let response =
            self.agent.guests().list_guests(ListGuestsRequest { cluster: String::new() }).await?.into_inner();
        let mut before = std::mem::take(&mut self.guests);
        for guest in response.guests {
            if before.remove(uid(&guest)).as_ref() == Some(&guest) {
                self.guests.insert(uid(&guest).to_owned(), guest);
            } else {
                self.present(guest);
            }
        }
        self.pending.extend(before.into_values().map(|guest| Change::Gone(Box::new(guest))));
        // A revision of 0 would mean that we are to list again.
        self.revision = response.revision.max(1);
        Ok(())
    }
}
