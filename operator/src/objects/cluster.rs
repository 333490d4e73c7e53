//! Cluster: what a platform engineer writes. Everything else follows from it.

use std::{collections::BTreeMap, net::Ipv4Addr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Boot, Conditions, Disk, DnsLabel, Document, DomainName, Endpoint, HostName, HostRequirements, HostRole, HttpsUrl,
    ImageReference, Ipv4Cidr, IssuerName, KubernetesVersion, Machine, MasterCount, Mtu, ObjectName, Port, Replicas,
    TemplateName, TimeSpan, UrlPath, Vni, Word, ZoneName,
};

/// A guest Kubernetes cluster: masters, workers, one overlay network, one root CA. Its name is a DNS label of at most 40
/// characters.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "goliath.dev",
    version = "v1alpha1",
    kind = "Cluster",
    plural = "clusters",
    shortname = "gcl",
    category = "goliath",
    doc = "A guest Kubernetes cluster: masters, workers, one overlay network, one root CA.",
    status = "ClusterStatus",
    derive = "PartialEq",
    printcolumn(name = "Version", type_ = "string", json_path = ".spec.kubernetes.version"),
    printcolumn(name = "Masters", type_ = "integer", json_path = ".status.masters.ready"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.workers.ready"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused", priority = 1),
    printcolumn(name = "VNI", type_ = "integer", json_path = ".status.network.vni", priority = 1),
    printcolumn(name = "API", type_ = "string", json_path = ".status.apiEndpoint", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// While true nothing of the cluster is changed; what runs goes on.
    #[serde(default)]
    pub paused: bool,
    /// Version and configuration.
    pub kubernetes: Kubernetes,
    /// Where workers take traffic from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// The overlay.
    pub network: ClusterNetwork,
    /// Where etcd and the control plane run.
    pub masters: Masters,
    /// Where pods run: pools with names that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub workers: Vec<WorkerPool>,
    /// Certificates.
    #[serde(default)]
    pub pki: Pki,
}

/// Version and configuration of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kubernetes {
    /// What the images hold; told to templates.
    pub version: KubernetesVersion,
    /// Where the API server listens, and where hosts publish it.
    #[serde(default = "api_port")]
    pub api_port: Port,
    /// Addresses of services.
    pub service_cidr: Ipv4Cidr,
    /// Addresses of pods.
    pub pod_cidr: Ipv4Cidr,
    /// Domain of services.
    #[serde(default = "dns_domain")]
    pub dns_domain: DomainName,
    /// Logins by OpenID Connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Oidc>,
}

/// Logins by OpenID Connect; the API server's `--oidc-` options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Oidc {
    /// Who issues tokens.
    pub issuer_url: HttpsUrl,
    /// For whom they are issued.
    pub client_id: Word,
    /// The claim that names the user; left out: `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_claim: Option<Word>,
    /// Stands in front of users' names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_prefix: Option<Word>,
    /// The claim that names the user's groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_claim: Option<Word>,
    /// Stands in front of groups' names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_prefix: Option<Word>,
}

/// Where workers take traffic from outside: fixed ports of the nodes, for a load balancer in front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingress {
    /// The version of the ingress controller; told to templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Word>,
    /// Plain HTTP.
    #[serde(default = "http_port")]
    pub http_port: Port,
    /// TLS.
    #[serde(default = "https_port")]
    pub https_port: Port,
    /// Answers `healthPath` with 200 while the node takes traffic.
    #[serde(default = "health_port")]
    pub health_port: Port,
    /// Asked on `healthPort`.
    #[serde(default = "health_path")]
    pub health_path: UrlPath,
    /// The pools that take traffic; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub pools: Vec<DnsLabel>,
}

/// The overlay of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetwork {
    /// Addresses of guests, of the shared gateway and of the hosts. Clusters may use the same.
    pub cidr: Ipv4Cidr,
    /// Left out: a free one is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Left out: the underlay's less the header of VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Whether guests reach the world through their hosts, by NAT.
    #[serde(default = "yes")]
    pub egress: bool,
    /// Told to guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub dns_servers: Vec<Ipv4Addr>,
    /// Told to guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ntp_servers: Vec<DomainName>,
}

/// Where etcd and the control plane run: always on different hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Masters {
    /// 1, 3 or 5.
    pub replicas: MasterCount,
    /// Processors and memory of each.
    pub machine: Machine,
    /// What they start from.
    pub image: ImageReference,
    /// How they start.
    #[serde(default)]
    pub boot: Boot,
    /// Of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub disks: Vec<Disk>,
    /// Labels of their Nodes and Guests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Only hosts of these zones; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub zones: Vec<ZoneName>,
    /// Only hosts with all of these roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub host_roles: Vec<HostRole>,
    /// First-boot configuration.
    #[serde(default = "master_seed")]
    pub seed: SeedTemplate,
    /// From the first power button to SIGKILL.
    #[serde(default = "shutdown_grace")]
    pub shutdown_grace: TimeSpan,
}

impl Masters {
    /// Which hosts may run them.
    pub fn hosts(&self) -> HostRequirements {
        HostRequirements { zones: self.zones.clone(), roles: self.host_roles.clone() }
    }
}

