//! The kinds of `goliath.dev/v1alpha1`: metadata, spec and status as in Kubernetes. Every value is parsed into a type
//! that cannot hold an invalid one, and the same types yield the custom resource definitions.
//!
//! All kinds are cluster-scoped: a name is unique among the objects of its kind.

// Columns of `kube` look alike to this lint.
#![allow(clippy::duplicated_attributes)]

use std::{fmt, str::FromStr};

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::core::object::{HasSpec, HasStatus};
pub use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};

mod address;
mod certificate;
mod certificate_authority;
mod cluster;
mod condition;
mod crd;
mod guest;
mod host;
mod machine;
mod number;
mod quantity;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use address::{Endpoint, Ipv4Cidr, MacAddress};
pub use certificate::{Certificate, CertificateSpec, CertificateStatus};
pub use certificate_authority::{
    CertificateAuthority, CertificateAuthoritySpec, CertificateAuthorityStatus, CertificateRole, CertificateUsage,
};
pub use cluster::{
    Cluster, ClusterNetwork, ClusterSpec, ClusterStatus, GuestCounts, Ingress, Kubernetes, Masters, NetworkAllocation,
    Oidc, Pki, PoolStatus, SeedTemplate, Template, TemplateSource, WorkerPool,
};
pub use condition::{Condition, ConditionStatus, Conditions, whole_seconds};
pub use crd::definitions;
pub use guest::{
    Binding, CertificateRequest, CloudInit, DesiredState, Document, Exit, ExitReason, Guest, GuestPhase, GuestRole,
    GuestSpec, GuestStatus, HostRequirements, Lifecycle, NetworkInterface, Process, RestartPolicy, Seed, SeedKind,
    ShutdownStep,
};
pub use host::{Capacity, Host, HostSpec, HostStatus, Versions};
pub use machine::{Accelerator, Boot, DataDisk, Disk, FirmwareBoot, KernelBoot, Machine, RootDisk};
pub use number::{GuestIndex, MasterCount, Mtu, Port, Replicas, Vcpus, Vni};
pub use quantity::{ByteSize, DiskSize, MemorySize, Size, TimeSpan};
pub use text::{
    CertificateDnsName, ClusterName, CommandLine, CpuModel, Digest, DiskSerial, DnsLabel, DomainName, HostName,
    HostPath, HostRole, HttpsUrl, ImageReference, InvalidValue, IssuerName, KubernetesVersion, NamePattern, ObjectName,
    SubjectName, TemplateName, UrlPath, Word, ZoneName,
};

/// The API group of all kinds.
pub const GROUP: &str = "goliath.dev";
/// Group and version, as `apiVersion` has them.
pub const API_VERSION: &str = "goliath.dev/v1alpha1";

/// An object of one of the kinds.
pub trait Object:
    Resource<DynamicType = ()>
    + HasSpec<Spec: Serialize + DeserializeOwned + PartialEq + Send>
    + HasStatus<Status: Serialize + DeserializeOwned + PartialEq + Send>
    + Clone
    + fmt::Debug
    + PartialEq
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Which kind.
    const KIND: Kind;

    /// An object of its parts.
    fn from_parts(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

/// Declares the kinds: the enum, and each one's `Object`.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),* $(,)?) => {
        /// The kinds there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// As `kind` has it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                }
            }
        }

        $(impl Object for $kind {
            const KIND: Kind = Kind::$kind;

            fn from_parts(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self {
                Self { metadata, spec, status }
            }
        })*
    };
}

kinds! {
    /// A guest Kubernetes cluster.
    Cluster,
    /// The root CA of a cluster.
    CertificateAuthority,
    /// What a guest's component needs.
    Certificate,
    /// A bare-metal machine.
    Host,
    /// A virtual machine.
    Guest,
}

/// Evaluates an expression with the type of a kind that is known only at run time.
macro_rules! with_kind {
    ($kind:expr, $type:ident => $body:expr) => {
        match $kind {
            $crate::objects::Kind::Cluster => with_kind!(@ Cluster, $type, $body),
            $crate::objects::Kind::CertificateAuthority => with_kind!(@ CertificateAuthority, $type, $body),
            $crate::objects::Kind::Certificate => with_kind!(@ Certificate, $type, $body),
            $crate::objects::Kind::Host => with_kind!(@ Host, $type, $body),
            $crate::objects::Kind::Guest => with_kind!(@ Guest, $type, $body),
        }
    };
    (@ $kind:ident, $type:ident, $body:expr) => {{
        type $type = $crate::objects::$kind;
        $body
    }};
}
pub(crate) use with_kind;

impl Kind {
    /// As URLs and people have it: `guests`.
    pub fn plural(self) -> String {
        with_kind!(self, T => T::plural(&()).into_owned())
    }

    /// For people in a hurry.
    pub fn short_names(self) -> &'static [&'static str] {
        with_kind!(self, T => <T as kube::CustomResourceExt>::shortnames())
    }

    /// Whether an object of this kind may have this name.
    pub fn check_name(self, name: &str) -> Result<(), InvalidValue> {
        match self {
            Self::Cluster | Self::CertificateAuthority => name.parse::<ClusterName>().map(drop),
            Self::Certificate | Self::Host | Self::Guest => name.parse::<ObjectName>().map(drop),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Takes the kind, its plural and its short names, in any case.
impl FromStr for Kind {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = text.to_lowercase();
        let named = |kind: &&Self| {
            kind.as_str().to_lowercase() == wanted
                || kind.plural() == wanted
                || kind.short_names().contains(&wanted.as_str())
        };
        Self::ALL.iter().find(named).copied().ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            InvalidValue::new(format!("{text:?} is not a kind: there are {}", known.join(", ")))
        })
    }
}
