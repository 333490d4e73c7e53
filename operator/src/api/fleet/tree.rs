use goliath_proto::operator::v1 as pb;
use tonic::Status;

use super::{errors, explain::conditions};
use crate::{
    context::Caches,
    objects::{
        Certificate, CertificateAuthority, Cluster, Conditions, Guest, GuestCounts, Kind, Object, ResourceExt as _,
    },
    runtime::{CertificateBy, GuestBy},
};

/// A cluster: its authority, its masters, its workers, and the certificates of each.
pub(super) fn of(caches: &Caches, name: &str) -> Result<pb::TreeNode, Status> {
    let cluster = caches.clusters.get(name).ok_or_else(|| errors::not_found(Kind::Cluster, name))?;
    let mut guests = caches.guests.by(GuestBy::Cluster, name);
    guests.sort_by_key(|guest| (guest.spec.role, guest.spec.pool.clone(), guest.spec.index));
    let authority = caches.authorities.get(name).into_iter().map(|authority| {
        node(
            &*authority,
            authority_summary(&authority),
            authority.status.as_ref().map(|status| &status.conditions),
            vec![],
        )
    });
    let guests = guests.iter().map(|guest| {
        let certificates = caches.certificates.by(CertificateBy::Guest, &guest.name_any());
        let certificates = certificates.iter().map(|certificate| certificate_node(certificate)).collect();
        node(&**guest, guest_summary(guest), guest.status.as_ref().map(|status| &status.conditions), certificates)
    });
    let children = authority.chain(guests).collect();
    Ok(node(&*cluster, cluster_summary(&cluster), cluster.status.as_ref().map(|status| &status.conditions), children))
}

fn node<T: Object>(
    object: &T,
    summary: String,
    seen: Option<&Conditions>,
    children: Vec<pb::TreeNode>,
) -> pb::TreeNode {
    pb::TreeNode {
        kind: T::KIND.to_string(),
        name: object.name_any(),
        summary,
        conditions: seen.map(conditions).unwrap_or_default(),
        deleting: object.meta().deletion_timestamp.is_some(),
        children,
    }
}

fn cluster_summary(cluster: &Cluster) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let counted =
        |what: &str, GuestCounts { desired, ready, .. }: GuestCounts| format!("{ready} of {desired} {what} ready");
    let mut summary = format!("{}, {}", counted("masters", status.masters), counted("workers", status.workers));
    if cluster.spec.paused {
        summary.push_str(", paused");
    }
    summary
}

fn authority_summary(authority: &CertificateAuthority) -> String {
    let issuer = &authority.spec.issuer;
    match authority.status.as_ref().and_then(|status| status.mount.as_ref()) {
        Some(mount) => format!("{mount} at {issuer}"),
        None => issuer.to_string(),
    }
}

fn guest_summary(guest: &Guest) -> String {
    let phase = guest.status.as_ref().and_then(|status| status.phase).map(|phase| format!("{phase:?}"));
    let phase = phase.unwrap_or_else(|| "not seen yet".to_owned());
    match guest.spec.host() {
        Some(host) => format!("{phase} on {host}"),
        None => "waits for a host".to_owned(),
    }
}

fn certificate_node(certificate: &Certificate) -> pb::TreeNode {
    let not_after = certificate.status.as_ref().and_then(|status| status.not_after.as_ref());
    let summary = not_after.map(|time| format!("good until {}", time.0)).unwrap_or_default();
    node(certificate, summary, certificate.status.as_ref().map(|status| &status.conditions), vec![])
}
