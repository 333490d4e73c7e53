//! Networks: apart from each other and from hosts' own, and large enough.

use goliath_proto::values::OverlayCidr;
use ipnetwork::Ipv4Network;

use super::{Problems, View};
use crate::{
    network::{Networks, TooSmall, Use, overlap},
    objects::{Cluster, ResourceExt as _},
};

/// Behind their own host's gateway agents lead guests out of their networks through these.
const LINK_LOCAL: &str = "169.254.0.0/16";
/// What kube-controller-manager gives each worker of the pods' network.
const PODS_OF_A_WORKER: u8 = 24;
/// The services' network holds the API's address, which is its first, and that of DNS, which is its tenth.
const LONGEST_SERVICES: u8 = 28;

pub(super) fn check(problems: &mut Problems, cluster: &Cluster, view: &View<'_>) {
    vni(problems, cluster, view);
    services_and_pods(problems, cluster);
    let spec = &cluster.spec;
    let overlay: OverlayCidr = match spec.network.cidr.to_string().parse() {
        Ok(overlay) => overlay,
        Err(problem) => return problems.add("spec.network.cidr", problem.to_string()),
    };
    let guests = u32::from(spec.masters.replicas.get())
        + spec.workers.iter().map(|pool| u32::from(pool.replicas.get())).sum::<u32>();
    let fleet = u32::try_from(view.hosts.len()).unwrap_or(u32::MAX);
    // Whoever writes the manifest first and adds the hosts later needs room for one at least.
    if let Err(small) = TooSmall::check(overlay, guests, fleet.max(1)) {
        problems.add("spec.network.cidr", small.to_string());
    }
    let networks = Networks {
        overlay,
        pods: spec.kubernetes.pod_cidr.network(),
        services: spec.kubernetes.service_cidr.network(),
    };
    for found in networks.overlaps() {
        problems.add(path_of(found.other.0), format!("overlaps: {found}"));
    }
    for host in view.hosts {
        let Some(status) = &host.status else { continue };
        let own: Vec<Ipv4Network> = status.networks.iter().map(|network| network.network()).collect();
        for found in networks.overlaps_with_host(&own) {
            problems.add(path_of(found.one.0), format!("overlaps on host {}: {found}", host.name_any()));
        }
    }
    for (index, server) in spec.network.dns_servers.iter().enumerate() {
        if server.is_unspecified() || server.is_multicast() || server.is_broadcast() {
            problems.add(format!("spec.network.dnsServers[{index}]"), format!("is {server}, which no server has"));
        }
    }
}

fn path_of(purpose: Use) -> &'static str {
    match purpose {
        Use::Overlay | Use::Host => "spec.network.cidr",
        Use::Pods => "spec.kubernetes.podCidr",
        Use::Services => "spec.kubernetes.serviceCidr",
    }
}

fn vni(problems: &mut Problems, cluster: &Cluster, view: &View<'_>) {
    let Some(wanted) = cluster.spec.network.vni else { return };
    let name = cluster.name_any();
    for other in view.clusters {
        let held = other.status.as_ref().and_then(|status| status.network.as_ref()).map(|network| network.vni);
        if other.name_any() == name {
            if let Some(held) = held.filter(|held| *held != wanted) {
                problems.add(
                    "spec.network.vni",
                    format!("is {wanted}, and the cluster's network was made with {held}: it stays"),
                );
            }
        } else if held.or(other.spec.network.vni) == Some(wanted) {
            let message = format!(
                "is {wanted}, which is that of cluster {}: take another one, or leave it out",
                other.name_any()
            );
            problems.add("spec.network.vni", message);
        }
    }
}

fn services_and_pods(problems: &mut Problems, cluster: &Cluster) {
    let kubernetes = &cluster.spec.kubernetes;
    let (services, pods) = (kubernetes.service_cidr.network(), kubernetes.pod_cidr.network());
    if !(8..=LONGEST_SERVICES).contains(&services.prefix()) {
        let message = format!("is a /{}: /8 to /{LONGEST_SERVICES} have room for services", services.prefix());
        problems.add("spec.kubernetes.serviceCidr", message);
    }
    let workers: u32 = cluster.spec.workers.iter().map(|pool| u32::from(pool.replicas.get())).sum();
    let room = PODS_OF_A_WORKER.checked_sub(pods.prefix()).map_or(0, |bits| 1_u32 << bits.min(31));
    if pods.prefix() < 8 || room < workers.max(1) {
        let message = format!(
            "is a /{}: each worker takes a /{PODS_OF_A_WORKER} of it, so it has room for {room} of the {workers} workers",
            pods.prefix()
        );
        problems.add("spec.kubernetes.podCidr", message);
    }
    let reserved: Vec<Ipv4Network> = [LINK_LOCAL, "0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"]
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect();
    for (path, network) in [("spec.kubernetes.serviceCidr", services), ("spec.kubernetes.podCidr", pods)] {
        if let Some(taken) = reserved.iter().find(|reserved| overlap(**reserved, network)) {
            problems
                .add(path, format!("is {network}, which overlaps {taken}: take a private network like 10.100.0.0/16"));
        }
    }
}
