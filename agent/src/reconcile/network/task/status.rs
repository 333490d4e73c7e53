//! What others see of a network.

use super::Task;
use crate::{observed::ConditionStatus, reconcile::network::Readiness};

impl Task {
    /// What others saw of it.
    pub(super) fn forget(&self) {
        self.shared.observed.forget_network(&self.cluster);
        self.shared.readiness.send_if_modified(|networks| networks.remove(&self.cluster).is_some());
    }

    pub(in crate::reconcile::network) fn publish(&mut self) {
        if self.gone {
            return;
        }
        self.status.mtu = self.mtu;
        self.status.namespace.clone_from(&self.path);
        let taps = self.believed.as_ref().map(|believed| believed.taps().count());
        self.status.ports = taps.and_then(|taps| u32::try_from(taps).ok()).unwrap_or(self.status.ports);
        self.shared.observed.publish_network(self.cluster.clone(), self.status.clone());
        let readiness = self.readiness();
        self.shared.readiness.send_if_modified(|networks| {
            let changed = networks.get(&self.cluster) != Some(&readiness);
            if changed {
                networks.insert(self.cluster.clone(), readiness);
            }
            changed
        });
    }

    pub(in crate::reconcile::network) fn readiness(&self) -> Readiness {
        if self.record.deleting {
            return Readiness::NotReady { reason: "it is being deleted".to_owned() };
        }
        match self.status.conditions.get("Ready") {
            Some(condition) if condition.status == ConditionStatus::True => Readiness::Ready,
            Some(condition) => Readiness::NotReady { reason: condition.message.clone() },
            None => Readiness::NotReady { reason: "it is being made".to_owned() },
        }
    }
}