/// Guests that run pods and are all alike; spread over zones, then hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerPool {
    /// Differs from the other pools'; `master` is taken.
    pub name: DnsLabel,
    /// How many.
    pub replicas: Replicas,
    /// Processors and memory of each.
    pub machine: Machine,
    /// What they start from.
    pub image: ImageReference,
    /// How they start.
    #[serde(default)]
    pub boot: Boot,
    /// Of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub disks: Vec<Disk>,
    /// Labels of their Nodes and Guests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub labels: BTreeMap<String, String>,
    /// Only hosts of these zones; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub zones: Vec<ZoneName>,
    /// Only hosts with all of these roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub host_roles: Vec<HostRole>,
    /// First-boot configuration.
    #[serde(default = "worker_seed")]
    pub seed: SeedTemplate,
    /// From the first power button to SIGKILL.
    #[serde(default = "shutdown_grace")]
    pub shutdown_grace: TimeSpan,
}

impl WorkerPool {
    /// Which hosts may run them.
    pub fn hosts(&self) -> HostRequirements {
        HostRequirements { zones: self.zones.clone(), roles: self.host_roles.clone() }
    }
}

/// First-boot configuration, rendered for each guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SeedTemplate {
    /// An Ignition document.
    Ignition(TemplateSource),
    /// User data of cloud-init.
    CloudInit(TemplateSource),
}

/// A template and what it is given beside the cluster's own values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TemplateSource {
    /// Where the template is.
    pub template: Template,
    /// Read in the template as `values.<key>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub values: BTreeMap<String, String>,
}

/// Where a template is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Template {
    /// One of the operator's own: a file of its templates' directory.
    Name(TemplateName),
    /// Here.
    Inline(Document),
}

/// Certificates of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Pki {
    /// An issuer that the configurations of operator and hosts know.
    pub issuer: IssuerName,
    /// Life of the root CA.
    pub ca_ttl: TimeSpan,
    /// Life of the guests' certificates; they are renewed at two thirds of it.
    pub certificate_ttl: TimeSpan,
    /// Domains beside the cluster's own for which certificates may be issued.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_domains: Vec<DomainName>,
}

impl Default for Pki {
    fn default() -> Self {
        Self {
            issuer: constant("vault"),
            ca_ttl: TimeSpan::hours(87_600),
            certificate_ttl: TimeSpan::hours(720),
            allowed_domains: Vec::new(),
        }
    }
}

/// What became of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterStatus {
    /// AuthorityReady, NetworkReady, MastersReady, WorkersReady, Ready, Progressing, Deleting.
    pub conditions: Conditions,
    /// The generation that the conditions tell of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What was allocated; it stays until the cluster is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkAllocation>,
    /// Where the API answers inside the overlay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_endpoint: Option<Endpoint>,
    /// Masters counted.
    pub masters: GuestCounts,
    /// Workers of all pools counted.
    pub workers: GuestCounts,
    /// Workers counted by pool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pools: Vec<PoolStatus>,
    /// Of guests that go and come again: kept for them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved_addresses: BTreeMap<ObjectName, Ipv4Addr>,
}

/// What was allocated for a cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkAllocation {
    /// No other cluster has it.
    pub vni: Vni,
    /// On every host; the guests' gateway.
    pub gateway_address: Ipv4Addr,
    /// Grows with each change of the peer lists; agents refuse older ones.
    #[serde(default)]
    pub peers_generation: i64,
    /// Each host's own address in the overlay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_addresses: BTreeMap<HostName, Ipv4Addr>,
}

/// Guests counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GuestCounts {
    /// As the spec wants.
    pub desired: u32,
    /// That exist.
    pub current: u32,
    /// That exist and are as the spec wants them.
    pub updated: u32,
    /// That are ready.
    pub ready: u32,
}

/// Workers of one pool counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolStatus {
    /// The pool.
    pub name: DnsLabel,
    /// Its guests.
    pub guests: GuestCounts,
}

/// A default that its type allows: a test reads all of them.
#[allow(clippy::expect_used)]
fn constant<T: std::str::FromStr<Err = super::InvalidValue>>(text: &str) -> T {
    text.parse().expect("a constant that is valid")
}

fn own_template(name: &str) -> SeedTemplate {
    SeedTemplate::CloudInit(TemplateSource { template: Template::Name(constant(name)), values: BTreeMap::new() })
}

fn master_seed() -> SeedTemplate {
    own_template("master.cloud-config")
}

fn worker_seed() -> SeedTemplate {
    own_template("worker.cloud-config")
}

fn dns_domain() -> DomainName {
    constant("cluster.local")
}

fn health_path() -> UrlPath {
    constant("/healthz")
}

const fn api_port() -> Port {
    Port::new(6443)
}

const fn http_port() -> Port {
    Port::new(30080)
}

const fn https_port() -> Port {
    Port::new(30443)
}

const fn health_port() -> Port {
    Port::new(30081)
}

const fn shutdown_grace() -> TimeSpan {
    TimeSpan::seconds(60)
}

const fn yes() -> bool {
    true
}
