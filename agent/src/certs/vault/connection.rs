//! Calls to Vault: each with a time limit, each failure told apart.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use reqwest::Url;
use rustify::errors::ClientError as TransportError;
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};
use vaultrs::{
    api::EndpointMiddleware,
    client::{VaultClient, VaultClientSettings},
    error::ClientError,
    sys::ServerStatus,
};
use zeroize::Zeroize as _;

use crate::{certs::issuer::IssueError, config::VaultIssuerConfig};

/// Where Vault is, and how it is spoken to.
pub(super) struct Connection {
    address: String,
    authorities: Option<PathBuf>,
    namespace: Option<String>,
    limit: Duration,
    /// Made for the file of authorities as it was then.
    http: Mutex<Option<(Stamp, reqwest::Client)>>,
}

/// What tells whether a file changed.
pub(super) type Stamp = Option<(SystemTime, u64)>;

pub(super) fn stamp(file: &Path) -> Stamp {
    std::fs::metadata(file).ok().and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())))
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub(super) enum CallError {
    /// Vault understood and said no.
    Refused { code: u16, errors: Vec<String> },
    /// It has nothing to do with the request.
    Issue(IssueError),
}

impl From<IssueError> for CallError {
    fn from(error: IssueError) -> Self {
        Self::Issue(error)
    }
}

/// A client for one call; the token in it is wiped when it is dropped.
pub(super) struct Client(VaultClient);

impl Client {
    pub(super) fn vault(&self) -> &VaultClient {
        &self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.settings.token.zeroize();
        self.0.middle.token.zeroize();
    }
}

impl Connection {
    pub(super) fn new(config: &VaultIssuerConfig) -> Self {
        Self {
            address: config.address.trim_end_matches('/').to_owned(),
            authorities: config.certificate_authorities.clone(),
            namespace: config.namespace.clone(),
            limit: Duration::from_secs(config.time_limit_seconds),
            http: Mutex::new(None),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A client that speaks with this token, or with none.
    pub(super) fn client(&self, token: Option<&str>) -> Result<Client, IssueError> {
        let token = token.unwrap_or_default();
        let url = Url::parse(&self.address).map_err(|reason| self.unreachable(&reason.to_string()))?;
        let http = rustify::clients::reqwest::Client::new(&self.address, self.http()?);
        let settings = VaultClientSettings {
            address: url,
            ca_certs: Vec::new(),
            identity: None,
            timeout: Some(self.limit),
            token: token.to_owned(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: self.namespace.clone(),
            proxy: None,
        };
        let middle = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        Ok(Client(VaultClient { http, middle, settings }))
    }

    /// Connections are shared by all calls, and made anew when the authorities' file changes.
    fn http(&self) -> Result<reqwest::Client, IssueError> {
        let stamp = self.authorities.as_deref().and_then(stamp);
        let mut shared = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_for, client)) = shared.as_ref()
            && *made_for == stamp
        {
            return Ok(client.clone());
        }
        let client = self.new_http()?;
        *shared = Some((stamp, client.clone()));
        Ok(client)
    }

    fn new_http(&self) -> Result<reqwest::Client, IssueError> {
        // The configuration alone says where a token goes: no redirect, no proxy of the environment.
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(self.limit)
            .pool_idle_timeout(Duration::from_secs(30));
        if self.address.starts_with("http://") {
            builder = builder.tls_certs_only(Vec::new());
        } else if let Some(file) = &self.authorities {
            let misconfigured = |detail| IssueError::Misconfigured { file: file.clone(), detail };
            let content = std::fs::read(file).map_err(|reason| misconfigured(format!("cannot be read: {reason}")))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&content)
                .map_err(|reason| misconfigured(format!("holds no certificates in PEM: {reason}")))?;
            if authorities.is_empty() {
                return Err(misconfigured("holds no certificates in PEM".to_owned()));
            }
            builder = builder.tls_certs_only(authorities);
        }
        builder.build().map_err(|reason| self.unreachable(&reason.to_string()))
    }

    /// Runs a call of `vaultrs` within the time limit. The library logs what it does, requests' paths and Vault's answers
    /// among it: that is not for the agent's log.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>> + Send,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(self.limit, call.with_subscriber(NoSubscriber::default())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.explain(error)),
            Err(_) => Err(self.slow().into()),
        }
    }

    /// What `sys/health` says.
    pub(super) async fn health(&self) -> Result<(), IssueError> {
        let client = self.client(None)?;
        let address = self.address.clone();
        match self.within(vaultrs::sys::status(client.vault())).await {
            Ok(ServerStatus::OK | ServerStatus::STANDBY | ServerStatus::PERFSTANDBY) => Ok(()),
            Ok(ServerStatus::SEALED) => Err(IssueError::Sealed { address }),
            Ok(ServerStatus::UNINITIALIZED) => Err(IssueError::Uninitialized { address }),
            Ok(other) => Err(self.unreachable(&format!("its health is {other:?}"))),
            Err(CallError::Issue(error)) => Err(error),
            Err(CallError::Refused { code, .. }) => Err(self.unreachable(&format!("its health is status {code}"))),
        }
    }

    fn slow(&self) -> IssueError {
        IssueError::Slow { address: self.address.clone(), limit: self.limit }
    }

    fn unreachable(&self, detail: &str) -> IssueError {
        IssueError::Unreachable { address: self.address.clone(), detail: detail.to_owned() }
    }

    fn explain(&self, error: ClientError) -> CallError {
        match error {
            ClientError::APIError { code: 503, errors } if errors.iter().any(|error| error.contains("sealed")) => {
                IssueError::Sealed { address: self.address.clone() }.into()
            }
            ClientError::APIError { code: code @ 502..=504, errors } => {
                self.unreachable(&format!("status {code}: {}", errors.join("; "))).into()
            }
            ClientError::APIError { code, errors } => CallError::Refused { code, errors },
            ClientError::RestClientError { source: TransportError::ServerResponseError { code, .. } } => {
                self.unreachable(&format!("status {code}, and it does not speak as Vault does")).into()
            }
            ClientError::RestClientError {
                source: TransportError::RequestError { source, .. } | TransportError::ResponseError { source },
            } => {
                if source.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout) {
                    return self.slow().into();
                }
                // The last link of the chain says it: "Connection refused", "invalid peer certificate".
                self.unreachable(&source.root_cause().to_string()).into()
            }
            // Never the source of a failure to parse: it may show what was answered.
            other => IssueError::Unexpected { path: self.address.clone(), detail: other.to_string() }.into(),
        }
    }
}
