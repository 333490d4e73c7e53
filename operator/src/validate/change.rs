//! What a Cluster keeps for life.

use super::Problems;
use crate::objects::Cluster;

/// What is there was made with the old value, and could not follow.
pub(super) fn check(problems: &mut Problems, before: &Cluster, after: &Cluster) {
    let (was, is) = (&before.spec, &after.spec);
    let mut stays = |path: &str, was: &dyn ToString, is: &dyn ToString, why: &str| {
        let (was, is) = (was.to_string(), is.to_string());
        if was != is {
            problems.add(path, format!("is {was} and cannot become {is}: {why}"));
        }
    };
    stays("spec.network.cidr", &was.network.cidr, &is.network.cidr, "the guests have their addresses in it");
    let inside = "Kubernetes cannot change it in a cluster that runs";
    stays("spec.kubernetes.serviceCidr", &was.kubernetes.service_cidr, &is.kubernetes.service_cidr, inside);
    stays("spec.kubernetes.podCidr", &was.kubernetes.pod_cidr, &is.kubernetes.pod_cidr, inside);
    stays("spec.kubernetes.dnsDomain", &was.kubernetes.dns_domain, &is.kubernetes.dns_domain, inside);
    stays("spec.pki.issuer", &was.pki.issuer, &is.pki.issuer, "the guests trust the root that it made");
    let etcd = "the members of etcd are told of each other at their first start";
    stays("spec.masters.replicas", &was.masters.replicas.get(), &is.masters.replicas.get(), etcd);
}
