//! What an agent and its machine do, as a state that advances when it is looked at.

mod guest;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use goliath_proto::{
    agent::v1::{self as pb, watch_guests_response::Kind},
    values::GuestUid,
};
use tokio::time::Instant;

use self::{guest::SimulatedGuest, network::SimulatedNetwork};
use super::{Paces, runs::Runs};
use crate::agents::{AgentError, Problem, Refusal, RefusalKind};

/// What happens by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Guest(GuestUid),
    Network(String),
}

/// One change of a guest.
#[derive(Debug, Clone, Copy)]
struct Change {
    revision: u64,
    kind: Kind,
    uid: GuestUid,
}

#[derive(Debug)]
pub(super) struct Machine {
    name: String,
    number: u32,
    capacity: pb::Capacity,
    paces: Paces,
    runs: Arc<Mutex<Runs>>,
    boots: u64,
    cordoned: bool,
    guests: BTreeMap<GuestUid, SimulatedGuest>,
    networks: BTreeMap<String, SimulatedNetwork>,
    network_changes: u64,
    due: BTreeSet<(Instant, Due)>,
    revision: u64,
    /// Changes up to this revision are forgotten.
    forgotten: u64,
    history: VecDeque<Change>,
}

impl Machine {
    pub(super) fn new(name: &str, number: u32, capacity: pb::Capacity, paces: Paces, runs: Arc<Mutex<Runs>>) -> Self {
        Self {
            name: name.to_owned(),
            number,
            capacity,
            paces,
            runs,
            boots: 1,
            cordoned: false,
            guests: BTreeMap::new(),
            networks: BTreeMap::new(),
            network_changes: 0,
            due: BTreeSet::new(),
            revision: 1,
            forgotten: 0,
            history: VecDeque::new(),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Does what is due, in its order.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            match self.due.pop_first() {
                Some((at, Due::Guest(uid))) => self.step_guest(uid, at),
                Some((_, Due::Network(cluster))) => {
                    self.networks.remove(&cluster);
                }
                None => {}
            }
        }
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest changed: watches are told.
    fn record(&mut self, kind: Kind, uid: GuestUid) {
        self.revision += 1;
        let revision = self.revision;
        self.history.push_back(Change { revision, kind, uid });
        if let Some(guest) = self.guests.get_mut(&uid) {
            guest.revision = revision;
        }
        while self.history.len() > self.paces.history {
            self.forgotten = self.history.pop_front().map_or(self.forgotten, |change| change.revision);
        }
    }

    /// As an agent that was restarted: its revisions begin beyond those of its former life.
    pub(super) fn forget_history(&mut self) {
        self.revision += 1_000_000;
        self.forgotten = self.revision;
        self.history.clear();
    }

    /// Guests that ran end, and begin anew.
    pub(super) fn reboot(&mut self, now: Instant) {
        self.boots += 1;
        let uids: Vec<_> = self.guests.keys().copied().collect();
        for uid in uids {
            self.restart_guest(uid, now);
        }
    }

    /// Guests that ran end, and nothing begins.
    pub(super) fn power_off(&mut self, now: Instant) {
        self.reboot(now);
        self.due.clear();
    }

    /// What was to be done is done now.
    pub(super) fn power_on(&mut self, now: Instant) {
        self.boots += 1;
        self.due = self.guests.keys().map(|uid| (now, Due::Guest(*uid))).collect();
    }

    pub(super) fn cordon(&mut self, cordoned: bool) {
        self.cordoned = cordoned;
    }

    pub(super) fn host(&self) -> pb::Host {
        let used = self.used(None);
        let left = |capacity: u64, used: u64| capacity.saturating_sub(used);
        let condition = |type_: &str, reason: &str| pb::Condition {
            r#type: type_.to_owned(),
            status: pb::ConditionStatus::True.into(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: Some(prost_types::Timestamp::default()),
        };
        pb::Host {
            name: self.name.clone(),
            boot_id: format!("{:08x}-{:04x}", self.number, self.boots),
            capacity: Some(self.capacity),
            available: Some(pb::Capacity {
                vcpus: self.capacity.vcpus.saturating_sub(used.vcpus),
                memory_bytes: left(self.capacity.memory_bytes, used.memory_bytes),
                disk_bytes: left(self.capacity.disk_bytes, used.disk_bytes),
            }),
            conditions: vec![condition("AcceleratorReady", "Kvm"), condition("LedgerReadable", "Read")],
            versions: Some(pb::Versions {
                agent: env!("CARGO_PKG_VERSION").to_owned(),
                qemu: "10.0.2".to_owned(),
                kernel: "6.12.0".to_owned(),
            }),
            cordoned: self.cordoned,
            accelerator: pb::Accelerator::Kvm.into(),
            underlay_address: std::net::Ipv4Addr::from_bits(0xc612_0001 + self.number).to_string(),
            guests: u32::try_from(self.guests.len()).unwrap_or(u32::MAX),
            guest_overhead_bytes: 96 << 20,
            networks: vec!["198.18.0.0/15".to_owned()],
            foreign_vnis: Vec::new(),
            tcg_allowed: true,
        }
    }

    pub(super) fn doctor(&self) -> Vec<pb::DoctorCheck> {
        vec![pb::DoctorCheck {
            name: "kvm".to_owned(),
            verdict: pb::doctor_check::Verdict::Pass.into(),
            message: format!("{} runs guests", self.name),
            hint: String::new(),
        }]
    }

    pub(super) fn images(&self) -> Vec<pb::Image> {
        let references: BTreeSet<_> = self.guests.values().map(|guest| guest.spec.image.as_str()).collect();
        let image = |reference: &str| pb::Image {
            digest: guest::digest(reference),
            references: vec![reference.to_owned()],
            ..pb::Image::default()
        };
        references.into_iter().map(image).collect()
    }

    /// What the guests take, but for one.
    fn used(&self, except: Option<GuestUid>) -> pb::Capacity {
        let others = self.guests.iter().filter(|(uid, _)| Some(**uid) != except);
        others.fold(pb::Capacity::default(), |sum, (_, guest)| {
            let demand = guest::demand(&guest.spec);
            pb::Capacity {
                vcpus: sum.vcpus + demand.vcpus,
                memory_bytes: sum.memory_bytes + demand.memory_bytes,
                disk_bytes: sum.disk_bytes + demand.disk_bytes,
            }
        })
    }

    pub(super) fn uids(&self) -> BTreeSet<GuestUid> {
        self.guests.keys().copied().collect()
    }

    pub(super) fn guest(&self, uid: GuestUid) -> Option<pb::Guest> {
        self.guests.get(&uid).map(SimulatedGuest::rendered)
    }

    pub(super) fn list(&self) -> pb::ListGuestsResponse {
        let guests = self.guests.values().map(SimulatedGuest::rendered).collect();
        pb::ListGuestsResponse { guests, revision: self.revision }
    }

    /// From where a watch goes on, and what it tells first.
    pub(super) fn begin_watch(&self, revision: u64) -> Result<(u64, Vec<pb::WatchGuestsResponse>), AgentError> {
        if revision > 0 {
            return Ok((self.revision, self.after(revision)?));
        }
        let added = self.guests.values().map(|guest| pb::WatchGuestsResponse {
            kind: Kind::Added.into(),
            guest: Some(guest.rendered()),
            revision: guest.revision,
        });
        Ok((self.revision, added.chain([bookmark(self.revision)]).collect()))
    }

    /// What changed after a revision; guests are told as they are now.
    pub(super) fn after(&self, revision: u64) -> Result<Vec<pb::WatchGuestsResponse>, AgentError> {
        if revision < self.forgotten || revision > self.revision {
            return Err(AgentError::RevisionGone);
        }
        let begin = self.history.partition_point(|change| change.revision <= revision);
        let events = self.history.range(begin..).filter_map(|change| {
            let guest = match (change.kind, self.guests.get(&change.uid)) {
                (Kind::Deleted, _) => guest::bare(change.uid, change.revision),
                (_, Some(guest)) => guest.rendered(),
                // Its end comes later in this list.
                (_, None) => return None,
            };
            Some(pb::WatchGuestsResponse { kind: change.kind.into(), guest: Some(guest), revision: change.revision })
        });
        Ok(events.collect())
    }
}

pub(super) fn bookmark(revision: u64) -> pb::WatchGuestsResponse {
    pb::WatchGuestsResponse { kind: Kind::Bookmark.into(), guest: None, revision }
}

fn refused(kind: RefusalKind, subject: &str, message: impl Into<String>) -> AgentError {
    let message = message.into();
    let problems = vec![Problem { subject: subject.to_owned(), description: message.clone() }];
    AgentError::Refused(Refusal { kind, message, problems })
}

/// The rule of all generations: whether this one is held already, as it is.
fn is_held(held: u64, new: u64, same: bool, subject: &str) -> Result<bool, AgentError> {
    match held.cmp(&new) {
        std::cmp::Ordering::Less => Ok(false),
        std::cmp::Ordering::Equal if same => Ok(true),
        std::cmp::Ordering::Equal => {
            Err(refused(RefusalKind::GenerationReused, subject, format!("generation {held} differs from this one")))
        }
        std::cmp::Ordering::Greater => {
            Err(refused(RefusalKind::NewerGenerationHeld, subject, format!("generation {held} is newer than {new}")))
        }
    }
}
