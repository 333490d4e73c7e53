//! A host and how it is reached.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use crate::agents::AgentError;

/// How a host fails.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Nothing reaches it, and what was connected is not any more.
    pub unreachable: bool,
    /// Before each answer.
    pub delay: Duration,
    /// How many of a hundred requests never arrive.
    pub lost_requests: u8,
    /// How many of a hundred answers never arrive: what was asked for is done.
    pub lost_replies: u8,
    /// What every guest that is applied is refused with.
    pub refuses: Option<AgentError>,
}

/// What becomes of one call.
#[derive(Debug)]
pub(super) enum Fate {
    Answered {
        after: Duration,
    },
    RequestLost,
    /// And the connection with it, or it alone.
    ReplyLost {
        connection_too: bool,
    },
}

#[derive(Debug)]
pub(super) struct SimulatedHost {
    machine: Mutex<Machine>,
    /// The newest revision: what watches wait for.
    revision: watch::Sender<u64>,
    reach: Mutex<Reach>,
    connections: AtomicU64,
    calls: AtomicU64,
}

#[derive(Debug)]
struct Reach {
    faults: Faults,
    /// Cancelled when the connections break.
    life: CancellationToken,
    /// For faults that come at random, the same in each run.
    random: u64,
}

impl SimulatedHost {
    pub(super) fn new(machine: Machine) -> Self {
        let reach = Reach {
            faults: Faults::default(),
            life: CancellationToken::new(),
            random: u64::from(machine.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        let revision = watch::Sender::new(machine.revision());
        Self {
            machine: Mutex::new(machine),
            revision,
            reach: Mutex::new(reach),
            connections: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// Does what is due, then this.
    pub(super) fn act<T>(&self, act: impl FnOnce(&mut Machine, Instant) -> T) -> T {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        machine.advance(now);
        let result = act(&mut machine, now);
        // What takes no time is done at once.
        machine.advance(now);
        let revision = machine.revision();
        drop(machine);
        self.revision.send_if_modified(|newest| std::mem::replace(newest, revision) != revision);
        result
    }

    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// A connection's life, if one can be made.
    pub(super) fn open(&self) -> Option<CancellationToken> {
        let reach = self.reach();
        if reach.faults.unreachable {
            return None;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(reach.life.child_token())
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        let mut reach = self.reach();
        if faults.unreachable {
            reach.cut();
        }
        reach.faults = faults;
    }

    pub(super) fn restart_agent(&self) {
        self.act(|machine, _| machine.forget_history());
        self.cut();
    }

    pub(super) fn reboot(&self) {
        self.act(Machine::reboot);
        self.restart_agent();
    }

    pub(super) fn cut(&self) {
        self.reach().cut();
    }

    pub(super) fn refuses(&self) -> Option<AgentError> {
        self.reach().faults.refuses.clone()
    }

    /// How often its agent was asked something.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// What becomes of the next call.
    pub(super) fn fate(&self) -> Fate {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut reach = self.reach();
        let Faults { delay, lost_requests, lost_replies, .. } = reach.faults;
        if lost_requests == 0 && lost_replies == 0 {
            return Fate::Answered { after: delay };
        }
        match reach.random() % 100 {
            drawn if drawn < u64::from(lost_requests) => Fate::RequestLost,
            drawn if drawn < u64::from(lost_requests) + u64::from(lost_replies) => {
                Fate::ReplyLost { connection_too: reach.random().is_multiple_of(2) }
            }
            _ => Fate::Answered { after: delay },
        }
    }

    fn reach(&self) -> std::sync::MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reach {
    fn cut(&mut self) {
        std::mem::take(&mut self.life).cancel();
    }

    /// Xorshift, by Marsaglia; its high bits.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 16
    }
}

/// Shared by everything that reaches it.
pub(super) type HostHandle = Arc<SimulatedHost>;
