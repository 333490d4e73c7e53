//! What stands against objects that are applied together: each beside the others as they shall be, and beside all that are
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    context::Caches,
    objects::{
        Certificate, CertificateAuthority, Cluster, Host, IssuerName, Kind, Object, ObjectName, ResourceExt as _,
    },
    render::Templates,
    store::{AnyObject, FieldProblem},
    validate::{self, View},
};

#[cfg(test)]
mod tests;

/// What objects are judged by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The issuers of the configuration.
    pub issuers: BTreeSet<IssuerName>,
    /// The templates of seeds.
    pub templates: Arc<Templates>,
}

/// What there is, by name.
#[derive(Debug, Default, Clone)]
struct There {
    clusters: BTreeMap<String, Arc<Cluster>>,
    hosts: BTreeMap<String, Arc<Host>>,
    authorities: BTreeSet<String>,
}

impl Rules {
    /// Problems of objects, each with its object's place, beside everything that the caches hold.
    pub fn judge(&self, caches: &Caches, objects: &[AnyObject]) -> Vec<(usize, FieldProblem)> {
        let clusters = caches.clusters.list().into_iter().map(|cluster| (cluster.name_any(), cluster));
        let hosts = caches.hosts.list().into_iter().map(|host| (host.name_any(), host));
        let authorities = caches.authorities.list().into_iter().map(|authority| authority.name_any());
        let there = There { clusters: clusters.collect(), hosts: hosts.collect(), authorities: authorities.collect() };
        self.beside(&there, objects)
    }

    fn beside(&self, before: &There, objects: &[AnyObject]) -> Vec<(usize, FieldProblem)> {
        let mut after = before.clone();
        for object in objects {
            after.take(object);
        }
        let mut problems = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            let found = match object.kind() {
                Kind::Cluster => self.cluster(before, &after, object.name()),
                Kind::Host => self.host(before, &after, object.name()),
                Kind::CertificateAuthority => typed(object).map(|authority| self.authority(&after, &authority)),
                Kind::Certificate => typed(object).map(|certificate| of_certificate(&after, &certificate)),
                Kind::Guest => None,
            };
            problems.extend(found.into_iter().flatten().map(|problem| (index, problem)));
        }
        problems
    }

    fn cluster(&self, before: &There, after: &There, name: &str) -> Option<Vec<FieldProblem>> {
        let cluster = after.clusters.get(name)?;
        let hosts: Vec<_> = after.hosts.values().cloned().collect();
        let clusters = others_and(&after.clusters, name, before.clusters.get(name));
        let mut problems =
            validate::cluster(cluster, &View { clusters: &clusters, hosts: &hosts, templates: &self.templates });
        problems.extend(self.issuer("spec.pki.issuer", &cluster.spec.pki.issuer));
        Some(problems)
    }

    fn host(&self, before: &There, after: &There, name: &str) -> Option<Vec<FieldProblem>> {
        let host = after.hosts.get(name)?;
        let clusters: Vec<_> = after.clusters.values().cloned().collect();
        let hosts = others_and(&after.hosts, name, before.hosts.get(name));
        Some(validate::host(host, &View { clusters: &clusters, hosts: &hosts, templates: &self.templates }))
    }

    fn authority(&self, after: &There, authority: &CertificateAuthority) -> Vec<FieldProblem> {
        let mut problems: Vec<_> = self.issuer("spec.issuer", &authority.spec.issuer).into_iter().collect();
        let name = authority.name_any();
        if after.clusters.contains_key(&name) {
            let message = format!("is {name}: Cluster {name} makes the authority of this name itself");
            problems.push(problem("metadata.name", message));
        }
        let mut names = BTreeSet::new();
        for (index, role) in authority.spec.roles.iter().enumerate() {
            if !names.insert(&role.name) {
                let message = format!("is {}: another role has this name", role.name);
                problems.push(problem(format!("spec.roles[{index}].name"), message));
            }
        }
        problems
    }

    fn issuer(&self, path: &str, issuer: &IssuerName) -> Option<FieldProblem> {
        if self.issuers.contains(issuer) {
            return None;
        }
        let known: Vec<_> = self.issuers.iter().map(ToString::to_string).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Some(problem(path, format!("is {issuer}: the operator's configuration has {known}")))
    }
}

impl There {
    fn take(&mut self, object: &AnyObject) {
        let name = object.name().to_owned();
        match object.kind() {
            Kind::Cluster => self.clusters.extend(typed(object).map(|cluster| (name, Arc::new(cluster)))),
            Kind::Host => self.hosts.extend(typed(object).map(|host| (name, Arc::new(host)))),
            Kind::CertificateAuthority => self.authorities.extend([name]),
            Kind::Certificate | Kind::Guest => {}
        }
    }
}

/// The others as they shall be, and this one as it is.
fn others_and<T>(after: &BTreeMap<String, Arc<T>>, name: &str, before: Option<&Arc<T>>) -> Vec<Arc<T>> {
    let others = after.iter().filter(|(other, _)| *other != name).map(|(_, object)| object);
    others.chain(before).cloned().collect()
}

fn of_certificate(after: &There, certificate: &Certificate) -> Vec<FieldProblem> {
    let authority: &ObjectName = &certificate.spec.authority;
    if after.authorities.contains(authority.as_str()) {
        return Vec::new();
    }
    vec![problem("spec.authority", format!("is {authority}: there is no such CertificateAuthority"))]
}

/// What was read from a manifest can be read.
fn typed<T: Object>(object: &AnyObject) -> Option<T> {
    object.decode().ok()
}

fn problem(path: impl Into<String>, message: impl Into<String>) -> FieldProblem {
    FieldProblem { path: path.into(), message: message.into() }
}
