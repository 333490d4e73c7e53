//! What Vault shall hold for a host, and what it lacks.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    change::Change,
    cluster::{policy_name, word},
    error::{Conflict, require},
    mark::{Mark, Owner},
};
use crate::objects::{ClusterName, GuestRole, HostName};

/// How a host logs in, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLogin {
    /// Its name gives those of the AppRole and the entity.
    pub host: HostName,
    /// The object's `metadata.uid`: a later host of this name never takes this one's login over.
    pub uid: Uuid,
    /// What it may have certificates of: these and no others.
    pub grants: BTreeSet<Grant>,
}

/// Leave to have the certificates signed that such guests of a cluster need. A host has it while it runs one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    /// Whose certificates.
    pub cluster: ClusterName,
    /// Which guests'.
    pub role: GuestRole,
}

/// As `acme/master`.
impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.cluster, word(self.role))
    }
}

/// What Vault holds for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedHost {
    /// The accessor of AppRole's mount.
    pub accessor: String,
    /// The AppRole: its role id, and its settings unless they do not look like ours.
    pub app_role: Option<(String, Option<LoginSettings>)>,
    /// The identity entity.
    pub entity: Option<ObservedEntity>,
}

/// An identity entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedEntity {
    /// Whose it is.
    pub mark: Mark,
    /// What its tokens may do beside what they may by themselves.
    pub policies: BTreeSet<String>,
    /// Somebody switched it off: its tokens are refused. It is never switched on again here.
    pub disabled: bool,
    /// The logins that count as this entity.
    pub aliases: Vec<ObservedAlias>,
}

/// A login that counts as an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedAlias {
    /// Vault's name for it.
    pub id: String,
    /// The accessor of the mount where one logs in.
    pub accessor: String,
    /// For an AppRole its role id.
    pub name: String,
}

/// Settings of an AppRole, under Vault's names: what is written is compared with what is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginSettings {
    bind_secret_id: bool,
    secret_id_num_uses: u64,
    secret_id_ttl: u64,
    token_explicit_max_ttl: u64,
    token_max_ttl: u64,
    token_no_default_policy: bool,
    token_num_uses: u64,
    token_period: u64,
    token_policies: Vec<String>,
    token_ttl: u64,
    token_type: String,
}

impl Default for LoginSettings {
    /// Tokens have an hour, are renewed for a day, and may nothing but what their entity may.
    fn default() -> Self {
        Self {
            bind_secret_id: true,
            // Agents log in with it again and again.
            secret_id_num_uses: 0,
            secret_id_ttl: 0,
            token_explicit_max_ttl: 0,
            token_max_ttl: 24 * 3600,
            // By it a token may renew itself.
            token_no_default_policy: false,
            token_num_uses: 0,
            token_period: 0,
            token_policies: Vec::new(),
            token_ttl: 3600,
            token_type: "default".to_owned(),
        }
    }
}

/// The name of a host's AppRole and entity.
pub(super) fn login_name(host: &HostName) -> String {
    format!("goliath-{host}")
}

pub(super) fn owner(host: &HostName, uid: Uuid) -> Owner {
    Owner { kind: "host", name: host.to_string(), uid }
}

/// An AppRole carries no text of ours but its role id, so this is its mark. It is no secret.
pub(super) fn role_id(host: &HostName, uid: Uuid) -> String {
    format!("goliath-{host}-{uid}")
}

impl ObservedHost {
    /// Whether the entity is this host's.
    pub(super) fn has_entity_of(&self, host: &HostName, uid: Uuid) -> bool {
        self.entity.as_ref().is_some_and(|entity| entity.mark.is_of(&owner(host, uid)))
    }

    /// Whether the AppRole is this host's.
    pub(super) fn has_app_role_of(&self, host: &HostName, uid: Uuid) -> bool {
        self.app_role.as_ref().is_some_and(|(found, _)| *found == role_id(host, uid))
    }

    /// Refuses what is there and not of this host.
    fn require(&self, host: &HostName, uid: Uuid) -> Result<(), Conflict> {
        let (name, owner) = (login_name(host), owner(host, uid));
        if let Some(entity) = &self.entity {
            require(&entity.mark, &owner, || format!("the entity {name}"))?;
        }
        match &self.app_role {
            Some((found, _)) if *found != role_id(host, uid) => {
                let what = format!("the AppRole {name}");
                let another = found
                    .strip_prefix(&format!("{name}-"))
                    .and_then(|uid| uid.parse::<Uuid>().ok())
                    .map(|uid| self::owner(host, uid).to_string());
                Err(match another {
                    Some(found) => Conflict::Another { what, wanted: owner, found },
                    None => Conflict::Unowned { what, wanted: owner },
                })
            }
            _ => Ok(()),
        }
    }
}

impl HostLogin {
    /// What has to be done so that Vault holds this; nothing, if something of it is in the way and not ours.
    pub fn changes(&self, observed: &ObservedHost) -> Result<Vec<Change>, Conflict> {
        let mut changes = login_changes(&self.host, self.uid, observed)?;
        let policies: BTreeSet<_> = self.grants.iter().map(|grant| policy_name(&grant.cluster, grant.role)).collect();
        let found = observed.entity.as_ref().map(|entity| &entity.policies);
        if found.map_or(!policies.is_empty(), |found| *found != policies) {
            changes.push(Change::SetPolicies { entity: login_name(&self.host), policies });
        }
        Ok(changes)
    }
}

/// What has to be done so that a host can log in, whatever it may do then.
pub(super) fn login_changes(host: &HostName, uid: Uuid, observed: &ObservedHost) -> Result<Vec<Change>, Conflict> {
    observed.require(host, uid)?;
    let (name, role_id) = (login_name(host), role_id(host, uid));
    let mut changes = Vec::new();
    if observed.entity.is_none() {
        changes.push(Change::CreateEntity { name: name.clone(), owner: owner(host, uid) });
    }
    let settings = LoginSettings::default();
    if observed.app_role.as_ref().and_then(|(_, settings)| settings.as_ref()) != Some(&settings) {
        changes.push(Change::WriteAppRole { name: name.clone(), role_id: role_id.clone(), settings });
    }
    let mut linked = false;
    for alias in observed.entity.iter().flat_map(|entity| &entity.aliases) {
        if alias.name == role_id && alias.accessor == observed.accessor {
            linked = true;
        } else {
            changes.push(Change::UnlinkEntity { entity: name.clone(), alias: alias.id.clone() });
        }
    }
    if !linked {
        changes.push(Change::LinkEntity { entity: name, role_id, accessor: observed.accessor.clone() });
    }
    Ok(changes)
}
