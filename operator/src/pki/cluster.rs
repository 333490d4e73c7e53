//! What Vault shall hold for a cluster, and what it lacks.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use uuid::Uuid;
use x509_parser::pem::parse_x509_pem;

use super::{
    change::Change,
    error::{Conflict, require},
    mark::{Mark, Owner},
    role::RoleSettings,
};
use crate::objects::{CertificateAuthoritySpec, CertificateRole, ClusterName, GuestRole, NamePattern};

/// A cluster's PKI.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPki {
    /// The authority's `metadata.uid`: a later one of this cluster never takes this one's PKI over.
    pub uid: Uuid,
    /// The root and all roles that there are: another role that is found in the mount is removed. A change of the root's
    /// subject or life does not reach one that is there.
    pub spec: CertificateAuthoritySpec,
}

/// What Vault holds for a cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObservedCluster {
    /// Whose the mount is, and the longest life it gives, in seconds.
    pub mount: Option<(Mark, u64)>,
    /// Whether there is an issuer, be it the default or not.
    pub has_issuer: bool,
    /// The root CA, which is the default issuer.
    pub root: Option<RootCertificate>,
    /// What is in the mount; none for a role that does not look like one of ours.
    pub roles: BTreeMap<String, Option<RoleSettings>>,
    /// The texts of the policies.
    pub policies: BTreeMap<GuestRole, String>,
}

/// A root CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootCertificate {
    /// PEM.
    pub certificate: String,
    /// When its life ends.
    pub not_after: Timestamp,
}

impl RootCertificate {
    /// Reads PEM; none where it is no certificate.
    pub(super) fn read(certificate: String) -> Option<Self> {
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
        let seconds = pem.parse_x509().ok()?.validity().not_after.timestamp();
        Some(Self { not_after: Timestamp::from_second(seconds).ok()?, certificate })
    }
}

/// Where a cluster's PKI is mounted; agents build the same name.
pub(super) fn mount(cluster: &ClusterName) -> String {
    format!("pki-{cluster}")
}

/// The policy of the hosts that run such guests of a cluster. The dot keeps it apart from other clusters'.
pub(super) fn policy_name(cluster: &ClusterName, role: GuestRole) -> String {
    format!("goliath-pki-{cluster}.{}", word(role))
}

/// All that there are.
pub(super) const GUEST_ROLES: [GuestRole; 2] = [GuestRole::Master, GuestRole::Worker];

pub(super) const fn word(role: GuestRole) -> &'static str {
    match role {
        GuestRole::Master => "master",
        GuestRole::Worker => "worker",
    }
}

pub(super) fn owner(cluster: &ClusterName, uid: Uuid) -> Owner {
    Owner { kind: "cluster", name: cluster.to_string(), uid }
}

/// Whose a policy is: its first line says it.
pub(super) fn policy_mark(text: &str) -> Mark {
    text.lines().next().and_then(|line| line.strip_prefix("# ")).map_or(Mark::None, Mark::read)
}

impl ClusterPki {
    /// Where it is mounted.
    pub fn mount(&self) -> String {
        mount(&self.spec.cluster)
    }

    /// What has to be done so that Vault holds this; nothing, if something of it is in the way and not ours.
    pub fn changes(&self, observed: &ObservedCluster) -> Result<Vec<Change>, Conflict> {
        let (spec, mount, owner) = (&self.spec, self.mount(), owner(&self.spec.cluster, self.uid));
        if let Some((mark, _)) = &observed.mount {
            require(mark, &owner, || format!("the mount {mount}"))?;
        }
        for (role, text) in &observed.policies {
            require(&policy_mark(text), &owner, || format!("the policy {}", policy_name(&spec.cluster, *role)))?;
        }

        let mut changes = Vec::new();
        let max_lease_ttl = spec.ttl.as_duration().as_secs();
        match &observed.mount {
            None => changes.push(Change::EnableMount { mount: mount.clone(), owner, max_lease_ttl }),
            Some((_, found)) if *found != max_lease_ttl => {
                changes.push(Change::TuneMount { mount: mount.clone(), max_lease_ttl });
            }
            Some(_) => {}
        }
        if !observed.has_issuer {
            let common_name = match &spec.common_name {
                Some(name) => name.to_string(),
                None => format!("{} root CA", spec.cluster),
            };
            changes.push(Change::GenerateRoot { mount: mount.clone(), common_name, ttl: max_lease_ttl });
        } else if observed.root.is_none() {
            changes.push(Change::MakeRootDefault { mount: mount.clone() });
        }
        for role in observed.roles.keys().filter(|name| spec.roles.iter().all(|role| role.name.as_str() != *name)) {
            changes.push(Change::DeleteRole { mount: mount.clone(), role: role.clone() });
        }
        for role in &spec.roles {
            let settings = RoleSettings::new(role, &spec.allowed_domains);
            if observed.roles.get(role.name.as_str()).and_then(Option::as_ref) != Some(&settings) {
                let (mount, role) = (mount.clone(), role.name.to_string());
                changes.push(Change::WriteRole { mount, role, settings: Box::new(settings) });
            }
        }
        for role in GUEST_ROLES {
            let text = self.policy(role);
            if observed.policies.get(&role) != Some(&text) {
                changes.push(Change::WritePolicy { name: policy_name(&spec.cluster, role), text });
            }
        }
        Ok(changes)
    }

    /// What hosts that run such guests may do: have requests signed, by name where a role cannot check it.
    fn policy(&self, guest: GuestRole) -> String {
        let mut text = format!("# {}\n", owner(&self.spec.cluster, self.uid));
        for CertificateRole { name, common_names, .. } in
            self.spec.roles.iter().filter(|role| role.guests.contains(&guest))
        {
            let _ = writeln!(text, "path \"{}/sign/{name}\" {{", self.mount());
            text.push_str("  capabilities = [\"update\"]\n");
            if !common_names.is_empty() {
                let quoted = |name: &NamePattern| format!("\"{name}\"");
                let names = common_names.iter().map(quoted).collect::<Vec<_>>().join(", ");
                let _ = writeln!(text, "  allowed_parameters = {{ \"common_name\" = [{names}], \"*\" = [] }}");
            }
            // Vault looks at a role's longest life only where a life is asked for, not an end.
            text.push_str("  denied_parameters = { \"not_after\" = [] }\n");
            text.push_str("}\n");
        }
        text
    }
}
