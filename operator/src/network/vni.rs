//! A VNI for each cluster, of one range, unique in the operator.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::RangeInclusive,
};

use goliath_proto::values::{ClusterName, InvalidValue, Vni};
use sha2::{Digest as _, Sha256};

use super::free::FreeNumbers;

/// The VNIs that clusters get where their manifests give none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VniRange(RangeInclusive<u32>);

impl VniRange {
    /// From the first to the last, both included.
    pub fn new(first: Vni, last: Vni) -> Result<Self, InvalidValue> {
        if first > last {
            return Err(InvalidValue::new(format!(
                "{first} to {last} is empty: the first VNI must not be above the last"
            )));
        }
        Ok(Self(first.get()..=last.get()))
    }

    fn size(&self) -> u32 {
        self.0.end() - self.0.start() + 1
    }
}

/// Which cluster has which VNI. Made from what is written in objects, so that a restarted operator gives the same.
#[derive(Debug, Clone)]
pub struct Vnis {
    range: VniRange,
    free: FreeNumbers,
    clusters: HashMap<ClusterName, Vni>,
    holders: HashMap<Vni, ClusterName>,
}

/// Why a cluster does not get a VNI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VniError {
    /// Two clusters on one host would share a network.
    #[error("VNI {vni} is that of cluster {holder}: take another one, or leave it out")]
    Taken {
        /// Asked for.
        vni: Vni,
        /// Who has it.
        holder: ClusterName,
    },
    /// It is kept as long as the cluster's network exists.
    #[error("the cluster has VNI {held} already, which cannot become {wanted}")]
    Other {
        /// What it has.
        held: Vni,
        /// Asked for.
        wanted: Vni,
    },
    /// Every VNI of the range is held.
    #[error("all {size} VNIs from {first} to {last} are held: delete clusters, or widen the operator's range")]
    Exhausted {
        /// How many there are.
        size: u32,
        /// The range's first.
        first: u32,
        /// The range's last.
        last: u32,
    },
}

impl Vnis {
    /// None is held.
    pub fn new(range: VniRange) -> Self {
        let free = FreeNumbers::new(range.0.clone());
        Self { range, free, clusters: HashMap::new(), holders: HashMap::new() }
    }

    /// The cluster has this VNI: given in its manifest, inside or outside of the range, or written down before.
    pub fn hold(&mut self, cluster: &ClusterName, vni: Vni) -> Result<(), VniError> {
        match self.clusters.get(cluster) {
            Some(held) if *held == vni => return Ok(()),
            Some(held) => return Err(VniError::Other { held: *held, wanted: vni }),
            None => {}
        }
        match self.holders.entry(vni) {
            Entry::Occupied(entry) => Err(VniError::Taken { vni, holder: entry.get().clone() }),
            Entry::Vacant(entry) => {
                entry.insert(cluster.clone());
                self.clusters.insert(cluster.clone(), vni);
                self.free.take(vni.get());
                Ok(())
            }
        }
    }

    /// The cluster's VNI: the one it has, else the first that is free from a place that its name decides. So a VNI that
    /// was just released, of which late packets may be under way, is seldom the next one given.
    pub fn allocate(&mut self, cluster: &ClusterName) -> Result<Vni, VniError> {
        if let Some(held) = self.clusters.get(cluster) {
            return Ok(*held);
        }
        let (first, last, size) = (*self.range.0.start(), *self.range.0.end(), self.range.size());
        let vni = self.free.next_from(first + start(cluster) % size).and_then(|number| Vni::try_from(number).ok());
        let vni = vni.ok_or(VniError::Exhausted { size, first, last })?;
        self.hold(cluster, vni)?;
        Ok(vni)
    }

    /// The cluster's network is gone from every host.
    pub fn release(&mut self, cluster: &ClusterName) {
        if let Some(vni) = self.clusters.remove(cluster) {
            self.holders.remove(&vni);
            self.free.give_back(vni.get());
        }
    }

    /// The VNI that a cluster has.
    pub fn get(&self, cluster: &ClusterName) -> Option<Vni> {
        self.clusters.get(cluster).copied()
    }
}

