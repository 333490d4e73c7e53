//! Pools, names, labels, lives of certificates.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Problems;
use crate::{
    objects::{ClusterSpec, DnsLabel, TimeSpan},
    store::check_label,
};

/// A guest's name is `<pool>-<index>`, and a DNS label.
const LONGEST_POOL: usize = DnsLabel::LONGEST - "-4999".len();

/// What agents take.
const LONGEST_GRACE: TimeSpan = TimeSpan::hours(1);
const SHORTEST_TTL: TimeSpan = TimeSpan::seconds(10);
const LONGEST_TTL: TimeSpan = TimeSpan::hours(24 * 3650);

pub(super) fn check(problems: &mut Problems, cluster: &ClusterSpec) {
    pools(problems, cluster);
    labels(problems, "spec.masters.labels", &cluster.masters.labels);
    grace(problems, "spec.masters.shutdownGrace", cluster.masters.shutdown_grace);
    for (index, pool) in cluster.workers.iter().enumerate() {
        labels(problems, &format!("spec.workers[{index}].labels"), &pool.labels);
        grace(problems, &format!("spec.workers[{index}].shutdownGrace"), pool.shutdown_grace);
    }
    ingress(problems, cluster);
    lives(problems, cluster);
}

fn pools(problems: &mut Problems, cluster: &ClusterSpec) {
    let mut first: HashMap<&DnsLabel, usize> = HashMap::new();
    for (index, pool) in cluster.workers.iter().enumerate() {
        let path = format!("spec.workers[{index}].name");
        if pool.name.as_str() == "master" {
            problems.add(&path, "is \"master\", which is what masters are called: take another name");
        }
        if pool.name.as_str().len() > LONGEST_POOL {
            let length = pool.name.as_str().len();
            problems.add(&path, format!("has {length} bytes: {LONGEST_POOL} leave room for the guests' numbers"));
        }
        if let Some(other) = first.get(&pool.name) {
            problems.add(&path, format!("is {}, which is the name of spec.workers[{other}] too", pool.name));
        } else {
            first.insert(&pool.name, index);
        }
    }
}

/// They become labels of Guests, and of Nodes, where kubelets set them themselves.
fn labels(problems: &mut Problems, path: &str, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        let path = format!("{path}[{key:?}]");
        if let Err(problem) = check_label(key, value) {
            problems.add(&path, problem);
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let is_in =
            |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
        let is_free = ["node.kubernetes.io", "kubelet.kubernetes.io"].into_iter().any(is_in);
        if !is_free && (is_in("kubernetes.io") || is_in("k8s.io")) {
            problems
                .add(&path, format!("is in {domain}, where kubelets may not set labels: take a domain of your own"));
        }
        if domain == "goliath.dev" {
            problems.add(&path, "is in goliath.dev, whose labels are the operator's own");
        }
    }
}

fn grace(problems: &mut Problems, path: &str, grace: TimeSpan) {
    if grace > LONGEST_GRACE {
        problems.add(path, format!("is {grace}: {LONGEST_GRACE} at most are allowed"));
    }
}

fn ingress(problems: &mut Problems, cluster: &ClusterSpec) {
    let Some(ingress) = &cluster.ingress else { return };
    let pools: HashSet<_> = cluster.workers.iter().map(|pool| &pool.name).collect();
    for (index, name) in ingress.pools.iter().enumerate().filter(|(_, name)| !pools.contains(name)) {
        problems.add(format!("spec.ingress.pools[{index}]"), format!("is {name}, and no pool is called so"));
    }
    let ports =
        [("httpPort", ingress.http_port), ("httpsPort", ingress.https_port), ("healthPort", ingress.health_port)];
    for (index, (field, port)) in ports.iter().enumerate() {
        if let Some((other, _)) = ports[..index].iter().find(|(_, other)| other == port) {
            problems.add(format!("spec.ingress.{field}"), format!("is {port}, which is {other} too"));
        }
    }
}

fn lives(problems: &mut Problems, cluster: &ClusterSpec) {
    let pki = &cluster.pki;
    if pki.certificate_ttl < SHORTEST_TTL || pki.certificate_ttl > LONGEST_TTL {
        let message = format!("is {}: {SHORTEST_TTL} to {LONGEST_TTL} are allowed", pki.certificate_ttl);
        problems.add("spec.pki.certificateTtl", message);
    }
    if pki.ca_ttl <= pki.certificate_ttl {
        let message =
            format!("is {}: it must be longer than the certificates' life of {}", pki.ca_ttl, pki.certificate_ttl);
        problems.add("spec.pki.caTtl", message);
    }
}
