//! What templates are told. Their names are documented in cloud-config/README.md; what is not set is `none`.

use std::{collections::BTreeMap, net::Ipv4Addr};

use minijinja::{Value, value::Serde};
use serde::Serialize;

use crate::objects::{
    ClusterSpec, DnsLabel, DomainName, GuestIndex, GuestRole, Ingress, Ipv4Cidr, IssuerName, KubernetesVersion, Oidc,
    Port,
};

/// The address of the DNS service is the tenth of the services' network, by custom.
const DNS_SERVICE: u32 = 10;

/// What a seed is rendered from, besides its template's own values.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The Cluster's name.
    pub cluster: &'a str,
    /// As the manifest has it.
    pub spec: &'a ClusterSpec,
    /// Where the API answers: hosts forward it to the masters.
    pub gateway_address: Ipv4Addr,
    /// All masters, those that are still to be made too.
    pub masters: &'a [Member],
    /// Whose seed it is.
    pub node: Node<'a>,
}

/// A master, as a member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its hostname.
    pub name: String,
    /// In the cluster's network.
    pub address: Ipv4Addr,
}

/// A guest, as it is told of itself.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Node<'a> {
    /// Its hostname, and the name of its Node.
    pub name: &'a str,
    /// In the cluster's network.
    pub address: Ipv4Addr,
    /// Master or worker.
    pub role: GuestRole,
    /// Of workers.
    pub pool: Option<&'a DnsLabel>,
    /// Among the masters, or in its pool.
    pub index: GuestIndex,
    /// Of its Node.
    pub labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Told<'a> {
    cluster: Cluster<'a>,
    kubernetes: Kubernetes<'a>,
    node: Node<'a>,
    network: Network,
    ingress: Option<IngressValues<'a>>,
    pools: Vec<Pool<'a>>,
    pki: Pki<'a>,
    ntp_servers: &'a [DomainName],
    values: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Cluster<'a> {
    name: &'a str,
    domain: &'a DomainName,
    api: String,
    pod_cidr: Ipv4Cidr,
    service_cidr: Ipv4Cidr,
    dns: Option<Ipv4Addr>,
    etcd: &'a [Member],
}

#[derive(Serialize)]
struct Kubernetes<'a> {
    version: &'a KubernetesVersion,
    api_port: Port,
    oidc: Option<OidcValues<'a>>,
}

#[derive(Serialize)]
struct OidcValues<'a> {
    issuer_url: &'a str,
    client_id: &'a str,
    username_claim: Option<&'a str>,
    username_prefix: Option<&'a str>,
    groups_claim: Option<&'a str>,
    groups_prefix: Option<&'a str>,
}

#[derive(Serialize)]
struct Network {
    cidr: Ipv4Cidr,
    gateway: Ipv4Addr,
}

#[derive(Serialize)]
struct IngressValues<'a> {
    version: Option<&'a str>,
    http_port: Port,
    https_port: Port,
    health_port: Port,
    health_path: &'a str,
    pools: &'a [DnsLabel],
}

#[derive(Serialize)]
struct Pool<'a> {
    name: &'a DnsLabel,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Pki<'a> {
    issuer: &'a IssuerName,
}

/// Everything that a template can read.
pub(super) fn of(inputs: &Inputs<'_>, own: &BTreeMap<String, String>) -> Value {
    let Inputs { cluster, spec, gateway_address, masters, node } = *inputs;
    let kubernetes = &spec.kubernetes;
    Value::from(Serde(Told {
        cluster: Cluster {
            name: cluster,
            domain: &kubernetes.dns_domain,
            api: format!("https://{gateway_address}:{}", kubernetes.api_port),
            pod_cidr: kubernetes.pod_cidr,
            service_cidr: kubernetes.service_cidr,
            dns: kubernetes.service_cidr.network().nth(DNS_SERVICE),
            etcd: masters,
        },
        kubernetes: Kubernetes {
            version: &kubernetes.version,
            api_port: kubernetes.api_port,
            oidc: kubernetes.oidc.as_ref().map(OidcValues::of),
        },
        node,
        network: Network { cidr: spec.network.cidr, gateway: gateway_address },
        ingress: spec.ingress.as_ref().map(IngressValues::of),
        pools: spec.workers.iter().map(|pool| Pool { name: &pool.name, labels: &pool.labels }).collect(),
        pki: Pki { issuer: &spec.pki.issuer },
        ntp_servers: &spec.network.ntp_servers,
        values: own,
    }))
}

impl<'a> OidcValues<'a> {
    fn of(oidc: &'a Oidc) -> Self {
        let Oidc { issuer_url, client_id, username_claim, username_prefix, groups_claim, groups_prefix } = oidc;
        Self {
            issuer_url: issuer_url.as_str(),
            client_id: client_id.as_str(),
            username_claim: username_claim.as_ref().map(AsRef::as_ref),
            username_prefix: username_prefix.as_ref().map(AsRef::as_ref),
            groups_claim: groups_claim.as_ref().map(AsRef::as_ref),
            groups_prefix: groups_prefix.as_ref().map(AsRef::as_ref),
        }
    }
}

impl<'a> IngressValues<'a> {
    fn of(ingress: &'a Ingress) -> Self {
        let Ingress { version, http_port, https_port, health_port, health_path, pools } = ingress;
        Self {
            version: version.as_ref().map(AsRef::as_ref),
            http_port: *http_port,
            https_port: *https_port,
            health_port: *health_port,
            health_path: health_path.as_str(),
            pools,
        }
    }
}
