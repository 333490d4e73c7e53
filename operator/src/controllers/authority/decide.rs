//! What becomes of an authority. Pure.

use std::sync::Arc;

use super::{is_deleting, status, status::Told};
use crate::{
    controllers::finalizer,
    objects::{CertificateAuthority, Cluster, Guest, ResourceExt as _},
    runtime::write::has_finalizer,
};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The issuer shall hold it.
    Make,
    /// The issuer shall hold nothing of it any more, and the object may go.
    Destroy,
    /// Nothing now.
    Tell(Vec<Told>),
}

/// By the authority, the cluster of its name, and the cluster's guests.
pub(super) fn decide(authority: &CertificateAuthority, cluster: Option<&Cluster>, guests: &[Arc<Guest>]) -> Step {
    if !is_deleting(authority) {
        return if authority.name_any() == authority.spec.cluster.as_str() {
            Step::Make
        } else {
            let message = format!(
                "an authority has the name of its cluster: make one that is called {}, and delete this one",
                authority.spec.cluster
            );
            Step::Tell(vec![status::refused("NameIsNotTheClusters", message)])
        };
    }
    if !has_finalizer(authority, finalizer::AUTHORITY) {
        // Nothing was made, or nothing of it is left.
        return Step::Tell(Vec::new());
    }
    if !guests.is_empty() {
        let names = status::some_of(guests.iter().map(|guest| guest.name_any()));
        let message = format!("guests of the cluster are still there, and need it: {names}");
        return Step::Tell(status::deleting("GuestsRemain", message));
    }
    if let Some(cluster) = cluster.filter(|cluster| !is_deleting(*cluster) && is_owned_by(authority, cluster)) {
        let message = format!("cluster {} is still there: it goes with the cluster, not before", cluster.name_any());
        return Step::Tell(status::deleting("ClusterRemains", message));
    }
    Step::Destroy
}

/// A later cluster of this name is another one.
fn is_owned_by(authority: &CertificateAuthority, cluster: &Cluster) -> bool {
    authority.owner_references().iter().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
}
