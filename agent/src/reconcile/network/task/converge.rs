//! Brings what is there to what is wanted.

use std::sync::Arc;

use super::{Problem, Task, present, sentence};
use crate::{
    errors::with_causes,
    network::{
        Role, Worker, desired,
        host::EgressWanted,
        kernel::{ClusterKernel, KernelError},
        settings,
    },
    observed::ConditionStatus,
    reconcile::network::drift::{drift, in_words},
    spec::Mtu,
};

impl Task {
    /// Writes what is wanted over what is known to be there.
    pub(super) async fn update(&mut self) {
        let (Some(believed), Some(kernel), Some(mtu)) = (self.believed.take(), &self.kernel, self.mtu) else {
            return self.look().await;
        };
        let present = present(&self.ports, &believed);
        let desired = desired(&self.wanted(mtu, &present));
        let changes = believed.changes_to(&desired);
        let result = if changes.is_empty() {
            Ok(Vec::new())
        } else {
            kernel.worker.run(move |kernel| kernel.apply(&changes)).await
        };
        self.changed_by_us();
        match result {
            Ok(failures) if failures.is_empty() => {
                self.believed = Some(desired);
                self.status.observed_peers_generation = self.record.peers.as_ref().map(|peers| peers.generation);
                self.publish();
            }
            // It may be that somebody changed what we believed: look.
            Ok(_) => self.look().await,
            Err(gone) => {
                self.kernel = None;
                self.failed(gone.into());
            }
        }
    }

    /// Brings the network to what its record says.
    pub(super) async fn converge(&mut self, slow: bool) -> Result<(), Problem> {
        let record = Arc::clone(&self.record);
        let spec = &record.spec;
        let mtu = self.shared.mtu(spec).map_err(|(reason, message)| Problem::new(reason, message))?;
        let worker = self.kernel().await?;
        if slow {
            worker.post(ClusterKernel::look_at_rules_again);
        }
        let mut repaired = self.way_out(&worker, mtu).await?;
        self.mtu = Some(mtu);

        let known = self.ports.clone();
        let settings = settings(spec.egress);
        let observation = worker.run(move |kernel| kernel.observe(&known, &settings)).await??;
        if observation.rebound {
            repaired.push(format!("bind {} again", self.path.display()));
        }
        for (uid, port) in &observation.ports {
            self.ports.entry(*uid).or_insert(*port);
        }
        let present = present(&self.ports, &observation.state);
        let desired = desired(&self.wanted(mtu, &present));
        let changes = observation.state.changes_to(&desired);
        let believed = self.believed.take();
        if let Some(believed) = &believed {
            repaired.extend(drift(believed, &observation.state, &desired).iter().map(ToString::to_string));
        } else {
            // Nothing was known to be right, so nothing was changed by others.
            repaired.clear();
        }
        let failures = if changes.is_empty() {
            Vec::new()
        } else {
            let failures = worker.run(move |kernel| kernel.apply(&changes)).await?;
            self.changed_by_us();
            failures
        };
        self.tell_drift(&repaired, failures.is_empty());
        if !failures.is_empty() {
            return Err(Problem::new("KernelRefused", sentence(&failures)));
        }
        self.believed = Some(desired);
        self.status.observed_generation = Some(spec.generation);
        self.status.observed_peers_generation = record.peers.as_ref().map(|peers| peers.generation);
        self.status.conditions.clear("Deleting");
        self.status.conditions.set("Ready", ConditionStatus::True, "Ready", "guests can be attached");
        Ok(())
    }

    /// Makes the way out, or removes it; tells what was put right.
    async fn way_out(&mut self, worker: &Worker<ClusterKernel>, mtu: Mtu) -> Result<Vec<String>, Problem> {
        let spec = &self.record.spec;
        if !spec.egress {
            self.slot = None;
            if !self.way_out_removed {
                self.remove_way_out().await?;
                self.way_out_removed = true;
            }
            return Ok(Vec::new());
        }
        let (namespace, cluster_end_is_there) =
            worker.run(|kernel| (kernel.namespace(), kernel.has_device(Role::Egress))).await?;
        let namespace = namespace.map_err(KernelError::Thread)?;
        let (cluster, vni) = (self.cluster.clone(), spec.vni);
        let wanted = EgressWanted { cluster, vni, mtu, namespace, cluster_end_is_there };
        let egress = self
            .shared
            .host
            .run(move |host| host.ensure_egress(&wanted))
            .await?
            .map_err(|error| Problem::new("NoEgress", with_causes(&error)))?;
        self.slot = Some(egress.slot);
        Ok(egress.repaired)
    }

    pub(super) async fn remove_way_out(&self) -> Result<(), Problem> {
        let cluster = self.cluster.clone();
        let removed = self.shared.host.run(move |host| host.remove_egress(&cluster)).await?;
        removed.map_err(|error| Problem::new("NoEgress", with_causes(&error)))
    }

    fn tell_drift(&mut self, repaired: &[String], done: bool) {
        if repaired.is_empty() {
            if self.status.conditions.get("Drift").is_none() || done && self.status.conditions.is_true("Drift") {
                self.status.conditions.set("Drift", ConditionStatus::False, "InSync", "nothing was changed by others");
            }
            return;
        }
        let what = in_words(repaired);
        tracing::warn!(cluster = %self.cluster, repairs = what, done, "somebody changed the network");
        if done {
            self.status.repairs += 1;
            let message = format!("changed by others and put right at {}: {what}", jiff::Timestamp::now());
            self.status.conditions.set("Drift", ConditionStatus::False, "Repaired", message);
        } else {
            let message = format!("changed by others and not yet put right: {what}");
            self.status.conditions.set("Drift", ConditionStatus::True, "NotRepaired", message);
        }
    }
}
