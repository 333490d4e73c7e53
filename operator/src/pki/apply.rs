//! Does in Vault what has to be done.

use std::{fmt, time::Duration};

use goliath_vault::{CallError, Session, VaultError};
use serde_json::{Value, json};
use tracing::info;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    change::Change,
    cluster::{self, ClusterPki, GUEST_ROLES, RootCertificate, policy_mark},
    error::PkiError,
    host::{self, HostLogin, login_changes},
};
use crate::objects::{ClusterName, HostName};

/// The policy that the operator's own token needs, with AppRole mounted at `approle`.
pub const OPERATOR_POLICY: &str = include_str!("operator-policy.hcl");

/// The name of the root among a mount's issuers.
const ROOT: &str = "root";

/// Vault, as the operator keeps it.
pub struct VaultPki {
    pub(super) session: Session,
    pub(super) auth_mount: String,
}

/// What a host's agent logs in with. It is told once, and kept nowhere.
#[derive(Debug)]
pub struct HostCredentials {
    /// Where AppRole is mounted.
    pub auth_mount: String,
    /// No secret.
    pub role_id: String,
    /// Wraps the secret id.
    pub wrapping_token: WrappingToken,
    /// How long it can be unwrapped.
    pub ttl: Duration,
}

/// Good once, for a secret id. It is not shown by `Debug`, and wiped when it is dropped.
pub struct WrappingToken(Zeroizing<String>);

impl WrappingToken {
    /// The token, for the file of the agent.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WrappingToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WrappingToken(…)")
    }
}

impl VaultPki {
    /// Over the operator's own login; `auth_mount` is where AppRole is for the hosts' logins.
    pub fn new(session: Session, auth_mount: &str) -> Self {
        Self { session, auth_mount: auth_mount.to_owned() }
    }

    /// Makes a cluster's PKI true, and tells its root.
    pub async fn make_cluster(&self, desired: &ClusterPki) -> Result<RootCertificate, PkiError> {
        let observed = self.observe_cluster(&desired.spec.cluster).await?;
        self.apply_all(&desired.changes(&observed)?).await?;
        let root = match observed.root {
            Some(root) => Some(root),
            None => self.root(&desired.mount()).await?,
        };
        let path = desired.mount();
        root.ok_or_else(|| {
            VaultError::Unexpected { path, detail: "the root CA that was made is not there".to_owned() }.into()
        })
    }

    /// Makes a host's login true: what it may do counts at once, for the tokens that it has too.
    pub async fn make_host(&self, desired: &HostLogin) -> Result<(), PkiError> {
        let observed = self.observe_host(&desired.host).await?;
        self.apply_all(&desired.changes(&observed)?).await
    }

    async fn apply_all(&self, changes: &[Change]) -> Result<(), PkiError> {
        for change in changes {
            self.apply(change).await?;
        }
        Ok(())
    }

    /// Takes one step. After a failure, whether it was done or not, observing again tells how to go on.
    pub async fn apply(&self, change: &Change) -> Result<(), PkiError> {
        match change {
            Change::EnableMount { mount, owner, max_lease_ttl } => {
                let config = json!({"max_lease_ttl": max_lease_ttl.to_string()});
                let body = json!({"type": "pki", "description": owner.to_string(), "config": config});
                self.write(&format!("sys/mounts/{mount}"), body).await
            }
            Change::TuneMount { mount, max_lease_ttl } => {
                let body = json!({"max_lease_ttl": max_lease_ttl.to_string()});
                self.write(&format!("sys/mounts/{mount}/tune"), body).await
            }
            Change::GenerateRoot { mount, common_name, ttl } => {
                let body = json!({
                    "common_name": common_name, "issuer_name": ROOT, "ttl": ttl, "key_type": "ec", "key_bits": 256,
                });
                self.write(&format!("{mount}/root/generate/internal"), body).await
            }
            Change::MakeRootDefault { mount } => {
                self.write(&format!("{mount}/config/issuers"), json!({"default": ROOT})).await
            }
            Change::WriteRole { mount, role, settings } => {
                self.write(&format!("{mount}/roles/{role}"), to_json(settings)?).await
            }
            Change::DeleteRole { mount, role } => self.delete(&format!("{mount}/roles/{role}")).await,
            Change::WritePolicy { name, text } => {
                self.write(&format!("sys/policies/acl/{name}"), json!({"policy": text})).await
            }
            // Without policies: what it may do is not taken away where somebody made it a moment ago.
            Change::CreateEntity { name, owner } => {
                let metadata = json!({"owned-by": "goliath", "host": owner.name, "uid": owner.uid});
                self.write_entity(name, json!({"metadata": metadata})).await
            }
            Change::SetPolicies { entity, policies } => self.write_entity(entity, json!({"policies": policies})).await,
            Change::WriteAppRole { name, role_id, settings } => {
                let mut body = to_json(settings)?;
                body["role_id"] = json!(role_id);
                self.write(&self.app_role_path(name), body).await
            }
            Change::LinkEntity { entity: name, role_id, accessor } => {
                let entity = self.entity(name).await?.ok_or_else(|| VaultError::Unexpected {
                    path: format!("identity/entity/name/{name}"),
                    detail: "it was there and is gone; the next run makes it again".to_owned(),
                })?;
                let body = json!({"name": role_id, "canonical_id": entity.id, "mount_accessor": accessor});
                self.write("identity/entity-alias", body).await
            }
            Change::UnlinkEntity { alias, .. } => self.delete(&format!("identity/entity-alias/id/{alias}")).await,
        }?;
        info!("in Vault: {change}");
        Ok(())
    }

