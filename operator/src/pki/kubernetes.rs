//! The certificates of a Kubernetes cluster: a role for each service, as narrow as Vault lets it be, and what a guest asks
//! for. Both come from one table, so that what is asked for is what is allowed.

use std::net::{IpAddr, Ipv4Addr};

use crate::objects::{
    CertificateAuthoritySpec, CertificateDnsName, CertificateRequest, CertificateRole, CertificateUsage, ClusterName,
    ClusterSpec, DnsLabel, GuestRole, InvalidValue, NamePattern,
};

/// A guest, as far as its certificates tell.
#[derive(Debug, Clone, Copy)]
pub struct GuestIdentity<'g> {
    /// What it is in its cluster.
    pub role: GuestRole,
    /// Its name within the cluster, and of its Node.
    pub hostname: &'g DnsLabel,
    /// In the cluster's network.
    pub address: Ipv4Addr,
    /// Where the cluster's API is reached: the gateway that hosts share.
    pub gateway_address: Ipv4Addr,
}

/// The authority of a cluster.
pub fn authority(name: &ClusterName, cluster: &ClusterSpec) -> Result<CertificateAuthoritySpec, InvalidValue> {
    let pki = &cluster.pki;
    Ok(CertificateAuthoritySpec {
        cluster: name.clone(),
        issuer: pki.issuer.clone(),
        ttl: pki.ca_ttl,
        common_name: None,
        allowed_domains: pki.allowed_domains.clone(),
        roles: SERVICES.iter().map(|service| service.role(cluster)).collect::<Result<_, _>>()?,
    })
}

/// The certificates that a guest needs, under the names where its services read them.
pub fn certificates(cluster: &ClusterSpec, guest: &GuestIdentity<'_>) -> Result<Vec<CertificateRequest>, InvalidValue> {
    SERVICES
        .iter()
        .filter(|service| service.user == User::Guest(guest.role))
        .map(|service| service.request(cluster, guest))
        .collect()
}

/// A row of the table.
struct Service {
    /// Of the role at the issuer, and of the directory in the guest.
    name: &'static str,
    /// A `*` at its end stands for the guest's name.
    common_name: &'static str,
    names: Names,
    organization: Option<&'static str>,
    usage: CertificateUsage,
    user: User,
}

/// Which DNS names and addresses a certificate carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    None,
    /// Those of the API, and the master's own.
    Api,
    /// The master's own, and this machine.
    Master,
    /// The worker's own.
    Worker,
}

/// Who asks for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Guest(GuestRole),
    Operator,
}

const fn master_client(name: &'static str, common_name: &'static str) -> Service {
    Service {
        name,
        common_name,
        names: Names::None,
        organization: None,
        usage: CertificateUsage::Client,
        user: User::Guest(GuestRole::Master),
    }
}

const ADMINISTRATORS: Option<&str> = Some("system:masters");

const SERVICES: [Service; 9] = [
    Service { names: Names::Api, usage: CertificateUsage::Server, ..master_client("api", "kube-apiserver") },
    master_client("api-etcd", "kube-apiserver-etcd-client"),
    // Kubelets ask the API what a client may do; this group may everything, before any binding is there.
    Service { organization: ADMINISTRATORS, ..master_client("api-kubelet", "kube-apiserver-kubelet-client") },
    // Only its key is used.
    master_client("service-account", "service-account"),
    // Serves clients and peers, and is a client of its peers.
    Service { names: Names::Master, usage: CertificateUsage::Both, ..master_client("etcd", "etcd") },
    master_client("controller-manager", "system:kube-controller-manager"),
    master_client("scheduler", "system:kube-scheduler"),
    // A client of the API, and serves it.
    Service {
        names: Names::Worker,
        organization: Some("system:nodes"),
        usage: CertificateUsage::Both,
        user: User::Guest(GuestRole::Worker),
        ..master_client("kubelet", "system:node:*")
    },
    Service { organization: ADMINISTRATORS, user: User::Operator, ..master_client("admin", "kubernetes-admin") },
];

impl Service {
    fn role(&self, cluster: &ClusterSpec) -> Result<CertificateRole, InvalidValue> {
        let patterns = |names: Vec<String>| names.into_iter().map(NamePattern::try_from).collect::<Result<_, _>>();
        let masters = || "master-*".to_owned();
        let dns_names = match self.names {
            Names::None => Vec::new(),
            Names::Master => vec!["localhost".to_owned(), masters()],
            Names::Worker => cluster.workers.iter().map(|pool| format!("{}-*", pool.name)).collect(),
            Names::Api => {
                let below = cluster.pki.allowed_domains.iter().map(|domain| format!("*.{domain}"));
                api_names(cluster).into_iter().chain(below).chain([masters()]).collect()
            }
        };
        Ok(CertificateRole {
            name: self.name.parse()?,
            common_names: vec![self.common_name.parse()?],
            dns_names: patterns(dns_names)?,
            ip_addresses: self.names != Names::None,
            organizations: self.organization.map(str::parse).transpose()?.into_iter().collect(),
            max_ttl: cluster.pki.certificate_ttl,
            usage: self.usage,
            guests: match self.user {
                User::Guest(role) => vec![role],
                User::Operator => Vec::new(),
            },
        })
    }

