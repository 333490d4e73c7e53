//! CertificateAuthority: the root CA of a cluster, and the roles that may be asked of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, Conditions, DnsLabel, DomainName, GuestRole, IssuerName, NamePattern, SubjectName, TimeSpan};

/// A root CA and its roles. It outlives the guests: deleting it ends every certificate of the cluster.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "goliath.dev",
    version = "v1alpha1",
    kind = "CertificateAuthority",
    plural = "certificateauthorities",
    shortname = "gca",
    category = "goliath",
    doc = "The root CA of a cluster, and the roles that may be asked of it.",
    status = "CertificateAuthorityStatus",
    derive = "PartialEq",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Issuer", type_ = "string", json_path = ".spec.issuer"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Expires", type_ = "date", json_path = ".status.notAfter"),
    printcolumn(name = "Mount", type_ = "string", json_path = ".status.mount", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateAuthoritySpec {
    /// Whose it is.
    pub cluster: ClusterName,
    /// An issuer of the operator's configuration.
    pub issuer: IssuerName,
    /// Life of the root.
    pub ttl: TimeSpan,
    /// Subject of the root; left out: `<cluster> root CA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<SubjectName>,
    /// Domains for which certificates may be issued.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_domains: Vec<DomainName>,
    /// What may be asked for; names differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Vec<CertificateRole>,
}

/// One kind of certificate. The issuer writes the organisations, because they are groups in Kubernetes: who could choose
/// them would be an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRole {
    /// Its name at the issuer.
    pub name: DnsLabel,
    /// Who may be the subject; left out: any of the DNS names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub common_names: Vec<NamePattern>,
    /// DNS names that it may carry. Left out: none where there are common names, otherwise the authority's allowed domains
    /// and all that is below them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub dns_names: Vec<NamePattern>,
    /// Whether it may carry addresses. Issuers do not check which.
    #[serde(default)]
    pub ip_addresses: bool,
    /// Subject's organisations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub organizations: Vec<SubjectName>,
    /// The longest life of a certificate.
    pub max_ttl: TimeSpan,
    /// What its holders prove with it.
    #[serde(default)]
    pub usage: CertificateUsage,
    /// It may be asked for on hosts that run such a guest of the cluster; empty: by the operator alone.
    #[serde(default = "any_guest")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub guests: Vec<GuestRole>,
}

fn any_guest() -> Vec<GuestRole> {
    vec![GuestRole::Master, GuestRole::Worker]
}

/// Extended key usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CertificateUsage {
    /// To clients, who they are.
    Server,
    /// To servers, who they are.
    Client,
    /// Both.
    #[default]
    Both,
}

/// What became of a CA.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertificateAuthorityStatus {
    /// Ready, HostsGranted, Deleting.
    pub conditions: Conditions,
    /// The generation that the conditions tell of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the issuer holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub mount: Option<String>,
    /// The root's certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub certificate: Option<String>,
    /// When the root's life ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
}
