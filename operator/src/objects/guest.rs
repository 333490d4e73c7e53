//! Guest: one virtual machine. Its spec is what the agent gets, and on which host; its status is what the agent saw.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Accelerator, Boot, CertificateDnsName, ClusterName, Conditions, Digest, Disk, DnsLabel, DomainName, GuestIndex,
    HostName, HostRole, ImageReference, InvalidValue, IssuerName, MacAddress, Machine, SubjectName, TimeSpan, ZoneName,
};

/// What a guest shall be, and where. `metadata.uid` and `metadata.generation` are the agent's uid and generation.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "goliath.dev",
    version = "v1alpha1",
    kind = "Guest",
    plural = "guests",
    shortname = "gst",
    category = "goliath",
    doc = "One virtual machine.",
    status = "GuestStatus",
    derive = "PartialEq",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.binding.host"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.network.ipv4Address", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restartCount", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestSpec {
    /// Whose guest it is, and which network it is in.
    pub cluster: ClusterName,
    /// What it is in the cluster.
    pub role: GuestRole,
    /// The worker pool that it belongs to; masters have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<DnsLabel>,
    /// Its place among the masters, or in its pool.
    pub index: GuestIndex,
    /// Its name within the cluster; becomes its hostname.
    pub hostname: DnsLabel,
    /// Processors and memory.
    pub machine: Machine,
    /// How it starts.
    #[serde(default)]
    pub boot: Boot,
    /// What it starts from.
    pub image: ImageReference,
    /// The root disk and data disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub disks: Vec<Disk>,
    /// Its place in the cluster's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkInterface>,
    /// First-boot configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    /// What its certificate volume holds; names differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub certificates: Vec<CertificateRequest>,
    /// When it runs, and how it ends.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Which hosts may run it.
    #[serde(default, skip_serializing_if = "HostRequirements::is_empty")]
    pub hosts: HostRequirements,
    /// The host that runs it, once chosen. It changes only when that host said that the guest is gone there, or was
    /// itself forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
}

impl GuestSpec {
    /// The host that was chosen.
    pub fn host(&self) -> Option<&HostName> {
        self.binding.as_ref().map(|binding| &binding.host)
    }
}

/// What a guest is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GuestRole {
    /// Runs the control plane and etcd.
    Master,
    /// Runs pods.
    Worker,
}

/// Which hosts may run a guest. What is empty asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostRequirements {
    /// Only hosts of one of these zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "set"))]
    pub zones: Vec<ZoneName>,
    /// Only hosts with all of these roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub roles: Vec<HostRole>,
}

impl HostRequirements {
    /// Whether any host will do.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.roles.is_empty()
    }
}

/// The host chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Binding {
    /// The Host object.
    pub host: HostName,
    /// For people: what spoke for this host.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// When it was chosen.
    pub time: Time,
}

/// A place in the cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkInterface {
    /// The guest's own; it can use no other.
    pub ipv4_address: Ipv4Addr,
    /// Left out: derived from the uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<MacAddress>,
}

/// First-boot configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SeedFields", into = "SeedFields")]
pub struct Seed {
    /// In which language.
    pub kind: SeedKind,
    /// Told to the guest beside its addresses.
    pub ntp_servers: Vec<DomainName>,
}

/// The two languages of first-boot configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedKind {
    /// JSON, by `fw_cfg`.
    Ignition(Document),
    /// A NoCloud disk.
    CloudInit(CloudInit),
}

/// First-boot configuration; exactly one of `ignition` and `cloudInit`.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["ignition"] }, { "required": ["cloudInit"] }]))]
struct SeedFields {
    /// An Ignition document (JSON).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ignition: Option<Document>,
    /// What cloud-init reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cloud_init: Option<CloudInit>,
    /// Told to the guest beside its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    ntp_servers: Vec<DomainName>,
}

impl TryFrom<SeedFields> for Seed {
    type Error = InvalidValue;

    fn try_from(fields: SeedFields) -> Result<Self, Self::Error> {
        let kind = match (fields.ignition, fields.cloud_init) {
            (Some(document), None) => SeedKind::Ignition(document),
            (None, Some(cloud_init)) => SeedKind::CloudInit(cloud_init),
            _ => return Err(InvalidValue::new("must have exactly one of `ignition` and `cloudInit`")),
        };
        Ok(Self { kind, ntp_servers: fields.ntp_servers })
    }
}

impl From<Seed> for SeedFields {
    fn from(seed: Seed) -> Self {
        let (ignition, cloud_init) = match seed.kind {
            SeedKind::Ignition(document) => (Some(document), None),
            SeedKind::CloudInit(cloud_init) => (None, Some(cloud_init)),
        };
        Self { ignition, cloud_init, ntp_servers: seed.ntp_servers }
    }
}

