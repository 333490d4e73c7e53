//! HashiCorp Vault's PKI engine.
//!
//! The agent makes the key and sends a signing request to `<mount>/sign/<role>`, so a key never crosses the wire. Names
//! go as parameters and in the request, so that a role may take them from either; organisations are the role's, as Vault
//! wants it. Whatever comes back is compared with what was asked for, and thrown away if it differs.

use std::{path::Path, sync::Arc};

use futures::future::BoxFuture;
use goliath_vault::{CallError, Connection, Session, Token};
use tokio::sync::Semaphore;
use vaultrs::{
    api::pki::{requests::SignCertificateRequest, responses::SignCertificateResponse},
    pki::cert::ca,
};

use super::{
    check,
    issuer::{IssueError, IssuedCertificate, Issuer, IssuerHealth, IssuersError, accept},
    key::NewKey,
};
use crate::{
    config::VaultIssuerConfig,
    spec::{CertificateRequest, ClusterName, IssuerName},
};

/// A host that starts a hundred guests does not fall on Vault with all of them at once.
const CONCURRENT_REQUESTS: usize = 8;

/// Vault's PKI engine, with a mount for each cluster.
pub struct VaultIssuer {
    session: Session,
    mount: String,
    permits: Semaphore,
}

impl VaultIssuer {
    /// Starts the task that logs in and keeps the token; Vault may be away. Needs a Tokio runtime.
    pub fn new(name: &IssuerName, config: &VaultIssuerConfig, runtime_directory: &Path) -> Result<Self, IssuersError> {
        let login = config
            .auth
            .login(name.as_str(), runtime_directory)
            .map_err(|source| IssuersError::SecretId { issuer: name.clone(), source })?;
        let connection = Connection::new(config.endpoint());
        let session = Session::start(name.as_str(), login, Arc::new(connection));
        Ok(Self { session, mount: config.mount.clone(), permits: Semaphore::new(CONCURRENT_REQUESTS) })
    }

    async fn sign(&self, cluster: &ClusterName, request: &CertificateRequest) -> Result<IssuedCertificate, IssueError> {
        let mount = self.mount.replace("{cluster}", cluster.as_str());
        let path = format!("{mount}/sign/{}", request.role);
        let unexpected = |detail: String| IssueError::Unexpected { path: path.clone(), detail };
        if !is_role(&request.role) {
            return Err(IssueError::Refused {
                path: mount,
                detail: format!("{:?} cannot be a role's name", request.role),
            });
        }
        let _permit = self.permits.acquire().await.map_err(|reason| unexpected(reason.to_string()))?;
        let key = NewKey::generate().map_err(|reason| unexpected(reason.to_string()))?;
        let signing_request = key.signing_request(request).map_err(|reason| IssueError::Refused {
            path: path.clone(),
            detail: format!("the names do not fit a signing request: {reason}"),
        })?;

        let token = self.session.token(None).await?;
        let mut answer = self.call_sign(&token, &mount, request, &signing_request).await;
        if matches!(answer, Err(CallError::Refused { code: 403, .. }))
            && !self.session.connection().accepts(&token).await
        {
            // Revoked or expired: it is the token that Vault refuses, not the request.
            let token = self.session.token(Some(token.epoch())).await?;
            answer = self.call_sign(&token, &mount, request, &signing_request).await;
        }
        let answer = answer.map_err(|error| explain(&path, error))?;
        let (chain, authorities) = chains(&answer);
        accept(&path, request, key, chain, authorities)
    }

    async fn call_sign(
        &self,
        token: &Token,
        mount: &str,
        request: &CertificateRequest,
        signing_request: &str,
    ) -> Result<SignCertificateResponse, CallError> {
        let client = self.session.connection().client(Some(token.value()))?;
        let mut parameters = SignCertificateRequest::builder();
        // The common name is no DNS name unless it is asked for as one.
        parameters.exclude_cn_from_sans(true).format("pem").ttl(format!("{}s", request.ttl.as_secs()));
        if !request.dns_names.is_empty() {
            parameters.alt_names(request.dns_names.iter().cloned().collect::<Vec<_>>().join(","));
        }
        if !request.ip_addresses.is_empty() {
            let addresses: Vec<String> = request.ip_addresses.iter().map(ToString::to_string).collect();
            parameters.ip_sans(addresses.join(","));
        }
        let call = ca::sign(
            client.vault(),
            mount,
            &request.role,
            signing_request,
            &request.common_name,
            Some(&mut parameters),
        );
        self.session.connection().within(call).await
    }
}

impl Issuer for VaultIssuer {
    fn issue<'a>(
        &'a self,
        cluster: &'a ClusterName,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedCertificate, IssueError>> {
        Box::pin(self.sign(cluster, request))
    }

    fn health(&self) -> BoxFuture<'_, IssuerHealth> {
        Box::pin(async {
            let seen = async {
                self.session.connection().health().await?;
                self.session.token(None).await
            };
            match seen.await {
                Ok(_) => IssuerHealth::ready(format!(
                    "Vault at {} is unsealed and took the login",
                    self.session.connection().address()
                )),
                Err(error) => IssuerHealth::from(&IssueError::Vault(error)),
            }
        })
    }
}

fn explain(path: &str, error: CallError) -> IssueError {
    match error {
        CallError::Vault(error) => error.into(),
        CallError::Refused { code: 403, .. } => IssueError::Forbidden { path: path.to_owned() },
        CallError::Refused { code: 404, errors } => {
            IssueError::NotFound { path: path.to_owned(), detail: errors.join("; ") }
        }
        CallError::Refused { code: 400, errors } => {
            IssueError::Refused { path: path.to_owned(), detail: errors.join("; ") }
        }
        CallError::Refused { code, errors } => IssueError::Unexpected {
            path: path.to_owned(),
            detail: format!("Vault answered with status {code}: {}", errors.join("; ")),
        },
    }
}

/// The leaf with what is between it and the root, and the roots.
fn chains(answer: &SignCertificateResponse) -> (String, String) {
    let mut chain = with_newline(&answer.certificate);
    let mut roots = String::new();
    for authority in answer.ca_chain.iter().flatten() {
        if check::is_root(authority) { &mut roots } else { &mut chain }.push_str(&with_newline(authority));
    }
    if roots.is_empty() {
        // The root is not Vault's: the authority that it knows is what to trust.
        roots = with_newline(&answer.issuing_ca);
    }
    (chain, roots)
}

fn with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

/// As Vault allows it; nothing that could lead to another path.
fn is_role(role: &str) -> bool {
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    role.starts_with(word)
        && role.ends_with(word)
        && role.chars().all(|character| word(character) || "-.".contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_leads_nowhere_else() {
        for good in ["node", "kube-apiserver", "a", "v1.2", "under_score"] {
            assert!(is_role(good), "{good}");
        }
        for bad in ["", "../root", "node/../../sys", "a b", "node?x", "-node", "node-", "nöde", ".."] {
            assert!(!is_role(bad), "{bad}");
        }
    }
}
