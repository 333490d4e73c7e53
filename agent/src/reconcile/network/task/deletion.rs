//! The end of a network.

use super::{Problem, Task};
use crate::{
    errors::with_causes,
    ledger::{self, UpdateError},
    network::{
        Namespace,
        kernel::{ClusterKernel, KernelError},
    },
    observed::{ConditionStatus, NetworkStatus},
};

impl Task {
    /// Removes everything; what is there and not removed yet is tried again.
    pub(super) async fn delete(&mut self) -> Result<(), Problem> {
        self.status.conditions.set("Deleting", ConditionStatus::True, "Deleting", "it was asked to go");
        let bound = Namespace::bound_at(&self.path).map_err(KernelError::Namespace)?.is_some();
        let mut failures = Vec::new();
        if bound || self.kernel.is_some() {
            let worker = self.kernel().await?;
            let known = self.ports.clone();
            let attached = worker.run(move |kernel| kernel.taps(&known)).await??;
            if !attached.is_empty() {
                let message = format!("{} guests are attached: delete or stop them first", attached.len());
                return Err(Problem::new("GuestsAttached", message));
            }
            failures.extend(self.remove_way_out().await.err().map(|problem| problem.message));
            let torn_down = worker.run(ClusterKernel::tear_down).await?;
            failures.extend(torn_down.into_iter().map(|failure| failure.message));
            self.believed = None;
        } else {
            failures.extend(self.remove_way_out().await.err().map(|problem| problem.message));
        }
        if !failures.is_empty() {
            return Err(Problem::new("KernelRefused", failures.join("; ")));
        }
        self.kernel = None;
        self.ports.clear();
        self.forget_record().await
    }

    /// Nothing is left, so the record can go, unless the network was asked for again meanwhile.
    async fn forget_record(&mut self) -> Result<(), Problem> {
        let cluster = self.cluster.clone();
        let forgotten = self
            .shared
            .ledger
            .update(move |ledger| {
                let deleting = ledger.networks.get(&cluster).is_some_and(|record| record.deleting);
                let changes = if deleting { vec![ledger::Change::ForgetNetwork(cluster)] } else { Vec::new() };
                Ok::<_, std::convert::Infallible>((changes, deleting))
            })
            .await;
        match forgotten {
            Ok(true) => {
                self.gone = true;
                self.status = NetworkStatus::default();
                self.forget();
                Ok(())
            }
            Ok(false) | Err(UpdateError::ShuttingDown) => Ok(()),
            Err(error) => Err(Problem::new("LedgerFault", with_causes(&error))),
        }
    }
}
