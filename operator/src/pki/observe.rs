//! What Vault holds, of one cluster or of one host: the cost does not grow with the others.

use std::collections::{BTreeMap, BTreeSet};

use goliath_vault::{CallError, VaultError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    apply::VaultPki,
    cluster::{self, GUEST_ROLES, ObservedCluster, RootCertificate},
    error::PkiError,
    host::{self, ObservedAlias, ObservedEntity, ObservedHost},
    mark::{Mark, OWNED},
};
use crate::objects::{ClusterName, HostName};

#[derive(Deserialize)]
struct Mount {
    description: String,
    config: MountConfig,
}

#[derive(Deserialize)]
struct MountConfig {
    max_lease_ttl: u64,
}

#[derive(Deserialize)]
struct Issuers {
    default: String,
}

#[derive(Deserialize)]
struct Certificate {
    certificate: String,
}

#[derive(Deserialize)]
struct Policy {
    policy: String,
}

#[derive(Deserialize)]
struct AuthMethod {
    accessor: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct RoleId {
    role_id: String,
}

#[derive(Deserialize)]
pub(super) struct Entity {
    pub(super) id: String,
    metadata: Option<BTreeMap<String, String>>,
    policies: Option<BTreeSet<String>>,
    disabled: bool,
    aliases: Option<Vec<Alias>>,
}

#[derive(Deserialize)]
struct Alias {
    id: String,
    mount_accessor: String,
    name: String,
}

impl VaultPki {
    /// What Vault holds for a cluster.
    pub async fn observe_cluster(&self, cluster: &ClusterName) -> Result<ObservedCluster, PkiError> {
        let mount = cluster::mount(cluster);
        let mut observed = ObservedCluster { mount: self.mount(&mount).await?, ..ObservedCluster::default() };
        for role in GUEST_ROLES {
            if let Some(text) = self.policy(&cluster::policy_name(cluster, role)).await? {
                observed.policies.insert(role, text);
            }
        }
        if !matches!(observed.mount, Some((Mark::Ours(_), _))) {
            return Ok(observed);
        }
        observed.has_issuer = !self.list(&format!("{mount}/issuers")).await?.is_empty();
        if observed.has_issuer {
            observed.root = self.root(&mount).await?;
        }
        for role in self.list(&format!("{mount}/roles")).await? {
            let settings: Option<Value> = self.read(&format!("{mount}/roles/{role}")).await?;
            if let Some(settings) = settings {
                observed.roles.insert(role, serde_json::from_value(settings).ok());
            }
        }
        Ok(observed)
    }

    /// What Vault holds for a host.
    pub async fn observe_host(&self, host: &HostName) -> Result<ObservedHost, PkiError> {
        let accessor = self.accessor().await?;
        let name = host::login_name(host);
        let role = self.app_role_path(&name);
        let app_role = match self.read::<Value>(&role).await? {
            Some(settings) => self
                .read::<RoleId>(&format!("{role}/role-id"))
                .await?
                .map(|found| (found.role_id, serde_json::from_value(settings).ok())),
            None => None,
        };
        let entity = self.entity(&name).await?.map(|entity| ObservedEntity {
            mark: entity_mark(&entity.metadata.unwrap_or_default()),
            policies: entity.policies.unwrap_or_default(),
            disabled: entity.disabled,
            aliases: entity
                .aliases
                .unwrap_or_default()
                .into_iter()
                .map(|alias| ObservedAlias { id: alias.id, accessor: alias.mount_accessor, name: alias.name })
                .collect(),
        });
        Ok(ObservedHost { accessor, app_role, entity })
    }

    pub(super) async fn mount(&self, mount: &str) -> Result<Option<(Mark, u64)>, PkiError> {
        let path = format!("sys/mounts/{mount}");
        match self.session.read::<Mount>(&path).await {
            Ok(found) => Ok(found.map(|found| (Mark::read(&found.description), found.config.max_lease_ttl))),
            // Vault has no 404 here.
            Err(CallError::Refused { code: 400, errors })
                if errors.iter().any(|error| error.contains("No secret engine mount")) =>
            {
                Ok(None)
            }
            Err(error) => Err(PkiError::of_call(&path, error)),
        }
    }

    pub(super) async fn policy(&self, name: &str) -> Result<Option<String>, PkiError> {
        let found: Option<Policy> = self.read(&format!("sys/policies/acl/{name}")).await?;
        Ok(found.map(|found| found.policy))
    }

    pub(super) async fn entity(&self, name: &str) -> Result<Option<Entity>, PkiError> {
        self.read(&format!("identity/entity/name/{name}")).await
    }

    pub(super) async fn root(&self, mount: &str) -> Result<Option<RootCertificate>, PkiError> {
        let issuers: Option<Issuers> = self.read(&format!("{mount}/config/issuers")).await?;
        if issuers.is_none_or(|issuers| issuers.default.is_empty()) {
            return Ok(None);
        }
        let path = format!("{mount}/cert/ca");
        let Some(Certificate { certificate }) = self.read(&path).await? else { return Ok(None) };
        let root = RootCertificate::read(certificate)
            .ok_or_else(|| VaultError::Unexpected { path, detail: "the root is no certificate in PEM".to_owned() })?;
        Ok(Some(root))
    }

    /// By this AppRole's mount is told apart from one that was there before under its name.
    async fn accessor(&self) -> Result<String, PkiError> {
        let methods: BTreeMap<String, Value> = self.read("sys/auth").await?.unwrap_or_default();
        let method = methods.get(&format!("{}/", self.auth_mount)).cloned();
        match method.and_then(|method| serde_json::from_value::<AuthMethod>(method).ok()) {
            Some(method) if method.kind == "approle" => Ok(method.accessor),
            _ => Err(PkiError::NoAppRole { mount: self.auth_mount.clone() }),
        }
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, PkiError> {
        self.session.read(path).await.map_err(|error| PkiError::of_call(path, error))
    }

    pub(super) async fn list(&self, path: &str) -> Result<Vec<String>, PkiError> {
        self.session.list(path).await.map_err(|error| PkiError::of_call(path, error))
    }
}

fn entity_mark(metadata: &BTreeMap<String, String>) -> Mark {
    let value = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    if value("owned-by") != "goliath" {
        return Mark::None;
    }
    Mark::Ours(format!("{OWNED} host={} uid={}", value("host"), value("uid")))
}
