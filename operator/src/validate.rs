//! What apply refuses beyond what the types do: what contradicts itself within an object, and what others stand against.
//! Pure; every problem at once, each with its field.

use std::sync::Arc;

use crate::{
    objects::{Cluster, Host, ResourceExt as _},
    render::Templates,
};

mod change;
mod disks;
mod guests;
mod network;
mod problems;
mod seeds;
#[cfg(test)]
mod tests;

pub use crate::store::FieldProblem;
use problems::Problems;

/// All that an object is compared with.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// All that there are; one of the same name is what the object is to replace.
    pub clusters: &'a [Arc<Cluster>],
    /// All that there are; one of the same name is what the object is to replace.
    pub hosts: &'a [Arc<Host>],
    /// What seeds are rendered from.
    pub templates: &'a Templates,
}

/// What is wrong with a Cluster; nothing: it can be written.
pub fn cluster(cluster: &Cluster, view: &View<'_>) -> Vec<FieldProblem> {
    let mut problems = Problems::default();
    guests::check(&mut problems, &cluster.spec);
    disks::check(&mut problems, &cluster.spec);
    network::check(&mut problems, cluster, view);
    // A seed of what is wrong already would only say so again.
    if problems.is_empty() {
        seeds::check(&mut problems, cluster, view.templates);
    }
    if let Some(before) = view.clusters.iter().find(|before| before.name_any() == cluster.name_any()) {
        change::check(&mut problems, before, cluster);
    }
    problems.into_vec()
}

/// What is wrong with a Host; nothing: it can be written.
pub fn host(host: &Host, view: &View<'_>) -> Vec<FieldProblem> {
    let mut problems = Problems::default();
    let others = view.hosts.iter().filter(|other| other.name_any() != host.name_any());
    for other in others.filter(|other| other.spec.address == host.spec.address) {
        let message = format!("is {}, which is the address of host {}", host.spec.address, other.name_any());
        problems.add("spec.address", message);
    }
    problems.into_vec()
}
