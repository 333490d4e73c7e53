//! Certificate objects: what guests ask their issuers for, to look at. The agent obtains and renews them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    decide::{Action, View},
    group::name_of,
    health::is_leaving,
    owner::{is_owned, owner},
};
use crate::objects::{
    Certificate, CertificateRequest, CertificateSpec, CertificateStatus, ConditionStatus, Guest, InvalidValue, Object,
    ObjectMeta, ResourceExt as _,
};

/// What makes the Certificates those that the guests ask for. They go with their guests.
pub(super) fn decide(view: &View<'_>) -> Vec<Action> {
    let mut there: HashMap<&str, &Arc<Certificate>> = view
        .certificates
        .iter()
        .filter_map(|certificate| Some((certificate.metadata.name.as_deref()?, certificate)))
        .collect();
    let mut actions = Vec::new();
    for guest in view.guests.iter().filter(|guest| !is_leaving(guest) && is_owned(view.cluster, &guest.metadata)) {
        for request in &guest.spec.certificates {
            let name = format!("{}.{}", guest.name_any(), request.name);
            // The requests were made by their types, so the names are good.
            let Ok(spec) = spec(view, guest, request) else { continue };
            let Some(certificate) = there.remove(name.as_str()) else {
                let metadata = ObjectMeta {
                    name: Some(name),
                    labels: Some(BTreeMap::from([(
                        "goliath.dev/cluster".to_owned(),
                        name_of(view.cluster).to_owned(),
                    )])),
                    owner_references: Some(vec![owner(&**guest)]),
                    ..ObjectMeta::default()
                };
                actions.push(Action::CreateCertificate(Box::new(Certificate::from_parts(metadata, spec, None))));
                continue;
            };
            let is_its = certificate
                .metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| Some(&owner.uid) == guest.metadata.uid.as_ref());
            if !is_its || is_leaving_certificate(certificate) {
                continue;
            }
            if certificate.spec != spec {
                let mut certificate = (**certificate).clone();
                certificate.spec = spec;
                actions.push(Action::UpdateCertificate(Box::new(certificate)));
            } else if let Some(status) = status(view, guest, certificate) {
                let mut certificate = (**certificate).clone();
                certificate.status = Some(status);
                actions.push(Action::CertificateStatus(Box::new(certificate)));
            }
        }
    }
    // Left over by guests that live and ask for it no more.
    let guests: HashMap<_, _> = view.guests.iter().filter_map(|guest| Some((guest.uid()?, guest))).collect();
    for certificate in there.into_values().filter(|certificate| !is_leaving_certificate(certificate)) {
        let owner = certificate.metadata.owner_references.iter().flatten().find_map(|owner| guests.get(&owner.uid));
        if owner.is_some_and(|guest| !is_leaving(guest) && is_owned(view.cluster, &guest.metadata)) {
            actions.push(Action::DeleteCertificate(Arc::clone(certificate)));
        }
    }
    actions
}

fn is_leaving_certificate(certificate: &Certificate) -> bool {
    certificate.metadata.deletion_timestamp.is_some()
}

fn spec(view: &View<'_>, guest: &Guest, request: &CertificateRequest) -> Result<CertificateSpec, InvalidValue> {
    let CertificateRequest { name, issuer: _, role, common_name, dns_names, ip_addresses, organizations, ttl } =
        request.clone();
    Ok(CertificateSpec {
        cluster: guest.spec.cluster.clone(),
        authority: name_of(view.cluster).parse()?,
        guest: guest.name_any().parse()?,
        component: name,
        role,
        common_name,
        dns_names,
        ip_addresses,
        organizations,
        ttl,
    })
}

/// As the guest's agent tells of all its certificates together; none: it is told already.
fn status(view: &View<'_>, guest: &Guest, certificate: &Certificate) -> Option<CertificateStatus> {
    let told = guest.status.as_ref()?.conditions.get("CertificatesReady")?;
    let mut status = certificate.status.clone().unwrap_or_default();
    status.observed_generation = certificate.metadata.generation;
    let (reason, message) = (told.reason.as_str(), told.message.as_str());
    let generation = certificate.metadata.generation;
    status.conditions.set("Ready", told.status, reason, message, generation, view.now);
    // Nothing is known of a guest that never told, and nothing is written of it.
    let is_news = told.status != ConditionStatus::Unknown || certificate.status.is_some();
    (is_news && certificate.status.as_ref() != Some(&status)).then_some(status)
}
