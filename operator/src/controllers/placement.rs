//! The placement controller: gives each guest a host, and writes it down before any agent hears of it.
//!
//! ```text
//! Hosts, Guests ──changes──► Fleet ──choice──► Guest.spec.binding (durable) ──► guest controller ──► agent
//!                                └──no room──► condition Scheduled, tried again when something changes
//! ```
//!
//! One worker has the fleet, so no room is given away twice. A binding that could not be written is taken back.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    context::{Caches, Context},
    objects::{Cluster, Ipv4Cidr, NetworkAllocation},
    placement::{Fleet, Verdict},
    runtime::Tasks,
    store::Store,
};

mod convert;
#[cfg(test)]
mod tests;
mod worker;

/// Gives guests their hosts, until the tasks are stopped.
pub fn start<S: Store, C>(context: &Context<S, C>, tasks: &Tasks) -> Placement {
    let placement = Placement { fleet: Arc::default(), caches: context.caches.clone() };
    let mut worker = worker::Worker::new(Arc::clone(&context.store), context.events.clone(), placement.clone());
    let stop = tasks.stop();
    tasks.spawn("placement", async move {
        let _ = stop.run_until_cancelled(worker.run()).await;
    });
    placement
}

/// Tells why guests are where they are. Clones are the same.
#[derive(Debug, Clone)]
pub struct Placement {
    fleet: Arc<Mutex<Fleet>>,
    caches: Caches,
}

/// Every host, seen from one guest as if it were nowhere yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The host that was chosen.
    pub bound: Option<String>,
    /// The best first, then those that cannot have it, by name.
    pub hosts: Vec<ExplainedHost>,
    /// Why no host can have it, in a sentence; none: one can.
    pub no_room: Option<String>,
}

/// One host, seen from one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedHost {
    /// Which.
    pub host: String,
    /// Whether it can have the guest.
    pub fits: bool,
    /// How good it is, or all that is against it.
    pub reasons: Vec<String>,
}

impl Placement {
    /// Looks at every host; none: there is no such guest, or it cannot be placed as it is.
    pub fn explain(&self, guest: &str) -> Option<Explained> {
        let guest = self.caches.guests.get(guest)?;
        let needs = Arc::new(convert::needs(&guest).ok()?);
        let cluster = self.caches.clusters.get(guest.spec.cluster.as_str());
        let guest = convert::guest(&guest, needs, cluster.as_deref().and_then(network)).ok()?;
        let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let explanation = fleet.explain(&guest);
        let hosts = explanation.hosts.iter().map(|verdict| {
            let (fits, reasons) = match &verdict.verdict {
                Verdict::Fits(score) => (true, vec![score.to_string()]),
                Verdict::Rejected(rejections) => (false, rejections.iter().map(ToString::to_string).collect()),
            };
            ExplainedHost { host: verdict.host.to_string(), fits, reasons }
        });
        Some(Explained {
            bound: explanation.bound.map(ToString::to_string),
            hosts: hosts.collect(),
            no_room: explanation.no_room().map(|no_room| no_room.to_string()),
        })
    }
}

fn network(cluster: &Cluster) -> Option<(&Ipv4Cidr, &NetworkAllocation)> {
    Some((&cluster.spec.network.cidr, cluster.status.as_ref()?.network.as_ref()?))
}
