//! What has to be done in Vault: each a request that may be repeated.

use std::{collections::BTreeSet, fmt};

use super::{host::LoginSettings, mark::Owner, role::RoleSettings};

/// One step. After each of them Vault is in a state from which the comparison goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Mounts a PKI, marked.
    EnableMount {
        /// Where.
        mount: String,
        /// For whom.
        owner: Owner,
        /// The longest life of anything issued there, in seconds.
        max_lease_ttl: u64,
    },
    /// Sets the longest life of what a mount issues.
    TuneMount {
        /// Where.
        mount: String,
        /// In seconds.
        max_lease_ttl: u64,
    },
    /// Makes the root CA, where none is. Vault refuses a second one of this name.
    GenerateRoot {
        /// Where.
        mount: String,
        /// The subject.
        common_name: String,
        /// Its life in seconds.
        ttl: u64,
    },
    /// Makes the root the issuer of roles, where that came to an end half-way: Vault gives up what it does for us when we
    /// are killed.
    MakeRootDefault {
        /// Where.
        mount: String,
    },
    /// Makes a role, or sets it right.
    WriteRole {
        /// Where.
        mount: String,
        /// Its name.
        role: String,
        /// What it allows.
        settings: Box<RoleSettings>,
    },
    /// Removes a role that nobody declares: whoever may use the mount's roles could use it too.
    DeleteRole {
        /// Where.
        mount: String,
        /// Its name.
        role: String,
    },
    /// Makes a policy, or sets it right.
    WritePolicy {
        /// Its name.
        name: String,
        /// Its first line is the mark.
        text: String,
    },
    /// Makes a host's entity, marked.
    CreateEntity {
        /// Its name.
        name: String,
        /// For whom.
        owner: Owner,
    },
    /// Sets an entity's policies; they count at once for the tokens that are out.
    SetPolicies {
        /// The entity's name.
        entity: String,
        /// What its tokens may do.
        policies: BTreeSet<String>,
    },
    /// Makes a host's AppRole, or sets it right.
    WriteAppRole {
        /// Its name.
        name: String,
        /// Its role id, which is its mark.
        role_id: String,
        /// How its tokens are.
        settings: LoginSettings,
    },
    /// Has logins by the AppRole count as the entity.
    LinkEntity {
        /// The entity's name.
        entity: String,
        /// The AppRole's role id.
        role_id: String,
        /// The accessor of AppRole's mount.
        accessor: String,
    },
    /// Takes another login off the entity.
    UnlinkEntity {
        /// The entity's name.
        entity: String,
        /// The alias' id.
        alias: String,
    },
}

/// For a log.
impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnableMount { mount, .. } => write!(formatter, "mount a PKI at {mount}"),
            Self::TuneMount { mount, max_lease_ttl } => {
                write!(formatter, "set the longest life of {mount} to {max_lease_ttl} s")
            }
            Self::GenerateRoot { mount, .. } => write!(formatter, "make the root CA of {mount}"),
            Self::MakeRootDefault { mount } => write!(formatter, "make the root CA of {mount} the default issuer"),
            Self::WriteRole { mount, role, .. } => write!(formatter, "write the role {mount}/roles/{role}"),
            Self::DeleteRole { mount, role } => write!(formatter, "remove the role {mount}/roles/{role}"),
            Self::WritePolicy { name, .. } => write!(formatter, "write the policy {name}"),
            Self::CreateEntity { name, .. } => write!(formatter, "make the entity {name}"),
            Self::SetPolicies { entity, policies } => {
                let policies = policies.iter().map(String::as_str).collect::<Vec<_>>();
                write!(formatter, "give the entity {entity} the policies [{}]", policies.join(", "))
            }
            Self::WriteAppRole { name, .. } => write!(formatter, "write the AppRole {name}"),
            Self::LinkEntity { entity, .. } => write!(formatter, "link the entity {entity} to its AppRole"),
            Self::UnlinkEntity { entity, .. } => write!(formatter, "take another login off the entity {entity}"),
        }
    }
}
