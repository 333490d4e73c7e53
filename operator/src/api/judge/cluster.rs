use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnetwork::Ipv4Network;

use super::{Fleet, Problems, Rules, known_issuer};
use crate::{
    network::{Networks, TooSmall, Use},
    objects::{Cluster, GuestIndex, GuestRole, ResourceExt as _, SeedTemplate, Template, Vni, WorkerPool},
    render::{Inputs, Member, Node},
};

/// Masters are a group of guests like a pool, with this name.
const MASTER: &str = "master";
/// The address of the shared gateway, and of the first guest, in a network: what seeds are tried with.
const FIRST: usize = 1;

impl Fleet {
    pub(super) fn cluster(&self, rules: &Rules, cluster: &Cluster, before: Option<&Cluster>, problems: &mut Problems) {
        known_issuer(rules, "spec.pki.issuer", &cluster.spec.pki.issuer, problems);
        if cluster.spec.pki.certificate_ttl > cluster.spec.pki.ca_ttl {
            problems.add("spec.pki.certificateTtl", "is longer than the life of the CA, spec.pki.caTtl");
        }
        pools(cluster, problems);
        self.networks(cluster, problems);
        self.vni(cluster, problems);
        if let Some(before) = before {
            changes(cluster, before, problems);
        }
        seeds(rules, cluster, problems);
    }

    /// Addresses of the cluster apart from each other and from the hosts', and enough of them.
    fn networks(&self, cluster: &Cluster, problems: &mut Problems) {
        let spec = &cluster.spec;
        let Ok(overlay) = spec.network.cidr.to_string().parse() else {
            problems.add("spec.network.cidr", format!("is {}: guests need a network of their own", spec.network.cidr));
            return;
        };
        let pods = spec.kubernetes.pod_cidr.network();
        let services = spec.kubernetes.service_cidr.network();
        let networks = Networks { overlay, pods, services };
        for overlap in networks.overlaps() {
            problems.add(path_of(overlap.other.0), format!("is wrong: {overlap}"));
        }
        for (name, host) in &self.hosts {
            let underlay = host.status.as_ref().and_then(|status| status.underlay_address);
            let address = host.spec.address.host().parse::<Ipv4Addr>().ok();
            let own: BTreeSet<_> = underlay.into_iter().chain(address).collect();
            let own: Vec<_> = own.into_iter().map(Ipv4Network::from).collect();
            for overlap in networks.overlaps_with_host(&own) {
                let message = format!("is wrong: {overlap}, which is host {name}'s address");
                problems.add(path_of(overlap.one.0), message);
            }
        }
        let workers: u32 = spec.workers.iter().map(|pool| u32::from(pool.replicas.get())).sum();
        let guests = u32::from(spec.masters.replicas.get()) + workers;
        let fleet = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        if let Err(small) = TooSmall::check(overlay, guests, fleet) {
            problems.add("spec.network.cidr", format!("is too small: {small}"));
        }
    }

    /// One VNI is one network.
    fn vni(&self, cluster: &Cluster, problems: &mut Problems) {
        let Some(vni) = cluster.spec.network.vni else { return };
        let name = cluster.name_any();
        let holder = self.clusters.iter().find(|(other, known)| **other != name && vnis(known).contains(&vni));
        if let Some((other, _)) = holder {
            problems.add("spec.network.vni", format!("is {vni}: that is cluster {other}'s"));
        }
    }
}

/// What it asks for and what it was given.
fn vnis(cluster: &Cluster) -> BTreeSet<Vni> {
    let given = cluster.status.as_ref().and_then(|status| status.network.as_ref()).map(|network| network.vni);
    cluster.spec.network.vni.into_iter().chain(given).collect()
}

fn path_of(network: Use) -> &'static str {
    match network {
        Use::Overlay | Use::Host => "spec.network.cidr",
        Use::Pods => "spec.kubernetes.podCidr",
        Use::Services => "spec.kubernetes.serviceCidr",
    }
}