    fn request(&self, cluster: &ClusterSpec, guest: &GuestIdentity<'_>) -> Result<CertificateRequest, InvalidValue> {
        let own = || guest.hostname.to_string();
        let own_address = IpAddr::V4(guest.address);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (dns_names, ip_addresses) = match self.names {
            Names::None => (Vec::new(), Vec::new()),
            Names::Master => (vec![own(), "localhost".to_owned()], vec![own_address, loopback]),
            Names::Worker => (vec![own()], vec![own_address]),
            Names::Api => {
                let service = cluster.kubernetes.service_cidr.network().nth(1);
                let addresses = [own_address, IpAddr::V4(guest.gateway_address), loopback];
                let names = std::iter::once(own()).chain(api_names(cluster)).collect();
                (names, addresses.into_iter().chain(service.map(IpAddr::V4)).collect())
            }
        };
        let names = dns_names.into_iter().map(CertificateDnsName::try_from).collect::<Result<_, _>>()?;
        Ok(CertificateRequest {
            name: self.name.parse()?,
            issuer: cluster.pki.issuer.clone(),
            role: None,
            common_name: self.common_name.replace('*', guest.hostname.as_str()).parse()?,
            dns_names: names,
            ip_addresses,
            organizations: self.organization.map(str::parse).transpose()?.into_iter().collect(),
            ttl: cluster.pki.certificate_ttl,
        })
    }
}

/// Under which the API answers on every master: inside the cluster, and in the domains that the manifest allows.
fn api_names(cluster: &ClusterSpec) -> Vec<String> {
    let service = "kubernetes.default.svc";
    let domain = &cluster.kubernetes.dns_domain;
    let inside = ["kubernetes", "kubernetes.default", service, "localhost"].map(str::to_owned);
    let outside = cluster.pki.allowed_domains.iter().map(ToString::to_string);
    inside.into_iter().chain([format!("{service}.{domain}")]).chain(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterSpec {
        let machine = serde_json::json!({ "vcpus": 2, "memory": "2GiB" });
        serde_json::from_value(serde_json::json!({
            "kubernetes": { "version": "1.35.4", "serviceCidr": "10.101.0.0/16", "podCidr": "10.100.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": { "replicas": 1, "machine": machine, "image": "a:b" },
            "workers": [{ "name": "default", "replicas": 3, "machine": machine, "image": "a:b" }],
            "pki": { "allowedDomains": ["acme.example"] }
        }))
        .unwrap()
    }

    fn is_like(pattern: &NamePattern, name: &str) -> bool {
        let pattern = pattern.as_str();
        match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(end), None) => name.ends_with(end),
            (None, Some(beginning)) => name.starts_with(beginning),
            _ => name == pattern,
        }
    }

    #[test]
    fn what_a_guest_asks_for_is_what_its_role_allows() {
        let cluster = cluster();
        let authority = authority(&"acme".parse().unwrap(), &cluster).unwrap();
        let mut asked = Vec::new();
        for (role, hostname) in [(GuestRole::Master, "master-0"), (GuestRole::Worker, "default-0")] {
            let hostname = hostname.parse().unwrap();
            let (address, gateway_address) = ("10.7.0.10".parse().unwrap(), "10.7.0.1".parse().unwrap());
            let guest = GuestIdentity { role, hostname: &hostname, address, gateway_address };
            for request in certificates(&cluster, &guest).unwrap() {
                let allowed = authority.roles.iter().find(|allowed| allowed.name == request.name).unwrap();
                assert!(allowed.guests.contains(&role), "{request:?}");
                assert!(allowed.common_names.iter().any(|name| is_like(name, request.common_name.as_str())));
                for name in &request.dns_names {
                    let names = &allowed.dns_names;
                    assert!(names.iter().any(|allowed| is_like(allowed, name.as_str())), "{name} of {request:?}");
                }
                assert_eq!(allowed.ip_addresses, !request.ip_addresses.is_empty(), "{request:?}");
                assert_eq!(allowed.organizations, request.organizations);
                assert_eq!(allowed.max_ttl, request.ttl);
                asked.push(request.name.to_string());
            }
        }
        asked.push("admin".to_owned());
        let roles: Vec<_> = authority.roles.iter().map(|role| role.name.to_string()).collect();
        assert_eq!(asked, roles, "each role is somebody's");
    }

    #[test]
    fn a_worker_is_a_node_and_nothing_more() {
        let authority = authority(&"acme".parse().unwrap(), &cluster()).unwrap();
        let for_workers = authority.roles.iter().filter(|role| role.guests.contains(&GuestRole::Worker));
        assert_eq!(for_workers.map(|role| role.name.as_str()).collect::<Vec<_>>(), ["kubelet"]);
        let administrators = authority
            .roles
            .iter()
            .filter(|role| role.organizations.iter().any(|organization| organization.as_str() == "system:masters"));
        let administrators: Vec<_> = administrators.map(|role| (role.name.as_str(), role.guests.as_slice())).collect();
        assert_eq!(administrators, [("api-kubelet", [GuestRole::Master].as_slice()), ("admin", &[])]);
    }

    #[test]
    fn the_api_answers_under_the_names_that_are_allowed() {
        let hostname = "master-2".parse().unwrap();
        let guest = GuestIdentity {
            role: GuestRole::Master,
            hostname: &hostname,
            address: "10.7.0.12".parse().unwrap(),
            gateway_address: "10.7.0.1".parse().unwrap(),
        };
        let requests = certificates(&cluster(), &guest).unwrap();
        let api = requests.iter().find(|request| request.name.as_str() == "api").unwrap();
        let names: Vec<_> = api.dns_names.iter().map(CertificateDnsName::as_str).collect();
        assert_eq!(
            names,
            [
                "master-2",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "localhost",
                "kubernetes.default.svc.cluster.local",
                "acme.example",
            ]
        );
        let addresses: Vec<_> = api.ip_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.7.0.12", "10.7.0.1", "127.0.0.1", "10.101.0.1"]);
    }
}