    /// Gives a host its first credentials, and makes its login where it lacks; what it may do is left as it is. The secret
    /// id in them never passes through the operator.
    pub async fn issue_host_credentials(
        &self,
        host: &HostName,
        uid: Uuid,
        ttl: Duration,
    ) -> Result<HostCredentials, PkiError> {
        self.make_login(host, uid).await?;
        if !self.secret_id_accessors(host).await?.is_empty() {
            return Err(PkiError::AlreadyIssued(host.clone()));
        }
        self.wrap_secret_id(host, uid, ttl).await
    }

    /// Gives a host new credentials, then destroys the earlier ones. Tokens that it has stay good for their time, at most
    /// a day: [`VaultPki::forget_host`] ends them.
    pub async fn rotate_host_credentials(
        &self,
        host: &HostName,
        uid: Uuid,
        ttl: Duration,
    ) -> Result<HostCredentials, PkiError> {
        self.make_login(host, uid).await?;
        let earlier = self.secret_id_accessors(host).await?;
        let credentials = self.wrap_secret_id(host, uid, ttl).await?;
        for accessor in earlier {
            let path = format!("{}/secret-id-accessor/destroy", self.app_role_path(&host::login_name(host)));
            self.write(&path, json!({"secret_id_accessor": accessor})).await?;
        }
        Ok(credentials)
    }

    async fn make_login(&self, host: &HostName, uid: Uuid) -> Result<(), PkiError> {
        let observed = self.observe_host(host).await?;
        self.apply_all(&login_changes(host, uid, &observed)?).await
    }

    /// Ends a host's login: its tokens are worth nothing from the first step on. What is not this very host's, by its
    /// uid, stays; nothing to do is fine.
    pub async fn forget_host(&self, host: &HostName, uid: Uuid) -> Result<(), PkiError> {
        let observed = self.observe_host(host).await?;
        let name = host::login_name(host);
        let entity = observed.has_entity_of(host, uid);
        // Switched off first: an AppRole without its entity could log in, and Vault would make it another.
        if entity {
            self.write_entity(&name, json!({"policies": [], "disabled": true})).await?;
        }
        if observed.has_app_role_of(host, uid) {
            self.delete(&self.app_role_path(&name)).await?;
        }
        if entity {
            self.delete(&format!("identity/entity/name/{name}")).await?;
            info!(%host, "in Vault: the host's login is gone");
        }
        Ok(())
    }

    /// Destroys a cluster's PKI with its root, for ever: every certificate of the cluster loses its meaning. What is not of
    /// this very authority, by its uid, stays; nothing to do is fine.
    pub async fn delete_cluster(&self, cluster: &ClusterName, uid: Uuid) -> Result<(), PkiError> {
        let owner = cluster::owner(cluster, uid);
        for role in GUEST_ROLES {
            let name = cluster::policy_name(cluster, role);
            if self.policy(&name).await?.is_some_and(|text| policy_mark(&text).is_of(&owner)) {
                self.delete(&format!("sys/policies/acl/{name}")).await?;
            }
        }
        let mount = cluster::mount(cluster);
        if self.mount(&mount).await?.is_some_and(|(mark, _)| mark.is_of(&owner)) {
            self.require_whole(&mount).await?;
            let path = format!("sys/mounts/{mount}");
            self.session.delete_to_the_end(&path).await.map_err(|error| PkiError::of_call(&path, error))?;
            info!(%cluster, "in Vault: the cluster's PKI is gone");
        }
        Ok(())
    }

    /// Refuses a mount whose removal was begun: Vault answers nothing below it.
    async fn require_whole(&self, mount: &str) -> Result<(), PkiError> {
        let path = format!("{mount}/issuers");
        match self.session.list(&path).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused { code: 404, errors }) if errors.iter().any(|error| error.contains("tainted")) => {
                Err(PkiError::Interrupted { mount: mount.to_owned() })
            }
            Err(error) => Err(PkiError::of_call(&path, error)),
        }
    }

    async fn secret_id_accessors(&self, host: &HostName) -> Result<Vec<String>, PkiError> {
        self.list(&format!("{}/secret-id", self.app_role_path(&host::login_name(host)))).await
    }

    async fn wrap_secret_id(&self, host: &HostName, uid: Uuid, ttl: Duration) -> Result<HostCredentials, PkiError> {
        let path = format!("{}/secret-id", self.app_role_path(&host::login_name(host)));
        let wrapped =
            self.session.write_wrapped(&path, json!({}), ttl).await.map_err(|error| PkiError::of_call(&path, error))?;
        Ok(HostCredentials {
            auth_mount: self.auth_mount.clone(),
            role_id: host::role_id(host, uid),
            wrapping_token: WrappingToken(wrapped.token),
            ttl: Duration::from_secs(wrapped.ttl),
        })
    }

    pub(super) fn app_role_path(&self, name: &str) -> String {
        format!("auth/{}/role/{name}", self.auth_mount)
    }

    async fn write_entity(&self, name: &str, body: Value) -> Result<(), PkiError> {
        self.write(&format!("identity/entity/name/{name}"), body).await
    }

    async fn write(&self, path: &str, body: Value) -> Result<(), PkiError> {
        self.session.write(path, body).await.map_err(|error| PkiError::of_call(path, error))
    }

    async fn delete(&self, path: &str) -> Result<(), PkiError> {
        self.session.delete(path).await.map_err(|error| PkiError::of_call(path, error))
    }
}

fn to_json(settings: &impl serde::Serialize) -> Result<Value, PkiError> {
    serde_json::to_value(settings)
        .map_err(|reason| VaultError::Unexpected { path: "settings".to_owned(), detail: reason.to_string() }.into())
}
