//! Host: a bare-metal machine that runs an agent.

use std::net::Ipv4Addr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Accelerator, ByteSize, Conditions, Digest, DomainName, Endpoint, HostRole, Ipv4Cidr, Vni, ZoneName};

/// How to reach a host and what it is for. Its labels are those of its metadata.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "goliath.dev",
    version = "v1alpha1",
    kind = "Host",
    plural = "hosts",
    shortname = "ghost",
    category = "goliath",
    doc = "A bare-metal machine that runs an agent.",
    status = "HostStatus",
    derive = "PartialEq",
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.zone"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Cordoned", type_ = "boolean", json_path = ".spec.cordoned"),
    printcolumn(name = "Guests", type_ = "integer", json_path = ".status.guests"),
    printcolumn(name = "Free", type_ = "string", json_path = ".status.available.memory"),
    printcolumn(name = "Heartbeat", type_ = "date", json_path = ".status.heartbeatTime"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address", priority = 1),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.versions.agent", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostSpec {
    /// Where the agent's API answers.
    pub address: Endpoint,
    /// The name in the agent's certificate; left out: the address's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<DomainName>,
    /// Where it fails together with others; left out: a zone of its own kind, without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub roles: Vec<HostRole>,
    /// While true it gets no new guests; those it has go on.
    #[serde(default)]
    pub cordoned: bool,
}

/// What was last seen of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostStatus {
    /// Reachable, Ready, and what the agent tells of itself.
    pub conditions: Conditions,
    /// The generation that the conditions tell of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the agent last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_time: Option<Time>,
    /// The kernel's: another one means that the machine restarted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// All that guests may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// What a new guest could still get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<Capacity>,
    /// What `auto` means there, as the doctor last found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Of what runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
    /// Where VXLAN packets for it go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay_address: Option<Ipv4Addr>,
    /// Whether the agent itself refuses new guests.
    pub cordoned: bool,
    /// Guests that it runs.
    pub guests: u32,
    /// What a QEMU may take there beside its guest's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_overhead: Option<ByteSize>,
    /// Whether guests may run emulated.
    pub tcg_allowed: bool,
    /// The networks of its own devices: no cluster's network can be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "set"))]
    pub networks: Vec<Ipv4Cidr>,
    /// VNIs in use there by devices that no agent made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "set"))]
    pub foreign_vnis: Vec<Vni>,
    /// Images in its store, by digest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "set"))]
    pub images: Vec<Digest>,
}

/// What guests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// The machine's processors times the configured ratio.
    pub vcpus: u32,
    /// Without what is reserved for the host.
    pub memory: ByteSize,
    /// On the file system of guests' disks.
    pub disk: ByteSize,
}

/// Versions of what runs on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Versions {
    /// goliath-agent.
    #[schemars(length(max = 128))]
    pub agent: String,
    /// QEMU.
    #[schemars(length(max = 128))]
    pub qemu: String,
    /// Linux.
    #[schemars(length(max = 128))]
    pub kernel: String,
}
