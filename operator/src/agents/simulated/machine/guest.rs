//! A guest: what is asked of it, and how far it is.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use goliath_proto::{
    agent::v1::{self as pb, watch_guests_response::Kind},
    values::{GuestUid, MacAddress},
};
use jiff::Timestamp;
use prost::Message as _;
use tokio::time::Instant;

use super::{Due, Machine, is_held, refused};
use crate::agents::{AgentError, RefusalKind};

/// How far a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Accepted,
    Preparing,
    /// For its cluster's network.
    Waiting,
    Starting,
    Running,
    Booted,
    Stopping,
    Stopped,
}

#[derive(Debug)]
pub(super) struct SimulatedGuest {
    /// Without the documents of its seed.
    pub(super) spec: Box<pb::GuestSpec>,
    pub(super) revision: u64,
    /// Of the spec with its documents.
    content: u64,
    deleting: bool,
    stage: Stage,
    running_generation: u64,
    restarts: u32,
    /// When it was accepted, ran, had booted, and came to its stage.
    times: [Timestamp; 4],
}

impl SimulatedGuest {
    fn enter(&mut self, stage: Stage) {
        let now = Timestamp::now();
        let [_, ran, booted, since] = &mut self.times;
        *since = now;
        match stage {
            Stage::Running => *ran = now,
            Stage::Booted => *booted = now,
            _ => {}
        }
        self.stage = stage;
    }

    fn has_qemu(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running | Stage::Booted | Stage::Stopping)
    }

    fn wants_to_run(&self) -> bool {
        let state = self.spec.lifecycle.as_ref().map(pb::Lifecycle::desired_state);
        !self.deleting && state != Some(pb::DesiredState::Stopped)
    }

    pub(super) fn rendered(&self) -> pb::Guest {
        pb::Guest { spec: Some((*self.spec).clone()), status: Some(self.status()), revision: self.revision }
    }

    fn status(&self) -> pb::GuestStatus {
        let [accepted, ran, booted, since] =
            self.times.map(|time| prost_types::Timestamp { seconds: time.as_second(), nanos: 0 });
        let phase = match self.stage {
            Stage::Accepted => pb::GuestPhase::Accepted,
            Stage::Preparing | Stage::Waiting => pb::GuestPhase::Preparing,
            Stage::Starting => pb::GuestPhase::Starting,
            Stage::Running | Stage::Booted => pb::GuestPhase::Running,
            Stage::Stopping => pb::GuestPhase::Stopping,
            Stage::Stopped => pb::GuestPhase::Stopped,
        };
        let condition = |type_: &str, holds: bool, reason: &str, time| pb::Condition {
            r#type: type_.to_owned(),
            status: if holds { pb::ConditionStatus::True } else { pb::ConditionStatus::False }.into(),
            reason: reason.to_owned(),
            message: String::new(),
            last_transition_time: Some(time),
        };
        let prepared = !matches!(self.stage, Stage::Accepted | Stage::Preparing | Stage::Waiting);
        let runs = matches!(self.stage, Stage::Running | Stage::Booted);
        let mut conditions = vec![condition("ImageReady", self.stage != Stage::Accepted, "Present", accepted)];
        if self.spec.network.is_some() {
            let reason = if self.stage == Stage::Waiting { "NoNetwork" } else { "Attached" };
            conditions.push(condition("NetworkReady", prepared, reason, accepted));
        }
        conditions.push(condition("VolumesReady", prepared, "Made", accepted));
        conditions.push(condition(
            "Running",
            runs,
            if runs { "QmpRunning" } else { "NoQemu" },
            if runs { ran } else { since },
        ));
        if self.stage == Stage::Booted {
            conditions.push(condition("Booted", true, "GuestSaidSo", booted));
        }
        if self.has_qemu() && self.running_generation != self.spec.generation {
            conditions.push(condition("RestartRequired", true, "SpecChanged", since));
        }
        if self.deleting {
            conditions.push(condition("Deleting", true, "AskedFor", since));
        }
        let uid: Option<GuestUid> = self.spec.uid.parse().ok();
        pb::GuestStatus {
            phase: phase.into(),
            conditions,
            running_generation: if self.has_qemu() { self.running_generation } else { 0 },
            observed_generation: self.spec.generation,
            process: self.has_qemu().then(|| pb::Process {
                pid: 1000 + i32::try_from(self.content % 30_000).unwrap_or_default(),
                started_at: Some(ran),
                accelerator: pb::Accelerator::Kvm.into(),
                qemu_version: "10.0.2".to_owned(),
            }),
            image_digest: digest(&self.spec.image),
            mac_address: uid.map(|uid| MacAddress::of_guest(uid).to_string()).unwrap_or_default(),
            restart_count: self.restarts,
            last_exit: None,
            next_attempt_time: None,
        }
    }
}

/// A guest of which nothing is left but its uid.
pub(super) fn bare(uid: GuestUid, revision: u64) -> pb::Guest {
    let spec = pb::GuestSpec { uid: uid.to_string(), ..pb::GuestSpec::default() };
    pb::Guest { spec: Some(spec), status: Some(pb::GuestStatus::default()), revision }
}

