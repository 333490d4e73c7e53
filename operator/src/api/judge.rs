//! What stands against objects beyond their types: each by itself, beside the others of the same call, and beside all that
//! are there. Pure.

mod cluster;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    context::Caches,
    objects::{Certificate, CertificateAuthority, Cluster, Host, IssuerName, Kind, Object, ResourceExt as _},
    render::Templates,
    store::{AnyObject, FieldProblem},
};

/// What objects are judged by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The issuers of the configuration.
    pub issuers: BTreeSet<IssuerName>,
    /// The templates of seeds.
    pub templates: Templates,
}

impl Rules {
    /// Problems of objects, each with its object's place, beside everything that the caches hold.
    pub fn judge(&self, caches: &Caches, objects: &[AnyObject]) -> Vec<(usize, FieldProblem)> {
        let mut fleet = Fleet::default();
        fleet.clusters.extend(caches.clusters.list().iter().map(|cluster| (cluster.name_any(), (**cluster).clone())));
        fleet.hosts.extend(caches.hosts.list().iter().map(|host| (host.name_any(), (**host).clone())));
        fleet.authorities.extend(caches.authorities.list().iter().map(|authority| authority.name_any()));
        fleet.judge(self, objects)
    }
}

/// What there is, by name.
#[derive(Debug, Default)]
struct Fleet {
    clusters: BTreeMap<String, Cluster>,
    hosts: BTreeMap<String, Host>,
    authorities: BTreeSet<String>,
}

/// Collects problems of one object.
#[derive(Debug, Default)]
struct Problems(Vec<FieldProblem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldProblem { path: path.into(), message: message.into() });
    }
}

impl Fleet {
    fn judge(mut self, rules: &Rules, objects: &[AnyObject]) -> Vec<(usize, FieldProblem)> {
        // As they were: some fields cannot be changed any more.
        let before: BTreeMap<String, Cluster> = objects
            .iter()
            .filter(|object| object.kind() == Kind::Cluster)
            .filter_map(|object| {
                self.clusters.get(object.name()).map(|cluster| (object.name().to_owned(), cluster.clone()))
            })
            .collect();
        // As they shall be: each is judged beside the others of its call.
        for object in objects {
            match object.kind() {
                Kind::Cluster => {
                    self.take(object, |fleet: &mut Self, name, cluster| fleet.clusters.insert(name, cluster));
                }
                Kind::Host => self.take(object, |fleet: &mut Self, name, host| fleet.hosts.insert(name, host)),
                Kind::CertificateAuthority => {
                    self.authorities.insert(object.name().to_owned());
                }
                Kind::Certificate | Kind::Guest => {}
            }
        }
        let judged = objects.iter().enumerate().flat_map(|(index, object)| {
            let mut problems = Problems::default();
            match object.kind() {
                Kind::Cluster => {
                    if let Some(cluster) = self.clusters.get(object.name()) {
                        self.cluster(rules, cluster, before.get(object.name()), &mut problems);
                    }
                }
                Kind::Host => {
                    if let Some(host) = self.hosts.get(object.name()) {
                        self.host(host, &mut problems);
                    }
                }
                Kind::CertificateAuthority => {
                    if let Ok(authority) = object.decode::<CertificateAuthority>() {
                        self.authority(rules, &authority, &mut problems);
                    }
                }
                Kind::Certificate => {
                    if let Ok(certificate) = object.decode::<Certificate>() {
                        self.certificate(&certificate, &mut problems);
                    }
                }
                Kind::Guest => {}
            }
            problems.0.into_iter().map(move |problem| (index, problem))
        });
        judged.collect()
    }

    fn take<T: Object, U>(&mut self, object: &AnyObject, put: impl FnOnce(&mut Self, String, T) -> U) {
        // What was read from a manifest can be read.
        if let Ok(typed) = object.decode::<T>() {
            put(self, object.name().to_owned(), typed);
        }
    }

    /// One address is one machine.
    fn host(&self, host: &Host, problems: &mut Problems) {
        let name = host.name_any();
        let other = self.hosts.iter().find(|(other, known)| **other != name && known.spec.address == host.spec.address);
        if let Some((other, _)) = other {
            problems.add("spec.address", format!("is {}: that is host {other}", host.spec.address));
        }
    }

    fn authority(&self, rules: &Rules, authority: &CertificateAuthority, problems: &mut Problems) {
        known_issuer(rules, "spec.issuer", &authority.spec.issuer, problems);
        let name = authority.name_any();
        if self.clusters.contains_key(&name) {
            problems.add("metadata.name", format!("is {name}: Cluster {name} makes the authority of this name itself"));
        }
        let mut names = BTreeSet::new();
        for (index, role) in authority.spec.roles.iter().enumerate() {
            if !names.insert(&role.name) {
                problems
                    .add(format!("spec.roles[{index}].name"), format!("is {}: another role has this name", role.name));
            }
        }
    }

    fn certificate(&self, certificate: &Certificate, problems: &mut Problems) {
        let authority = &certificate.spec.authority;
        if !self.authorities.contains(authority.as_str()) {
            problems.add("spec.authority", format!("is {authority}: there is no such CertificateAuthority"));
        }
    }
}

fn known_issuer(rules: &Rules, path: &str, issuer: &IssuerName, problems: &mut Problems) {
    if !rules.issuers.contains(issuer) {
        let known: Vec<_> = rules.issuers.iter().map(ToString::to_string).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        problems.add(path, format!("is {issuer}: the operator's configuration has {known}"));
    }
}