fn start(cluster: &ClusterName) -> u32 {
    let hash = Sha256::digest(cluster.as_str().as_bytes());
    hash.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn vni(number: u32) -> Vni {
        number.try_into().unwrap()
    }

    fn cluster(number: u8) -> ClusterName {
        format!("cluster-{number}").parse().unwrap()
    }

    fn vnis(first: u32, last: u32) -> Vnis {
        Vnis::new(VniRange::new(vni(first), vni(last)).unwrap())
    }

    #[test]
    fn a_refusal_says_who_has_it_and_how_many_there_are() {
        let mut vnis = vnis(5000, 5001);
        vnis.hold(&cluster(1), vni(7)).unwrap();
        let refusal = vnis.hold(&cluster(2), vni(7)).unwrap_err().to_string();
        assert_eq!(refusal, "VNI 7 is that of cluster cluster-1: take another one, or leave it out");
        let refusal = vnis.hold(&cluster(1), vni(8)).unwrap_err().to_string();
        assert_eq!(refusal, "the cluster has VNI 7 already, which cannot become 8");
        vnis.allocate(&cluster(2)).unwrap();
        vnis.allocate(&cluster(3)).unwrap();
        let refusal = vnis.allocate(&cluster(4)).unwrap_err().to_string();
        let expected = "all 2 VNIs from 5000 to 5001 are held: delete clusters, or widen the operator's range";
        assert_eq!(refusal, expected);
    }

    #[test]
    fn a_range_is_not_empty() {
        assert!(VniRange::new(vni(2), vni(1)).is_err());
        assert!(VniRange::new(vni(2), vni(2)).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u8),
        Hold(u8, u32),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..12).prop_map(Step::Allocate),
            (0_u8..12, 95_u32..112).prop_map(|(cluster, vni)| Step::Hold(cluster, vni)),
            (0_u8..12).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn no_vni_is_given_twice_and_none_changes_while_held(steps in prop::collection::vec(step(), 0..80)) {
            let mut vnis = vnis(100, 107);
            let mut model: BTreeMap<u8, Vni> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Allocate(number) => match vnis.allocate(&cluster(number)) {
                        Ok(given) => {
                            prop_assert!(model.get(&number).is_none_or(|held| *held == given));
                            prop_assert!(model.contains_key(&number) || (100..=107).contains(&given.get()));
                            model.insert(number, given);
                        }
                        Err(_) => prop_assert_eq!((100..=107).filter(|n| model.values().any(|v| v.get() == *n)).count(), 8),
                    },
                    Step::Hold(number, wanted) => {
                        let free = model.iter().all(|(other, held)| (*other == number) == (held.get() == wanted));
                        let free = free || (!model.contains_key(&number) && model.values().all(|held| held.get() != wanted));
                        let held = vnis.hold(&cluster(number), vni(wanted));
                        let same = model.get(&number) == Some(&vni(wanted));
                        prop_assert_eq!(held.is_ok(), same || (free && !model.contains_key(&number)));
                        if held.is_ok() {
                            model.insert(number, vni(wanted));
                        }
                    }
                    Step::Release(number) => {
                        vnis.release(&cluster(number));
                        model.remove(&number);
                    }
                }
                let distinct: std::collections::BTreeSet<_> = model.values().collect();
                prop_assert_eq!(distinct.len(), model.len());
                for (number, held) in &model {
                    prop_assert_eq!(vnis.get(&cluster(*number)), Some(*held));
                }
            }
        }

        #[test]
        fn after_a_restart_the_same_is_given(
            before in prop::collection::btree_set(0_u8..8, 0..8), next in 0_u8..12,
        ) {
            let mut first = vnis(100, 115);
            for number in &before {
                first.allocate(&cluster(*number)).unwrap();
            }
            let mut second = vnis(100, 115);
            for number in before.iter().rev() {
                second.hold(&cluster(*number), first.get(&cluster(*number)).unwrap()).unwrap();
            }
            prop_assert_eq!(first.allocate(&cluster(next)), second.allocate(&cluster(next)));
        }
    }
}
