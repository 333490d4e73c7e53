//! Writes down what clusters' networks are allocated: VNI, gateway, and an address for each host.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use goliath_proto::values::{ClusterName, HostName, OverlayCidr, Vni};

use super::{
    Shared,
    allocate::{Demand, HostAddresses, host_addresses},
    state::Member,
};
use crate::{
    agents::{Agent, Connections},
    context::Context,
    controllers::finalizer,
    network::{Addresses, VniError},
    objects::{Cluster, ConditionStatus, NetworkAllocation},
    runtime::{
        Controller, GuestBy, Next, ReconcileError,
        events::{EventSubject, Severity},
        write,
    },
    store::Store,
};

/// Written by this controller, in Clusters.
pub const NETWORK_READY: &str = "NetworkReady";

/// Before something that stands against a cluster's network is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Writes allocations, one cluster at a time: so no VNI is given twice.
pub(super) struct Allocator<S, A> {
    context: Context<S, Connections<A>>,
    shared: Arc<Shared>,
    /// The clusters that were looked at last: another one of the same name has no claim on what was given.
    uids: Mutex<HashMap<ClusterName, Option<String>>>,
}

/// What stands against a cluster's network: reason and message.
type Problem = (&'static str, String);

impl<S: Store, A: Agent> Controller for Allocator<S, A> {
    type Key = String;
    const NAME: &'static str = "network";

    async fn reconcile(&self, key: &String) -> Result<Next, ReconcileError> {
        let name: ClusterName = key.parse().map_err(|problem| ReconcileError::Retry(format!("{key}: {problem}")))?;
        let store = &*self.context.store;
        let cluster = self.context.caches.clusters.get(key);
        self.forget_former(&name, cluster.as_deref());
        let Some(cluster) = cluster else { return Ok(Next::Done) };
        let goes = cluster.metadata.deletion_timestamp.is_some();
        if !write::has_finalizer(&*cluster, finalizer::NETWORK) {
            if !goes {
                write::add_finalizer(store, &*cluster, finalizer::NETWORK).await?;
            }
            return Ok(Next::Done);
        }
        let (allocation, problem) = match self.allocation(&name, &cluster) {
            Ok(allocated) => allocated,
            Err(problem) => {
                self.write(&cluster, None, Some(problem)).await?;
                if goes && cluster.status.as_ref().is_none_or(|status| status.network.is_none()) {
                    // No agent ever heard of it.
                    write::remove_finalizer(store, &*cluster, finalizer::NETWORK).await?;
                }
                return Ok(Next::After(LOOK_AGAIN));
            }
        };
        let is_gone = allocation.host_addresses.is_empty() && !self.shared.state().has_holders(&name);
        let has_problem = problem.is_some();
        if let Some(written) = self.write(&cluster, Some(allocation), problem).await? {
            // What is decided next stands on what was written.
            let version = written.metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
            if let Some(version) = version {
                self.context.caches.clusters.reached(version).await;
            }
            self.shared.allocate.push(key.clone());
            return Ok(Next::Done);
        }
        let has_guests = !self.context.caches.guests.by(GuestBy::Cluster, key).is_empty();
        if goes && is_gone && !has_guests {
            write::remove_finalizer(store, &*cluster, finalizer::NETWORK).await?;
            let message = "no host has the cluster's network any more";
            self.context.events.record(&EventSubject::of(&*cluster), Severity::Normal, "NetworkGone", message);
        }
        Ok(if has_problem { Next::After(LOOK_AGAIN) } else { Next::Done })
    }
}

impl<S: Store, A: Agent> Allocator<S, A> {
    pub(super) fn new(context: Context<S, Connections<A>>, shared: Arc<Shared>) -> Self {
        Self { context, shared, uids: Mutex::default() }
    }

    /// Gives back the VNI of a cluster that is gone, whether or not another one has its name.
    fn forget_former(&self, name: &ClusterName, cluster: Option<&Cluster>) {
        let mut uids = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        let is_gone = match cluster {
            Some(cluster) => {
                let uid = &cluster.metadata.uid;
                uids.insert(name.clone(), uid.clone()).is_some_and(|former| former != *uid)
            }
            None => {
                uids.remove(name);
                true
            }
        };
        if is_gone {
            self.shared.vnis().release(name);
        }
    }

    /// The allocation as it shall be written, and what stands against a part of it.
    fn allocation(
        &self,
        name: &ClusterName,
        cluster: &Cluster,
    ) -> Result<(NetworkAllocation, Option<Problem>), Problem> {
        let network = &cluster.spec.network;
        let cidr: OverlayCidr =
            network.cidr.to_string().parse().map_err(|problem| ("InvalidNetwork", format!("{problem}")))?;
        let before = cluster.status.as_ref().and_then(|status| status.network.as_ref());
        let (vni, mut problem) = self.vni(name, cluster, before)?;
        let held: BTreeMap<HostName, _> = before
            .into_iter()
            .flat_map(|before| &before.host_addresses)
            .filter_map(|(host, address)| Some((host.as_str().parse().ok()?, *address)))
            .collect();
        let guests = self.context.caches.guests.by(GuestBy::Cluster, name.as_str());
        let guests: Vec<_> = guests
            .iter()
            .filter_map(|guest| {
                let uid = guest.metadata.uid.as_ref()?.parse().ok()?;
                Some((uid, guest.spec.network.as_ref()?.ipv4_address))
            })
            .collect();
        let wanted = self.shared.state().wanted(name);
        let demand = Demand { cidr, held: &held, guests: &guests, wanted: &wanted };
        let HostAddresses { addresses, problem: exhausted } =
            host_addresses(&demand, |host| self.may_have_it(&Member::new(name, host)));
        problem = problem.or_else(|| exhausted.map(|error| ("AddressesExhausted", error.to_string())));
        let allocation = NetworkAllocation {
            vni,
            gateway_address: before.map_or_else(|| Addresses::new(cidr).gateway(), |before| before.gateway_address),
            peers_generation: before.map(|before| before.peers_generation).unwrap_or_default(),
            host_addresses: addresses
                .into_iter()
                .filter_map(|(host, address)| Some((host.as_str().parse().ok()?, address)))
                .collect(),
        };
        Ok((allocation, problem))
    }

    /// The VNI stays while there is a network; another one in the spec is told of.
    fn vni(
        &self,
        name: &ClusterName,
        cluster: &Cluster,
        before: Option<&NetworkAllocation>,
    ) -> Result<(crate::objects::Vni, Option<Problem>), Problem> {
        let told = |error: VniError| match error {
            VniError::Taken { .. } => ("VniTaken", error.to_string()),
            VniError::Other { .. } => ("VniHeld", error.to_string()),
            VniError::Exhausted { .. } => ("VnisExhausted", error.to_string()),
        };
        let invalid = |problem: goliath_proto::values::InvalidValue| ("InvalidVni", problem.to_string());
        let mut vnis = self.shared.vnis();
        if let Some(before) = before {
            // Written by us, so it is nobody else's; where objects were written by hand it may be.
            vnis.hold(name, Vni::try_from(before.vni.get()).map_err(invalid)?).map_err(told)?;
        }
        let asked = cluster.spec.network.vni.map(|vni| Vni::try_from(vni.get()).map_err(invalid)).transpose()?;
        match (asked.map(|vni| vnis.hold(name, vni)), before) {
            (Some(Err(error)), Some(before)) => Ok((before.vni, Some(told(error)))),
            (Some(Err(error)), None) => Err(told(error)),
            (Some(Ok(())) | None, _) => {
                let vni = vnis.allocate(name).map_err(told)?;
                let vni = u64::from(vni.get()).try_into().map_err(|problem| ("InvalidVni", format!("{problem}")))?;
                Ok((vni, None))
            }
        }
    }

    /// Whether the host may have the network, though no guest is bound to it.
    fn may_have_it(&self, member: &Member) -> bool {
        // One that was forgotten is not waited for.
        let host = self.context.caches.hosts.get(member.host.as_str());
        let is_declared = host.is_some_and(|host| host.metadata.deletion_timestamp.is_none());
        is_declared && self.shared.state().may_have_it(member)
    }

    async fn write(
        &self,
        cluster: &Cluster,
        allocation: Option<NetworkAllocation>,
        problem: Option<Problem>,
    ) -> Result<Option<Cluster>, ReconcileError> {
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        let problem = problem.or_else(|| {
            let refusals = name.parse().map(|name| self.shared.state().problems(&name)).unwrap_or_default();
            (!refusals.is_empty()).then(|| ("RefusedByHost", refusals.join("; ")))
        });
        let (status, reason, message) = match problem {
            None => (ConditionStatus::True, "Allocated", String::new()),
            Some((reason, message)) => (ConditionStatus::False, reason, message),
        };
        let (generation, now) = (cluster.metadata.generation, self.context.now());
        let written = write::status(&*self.context.store, cluster, |written| {
            written.conditions.set(NETWORK_READY, status, reason, message.as_str(), generation, now);
            if allocation.is_some() {
                written.network = allocation;
            }
        });
        let written = written.await?;
        if written.is_some() && status == ConditionStatus::False {
            self.context.events.record(&EventSubject::of(cluster), Severity::Warning, reason, message);
        }
        Ok(written)
    }
}
