//! Certificate: one that a guest's component needs. The agent obtains and renews it; its key never leaves the host.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CertificateDnsName, ClusterName, Conditions, DnsLabel, ObjectName, SubjectName, TimeSpan};

/// What a certificate shall say, and who needs it.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "goliath.dev",
    version = "v1alpha1",
    kind = "Certificate",
    plural = "certificates",
    shortname = "gcert",
    category = "goliath",
    doc = "A certificate that a component of a guest needs.",
    status = "CertificateStatus",
    derive = "PartialEq",
    printcolumn(name = "Guest", type_ = "string", json_path = ".spec.guest"),
    printcolumn(name = "Component", type_ = "string", json_path = ".spec.component"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Common Name", type_ = "string", json_path = ".spec.commonName", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateSpec {
    /// Whose it is.
    pub cluster: ClusterName,
    /// The CertificateAuthority that issues it.
    pub authority: ObjectName,
    /// The Guest that needs it.
    pub guest: ObjectName,
    /// For which of its components: the certificate's directory in the guest's volume.
    pub component: DnsLabel,
    /// The authority's role; left out: the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<DnsLabel>,
    /// Subject.
    pub common_name: SubjectName,
    /// Subject alternative names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub dns_names: Vec<CertificateDnsName>,
    /// Subject alternative addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 45)))]
    pub ip_addresses: Vec<IpAddr>,
    /// Subject's organisations, as the role writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub organizations: Vec<SubjectName>,
    /// Its life.
    pub ttl: TimeSpan,
}

/// What the agent told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertificateStatus {
    /// Ready.
    pub conditions: Conditions,
    /// The generation that the conditions tell of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the one in use ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// Its serial number, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub serial: Option<String>,
}
