//! Guests for the places that are empty.

use std::collections::BTreeMap;

use super::{
    super::{
        addresses::AddressPlan,
        change::{Blueprint, CONFIGURATION, configuration},
        group::name_of,
        owner::owned_metadata,
        status::Progress,
    },
    Action, Builder,
    slot::{Slot, State, why_not_ready},
};
use crate::{
    controllers::finalizer,
    objects::{Guest, NetworkAllocation, Object},
    render::{Inputs, Member, Node},
};

impl Builder<'_> {
    /// Guests for the places that are empty. Workers come once the masters serve; where there are workers already, a
    /// majority of masters will do, for with it the cluster works.
    pub(super) fn create(&mut self, network: &NetworkAllocation, slots: &[Slot<'_>]) {
        let empty: Vec<_> = slots.iter().filter(|slot| matches!(slot.state, State::Empty)).collect();
        if empty.is_empty() {
            return;
        }
        let (masters, workers): (Vec<_>, Vec<_>) = slots.iter().partition(|slot| self.is_master(slot));
        let serving = masters.iter().filter(|slot| slot.is_serving()).count();
        let has_workers = workers.iter().any(|slot| slot.guest().is_some());
        let enough = if has_workers { masters.len() / 2 + 1 } else { masters.len() };
        let may_have_workers = serving >= enough;
        if !may_have_workers && empty.iter().any(|slot| !self.is_master(slot)) {
            let reason = masters.iter().find(|slot| !slot.is_serving()).map(|slot| why_not_ready(slot));
            let message = format!("workers wait for the masters: {}", reason.unwrap_or_default());
            self.waits.push(Progress::wait("WaitsForMasters", message));
        }
        let due = empty.into_iter().filter(|slot| may_have_workers || self.is_master(slot)).collect::<Vec<_>>();
        let mut plan = match AddressPlan::new(self.view.cluster, network, self.view.guests) {
            Ok(plan) => plan,
            Err(problem) => return self.waits.push(Progress::fault("NoAddress", problem)),
        };
        let members = match plan.members() {
            Ok(members) => members,
            Err(problem) => return self.waits.push(Progress::fault("NoAddress", problem)),
        };
        for slot in due {
            match self.guest(network, slot, &mut plan, &members) {
                Ok(guest) => self.actions.push(Action::CreateGuest(Box::new(guest))),
                Err(problem) => self.waits.push(problem),
            }
        }
    }

    /// Complete, but for its host.
    fn guest(
        &self,
        network: &NetworkAllocation,
        slot: &Slot<'_>,
        plan: &mut AddressPlan,
        members: &[Member],
    ) -> Result<Guest, Progress> {
        let cluster = self.view.cluster;
        let group = &self.groups[slot.group];
        let address = plan.give(&slot.name).map_err(|problem| Progress::fault("NoAddress", problem))?;
        let blueprint = Blueprint { cluster, network, group };
        let invalid = |problem| Progress::fault("Invalid", format!("{}: {problem}", slot.name));
        let mut spec = blueprint.spec(slot.index, address).map_err(invalid)?;
        let inputs = Inputs {
            cluster: name_of(cluster),
            spec: &cluster.spec,
            gateway_address: network.gateway_address,
            masters: members,
            node: Node {
                name: spec.hostname.as_str(),
                address,
                role: group.role,
                pool: group.pool,
                index: slot.index,
                labels: group.labels,
            },
        };
        let seed = self.view.templates.seed(group.seed, &inputs);
        spec.seed = Some(seed.map_err(|error| Progress::fault("TemplateFailed", format!("{}: {error}", slot.name)))?);
        let mut metadata = owned_metadata(cluster, slot.name.clone());
        metadata.labels = Some(blueprint.labels());
        metadata.annotations =
            Some(BTreeMap::from([(CONFIGURATION.to_owned(), configuration(&cluster.spec, group.seed))]));
        metadata.finalizers = Some(vec![finalizer::GUEST.to_owned()]);
        Ok(Guest::from_parts(metadata, spec, None))
    }
}
