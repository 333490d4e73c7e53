//! When and where each guest ran.

use std::collections::HashMap;

use goliath_proto::values::GuestUid;
use tokio::time::Instant;

/// Which guest ran on which host from when to when.
#[derive(Debug, Default)]
pub(super) struct Runs(HashMap<GuestUid, Vec<Run>>);

#[derive(Debug, Clone, Copy)]
struct Run {
    host: u32,
    from: Instant,
    until: Option<Instant>,
}

/// A guest that ran twice at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubled {
    /// Which.
    pub uid: GuestUid,
    /// Where, in the order in which hosts were added.
    pub hosts: [u32; 2],
}

impl Runs {
    pub(super) fn begin(&mut self, uid: GuestUid, host: u32, at: Instant) {
        self.0.entry(uid).or_default().push(Run { host, from: at, until: None });
    }

    pub(super) fn end(&mut self, uid: GuestUid, host: u32, at: Instant) {
        let runs = self.0.get_mut(&uid).into_iter().flatten();
        for run in runs.filter(|run| run.host == host && run.until.is_none()) {
            run.until = Some(at);
        }
    }

    pub(super) fn starts(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Hosts are looked at one after the other, so begins and ends come in any order: only here are they compared.
    pub(super) fn doubled(&self) -> Vec<Doubled> {
        let mut found = Vec::new();
        for (uid, runs) in &self.0 {
            let mut runs = runs.clone();
            runs.sort_by_key(|run| run.from);
            for pair in runs.windows(2) {
                if let [one, other] = pair
                    && one.until.is_none_or(|until| until > other.from)
                {
                    found.push(Doubled { uid: *uid, hosts: [one.host, other.host] });
                }
            }
        }
        found
    }
}