/// A digest that an image of this reference could have.
pub(super) fn digest(reference: &str) -> String {
    let mut hasher = DefaultHasher::new();
    reference.hash(&mut hasher);
    format!("sha256:{:064x}", hasher.finish())
}

/// What a guest takes.
pub(super) fn demand(spec: &pb::GuestSpec) -> pb::Capacity {
    let machine = spec.machine.clone().unwrap_or_default();
    let size = |disk: &pb::Disk| match &disk.kind {
        Some(pb::disk::Kind::Root(root)) => root.size_bytes,
        Some(pb::disk::Kind::Data(data)) => data.size_bytes,
        None => 0,
    };
    pb::Capacity {
        vcpus: machine.vcpus,
        memory_bytes: machine.memory_bytes,
        disk_bytes: spec.disks.iter().map(size).sum(),
    }
}

/// What a spec says, in a number. A map has no order of its own.
fn content(spec: &pb::GuestSpec) -> u64 {
    let mut hasher = DefaultHasher::new();
    spec.labels.iter().collect::<BTreeMap<_, _>>().hash(&mut hasher);
    let mut spec = spec.clone();
    spec.labels.clear();
    spec.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

fn without_documents(mut spec: pb::GuestSpec) -> Box<pb::GuestSpec> {
    if let Some(kind) = spec.seed.as_mut().and_then(|seed| seed.kind.as_mut()) {
        *kind = match kind {
            pb::seed::Kind::Ignition(_) => pb::seed::Kind::Ignition(String::new()),
            pb::seed::Kind::CloudInit(_) => pb::seed::Kind::CloudInit(pb::CloudInit::default()),
        };
    }
    Box::new(spec)
}

impl Machine {
    pub(in crate::agents::simulated) fn apply_guest(
        &mut self,
        spec: pb::GuestSpec,
        now: Instant,
    ) -> Result<pb::ApplyGuestResponse, AgentError> {
        let uid: GuestUid = spec.uid.parse().map_err(|_| refused(RefusalKind::Invalid, "spec.uid", "is not a UUID"))?;
        if spec.generation == 0 {
            return Err(refused(RefusalKind::Invalid, "spec.generation", "must not be 0"));
        }
        let content = content(&spec);
        let outcome = self.admit(uid, &spec, content)?;
        if outcome != pb::ApplyOutcome::Unchanged {
            let restart = spec.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.restart_on_change);
            let spec = without_documents(spec);
            match self.guests.get_mut(&uid) {
                Some(guest) => {
                    (guest.spec, guest.content) = (spec, content);
                    self.record(Kind::Modified, uid);
                    self.converge(uid, restart, now);
                }
                None => {
                    let guest = SimulatedGuest {
                        spec,
                        revision: 0,
                        content,
                        deleting: false,
                        stage: Stage::Accepted,
                        running_generation: 0,
                        restarts: 0,
                        times: [Timestamp::now(); 4],
                    };
                    self.guests.insert(uid, guest);
                    self.record(Kind::Added, uid);
                    self.due.insert((now, Due::Guest(uid)));
                }
            }
        }
        Ok(pb::ApplyGuestResponse { outcome: outcome.into(), guest: self.guest(uid), restart_required_by: Vec::new() })
    }

    fn admit(&self, uid: GuestUid, spec: &pb::GuestSpec, content: u64) -> Result<pb::ApplyOutcome, AgentError> {
        let held = self.guests.get(&uid);
        if let Some(held) = held {
            if held.deleting {
                return Err(refused(RefusalKind::Deleting, "guest", format!("guest {uid} is being deleted")));
            }
            if is_held(held.spec.generation, spec.generation, held.content == content, "spec.generation")? {
                return Ok(pb::ApplyOutcome::Unchanged);
            }
        } else if self.cordoned {
            return Err(refused(RefusalKind::Cordoned, "host", "the host is cordoned"));
        }
        let others = self.guests.iter().filter(|(other, _)| **other != uid).map(|(_, guest)| &guest.spec);
        let address = |spec: &pb::GuestSpec| spec.network.as_ref().map(|network| network.ipv4_address.clone());
        for other in others.filter(|other| other.cluster == spec.cluster) {
            if other.name == spec.name {
                return Err(refused(RefusalKind::Other, "spec.name", format!("{} is taken", spec.name)));
            }
            if address(other).is_some() && address(other) == address(spec) {
                return Err(refused(RefusalKind::Other, "spec.network.ipv4_address", "is taken"));
            }
        }
        let (used, demand) = (self.used(Some(uid)), demand(spec));
        let full = [
            ("vCPUs", u64::from(used.vcpus) + u64::from(demand.vcpus), u64::from(self.capacity.vcpus)),
            ("memory", used.memory_bytes + demand.memory_bytes, self.capacity.memory_bytes),
            ("disk", used.disk_bytes + demand.disk_bytes, self.capacity.disk_bytes),
        ];
        for (what, needed, there) in full {
            if needed > there {
                return Err(refused(RefusalKind::Full, what, format!("{needed} of {there} {what} would be in use")));
            }
        }
        Ok(if held.is_some() { pb::ApplyOutcome::Updated } else { pb::ApplyOutcome::Created })
    }

    pub(in crate::agents::simulated) fn delete_guest(&mut self, uid: GuestUid, now: Instant) -> Result<(), AgentError> {
        let guest = self.guests.get_mut(&uid).ok_or(AgentError::NotFound)?;
        if !guest.deleting {
            guest.deleting = true;
            self.record(Kind::Modified, uid);
            self.converge(uid, false, now);
        }
        Ok(())
    }

    /// Begins what the guest needs to be as it shall be.
    fn converge(&mut self, uid: GuestUid, restart: bool, now: Instant) {
        let stop = self.paces.stop;
        let Some(guest) = self.guests.get_mut(&uid) else { return };
        let changed = guest.running_generation != guest.spec.generation;
        match guest.stage {
            Stage::Starting | Stage::Running | Stage::Booted if !guest.wants_to_run() || (restart && changed) => {
                guest.enter(Stage::Stopping);
                self.record(Kind::Modified, uid);
                self.reschedule(uid, now + stop);
            }
            Stage::Stopped | Stage::Accepted | Stage::Preparing | Stage::Waiting => self.reschedule(uid, now),
            _ => {}
        }
    }

    fn reschedule(&mut self, uid: GuestUid, at: Instant) {
        self.due.retain(|(_, due)| *due != Due::Guest(uid));
        self.due.insert((at, Due::Guest(uid)));
    }

    /// A guest of the host that ended goes on.
    pub(super) fn restart_guest(&mut self, uid: GuestUid, now: Instant) {
        let number = self.number;
        let Some(guest) = self.guests.get_mut(&uid) else { return };
        if guest.has_qemu() {
            guest.restarts += 1;
            guest.enter(Stage::Preparing);
            self.runs().end(uid, number, now);
            self.record(Kind::Modified, uid);
            self.reschedule(uid, now);
        }
    }

    /// The guests that wait for this network go on.
    pub(super) fn wake_guests(&mut self, cluster: &str, now: Instant) {
        let waiting =
            self.guests.iter().filter(|(_, guest)| guest.stage == Stage::Waiting && guest.spec.cluster == cluster);
        let uids: Vec<_> = waiting.map(|(uid, _)| *uid).collect();
        for uid in uids {
            self.reschedule(uid, now);
        }
    }

    pub(super) fn has_guests_in(&self, cluster: &str) -> bool {
        self.guests.values().any(|guest| guest.spec.cluster == cluster && guest.spec.network.is_some())
    }

    /// The next rung.
    pub(super) fn step_guest(&mut self, uid: GuestUid, at: Instant) {
        let (number, paces) = (self.number, self.paces);
        let Some(guest) = self.guests.get(&uid) else { return };
        let has_network = guest.spec.network.is_none() || self.has_network(&guest.spec.cluster);
        let (next, after) = match guest.stage {
            Stage::Accepted | Stage::Preparing | Stage::Waiting | Stage::Stopped if guest.deleting => {
                return self.remove(uid);
            }
            Stage::Accepted | Stage::Preparing | Stage::Waiting if !guest.wants_to_run() => (Stage::Stopped, None),
            Stage::Stopped if !guest.wants_to_run() => return,
            Stage::Accepted | Stage::Stopped => (Stage::Preparing, Some(paces.prepare)),
            Stage::Preparing | Stage::Waiting if has_network => (Stage::Starting, Some(paces.start)),
            Stage::Preparing => (Stage::Waiting, None),
            Stage::Waiting | Stage::Booted => return,
            Stage::Starting => (Stage::Running, Some(paces.boot)),
            Stage::Running => (Stage::Booted, None),
            Stage::Stopping if guest.deleting => {
                self.runs().end(uid, number, at);
                return self.remove(uid);
            }
            Stage::Stopping if guest.wants_to_run() => (Stage::Preparing, Some(paces.prepare)),
            Stage::Stopping => (Stage::Stopped, None),
        };
        let was_stopping = guest.stage == Stage::Stopping;
        if was_stopping {
            self.runs().end(uid, number, at);
        }
        if next == Stage::Starting {
            self.runs().begin(uid, number, at);
        }
        if let Some(guest) = self.guests.get_mut(&uid) {
            if next == Stage::Starting {
                guest.running_generation = guest.spec.generation;
            }
            guest.restarts += u32::from(was_stopping && next == Stage::Preparing);
            guest.enter(next);
        }
        self.record(Kind::Modified, uid);
        if let Some(after) = after {
            self.due.insert((at + after, Due::Guest(uid)));
        }
    }

    fn remove(&mut self, uid: GuestUid) {
        self.guests.remove(&uid);
        self.due.retain(|(_, due)| *due != Due::Guest(uid));
        self.record(Kind::Deleted, uid);
    }
}