fn pools(cluster: &Cluster, problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for (index, WorkerPool { name, .. }) in cluster.spec.workers.iter().enumerate() {
        if name.as_str() == MASTER {
            problems.add(format!("spec.workers[{index}].name"), "is master: the masters' guests have this name");
        } else if !names.insert(name.as_str()) {
            problems.add(format!("spec.workers[{index}].name"), format!("is {name}: another pool has this name"));
        }
    }
    for (index, pool) in cluster.spec.ingress.iter().flat_map(|ingress| &ingress.pools).enumerate() {
        if !names.contains(pool.as_str()) {
            problems.add(format!("spec.ingress.pools[{index}]"), format!("is {pool}: there is no such pool"));
        }
    }
}

/// What guests were made with cannot be another for those that are made later.
fn changes(cluster: &Cluster, before: &Cluster, problems: &mut Problems) {
    let (spec, was) = (&cluster.spec, &before.spec);
    let mut fixed = |path: &str, now: String, then: String| {
        if now != then {
            problems.add(path, format!("is {now} and was {then}: it cannot be changed while the cluster is there"));
        }
    };
    fixed("spec.network.cidr", spec.network.cidr.to_string(), was.network.cidr.to_string());
    fixed("spec.kubernetes.podCidr", spec.kubernetes.pod_cidr.to_string(), was.kubernetes.pod_cidr.to_string());
    let services = (spec.kubernetes.service_cidr.to_string(), was.kubernetes.service_cidr.to_string());
    fixed("spec.kubernetes.serviceCidr", services.0, services.1);
    fixed("spec.kubernetes.dnsDomain", spec.kubernetes.dns_domain.to_string(), was.kubernetes.dns_domain.to_string());
    fixed("spec.pki.issuer", spec.pki.issuer.to_string(), was.pki.issuer.to_string());
    let allocated = before.status.as_ref().and_then(|status| status.network.as_ref()).map(|network| network.vni);
    if let (Some(vni), Some(allocated)) = (spec.network.vni, allocated) {
        fixed("spec.network.vni", vni.to_string(), allocated.to_string());
    }
}

/// Renders a seed of each group of guests: a template that fails, fails now.
fn seeds(rules: &Rules, cluster: &Cluster, problems: &mut Problems) {
    let spec = &cluster.spec;
    let name = cluster.name_any();
    let address = |place: usize| {
        let address = spec.network.cidr.network().iter().nth(place);
        address.unwrap_or(spec.network.cidr.network().network())
    };
    let count = usize::from(spec.masters.replicas.get());
    let masters: Vec<_> = (0..count)
        .map(|index| Member { name: format!("{MASTER}-{index}"), address: address(FIRST + 1 + index) })
        .collect();
    let mut check = |path: String, template: &SeedTemplate, node: Node<'_>| {
        let inputs = Inputs { cluster: &name, spec, gateway_address: address(FIRST), masters: &masters, node };
        if let Err(error) = rules.templates.seed(template, &inputs) {
            problems.add(format!("{path}.{}", where_of(template)), format!("does not work: {error}"));
        }
    };
    let master = Node {
        name: "master-0",
        address: address(FIRST + 1),
        role: GuestRole::Master,
        pool: None,
        index: GuestIndex::SMALLEST,
        labels: &spec.masters.labels,
    };
    check("spec.masters.seed".to_owned(), &spec.masters.seed, master);
    for (index, pool) in spec.workers.iter().enumerate() {
        let hostname = format!("{}-0", pool.name);
        let worker = Node {
            name: &hostname,
            address: address(FIRST + 1 + count),
            role: GuestRole::Worker,
            pool: Some(&pool.name),
            index: GuestIndex::SMALLEST,
            labels: &pool.labels,
        };
        check(format!("spec.workers[{index}].seed"), &pool.seed, worker);
    }
}

fn where_of(template: &SeedTemplate) -> String {
    let (language, source) = match template {
        SeedTemplate::Ignition(source) => ("ignition", source),
        SeedTemplate::CloudInit(source) => ("cloudInit", source),
    };
    let form = match source.template {
        Template::Name(_) => "name",
        Template::Inline(_) => "inline",
    };
    format!("{language}.template.{form}")
}