impl JsonSchema for Seed {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seed".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        SeedFields::json_schema(generator)
    }
}

/// What cloud-init reads; the agent adds meta-data and network-config.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CloudInit {
    /// `#cloud-config`, a script, or any format that cloud-init knows.
    #[serde(default)]
    pub user_data: Document,
    /// Vendor data.
    #[serde(default, skip_serializing_if = "Document::is_empty")]
    pub vendor_data: Document,
}

/// A text of first-boot configuration. It may hold secrets, so only its size is shown in logs.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Document(#[schemars(length(max = 524_288))] String);

impl Document {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Document {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "({} bytes)", self.0.len())
    }
}

/// A certificate that the guest needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// Its directory in the volume.
    pub name: DnsLabel,
    /// An issuer of the host's configuration.
    pub issuer: IssuerName,
    /// The issuer's role for it; left out: the name.
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
    /// Subject's organisations; Kubernetes reads groups from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub organizations: Vec<SubjectName>,
    /// How long it shall be good.
    pub ttl: TimeSpan,
}

/// When a guest runs, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifecycle {
    /// What it shall be doing.
    pub desired_state: DesiredState,
    /// What follows when QEMU ends and nobody asked for it.
    pub restart_policy: RestartPolicy,
    /// From the first power button to SIGKILL.
    pub shutdown_grace: TimeSpan,
    /// Whether a change that needs a restart may do one.
    pub restart_on_change: bool,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            desired_state: DesiredState::Running,
            restart_policy: RestartPolicy::Always,
            shutdown_grace: TimeSpan::seconds(60),
            restart_on_change: false,
        }
    }
}

/// What a guest shall be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// Its vCPUs run.
    #[default]
    Running,
    /// QEMU is there, its vCPUs stand.
    Paused,
    /// No QEMU; disks stay.
    Stopped,
}

/// What follows when QEMU ends and nobody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// It starts again.
    #[default]
    Always,
    /// It starts again unless the guest powered itself off.
    OnFailure,
    /// It stays ended.
    Never,
}

/// What the agent saw, and what placement found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GuestStatus {
    /// Where it is on its way; none before an agent told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<GuestPhase>,
    /// Scheduled, Applied, ImageReady, NetworkReady, CertificatesReady, VolumesReady, Running, Booted, Ready,
    /// RestartRequired, Deleting.
    pub conditions: Conditions,
    /// The host whose agent told this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The generation that the agent last worked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The generation that the running QEMU was started with; none: none runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_generation: Option<i64>,
    /// None while no QEMU runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The image as resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<Digest>,
    /// As in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<MacAddress>,
    /// How often QEMU was started again since the guest was accepted.
    pub restart_count: u32,
    /// The last end of QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Exit>,
    /// Until when a guest in back-off waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_time: Option<Time>,
}

/// Where a guest is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GuestPhase {
    /// Written down; nothing was started yet.
    Accepted,
    /// Image, network and volumes are being made ready.
    Preparing,
    /// QEMU was started and did not answer `running` yet.
    Starting,
    /// QMP says `running`.
    Running,
    /// QMP says `paused`, as asked for.
    Paused,
    /// On its way down.
    Stopping,
    /// No QEMU, as asked for.
    Stopped,
    /// Waits before the next try.
    Backoff,
    /// Ended and, by its restart policy, stays so.
    Failed,
    /// A QEMU of this uid exists that the agent does not know; it is left alone.
    Quarantined,
}

/// A running QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Process {
    /// On its host.
    pub pid: i32,
    /// When it was started.
    pub started_at: Time,
    /// As chosen.
    pub accelerator: Accelerator,
    /// As it says itself.
    #[schemars(length(max = 128))]
    pub qemu_version: String,
}

/// The end of a QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exit {
    /// Why it ended.
    pub reason: ExitReason,
    /// For people.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// When.
    pub time: Time,
    /// What ended it, where we did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown_step: Option<ShutdownStep>,
}

/// Why a QEMU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ExitReason {
    /// The guest powered itself off.
    GuestShutdown,
    /// Its kernel panicked.
    GuestPanic,
    /// It asked for a reset, which ends QEMU here.
    GuestReset,
    /// We stopped it.
    Stopped,
    /// By itself or by a signal.
    Crashed,
    /// While no agent watched.
    Unobserved,
    /// QEMU refused to start.
    LaunchFailed,
}

/// What ended a QEMU that we stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ShutdownStep {
    /// ACPI.
    PowerButton,
    /// In the guest.
    GuestAgent,
    /// QMP.
    Quit,
    /// SIGKILL.
    Kill,
}
