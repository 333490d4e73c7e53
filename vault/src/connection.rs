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

use crate::{
    error::{CallError, VaultError},
    session::Token,
};

/// Where Vault is.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `https://vault.example:8200`.
    pub address: String,
    /// PEM, of Vault's own certificate; none: the system's.
    pub certificate_authorities: Option<PathBuf>,
    /// Of Vault Enterprise; open-source Vault has none.
    pub namespace: Option<String>,
    /// How long Vault may take to answer.
    pub time_limit: Duration,
}

/// Speaks to a Vault.
pub struct Connection {
    address: String,
    authorities: Option<PathBuf>,
    namespace: Option<String>,
    limit: Duration,
    /// Made for the file of authorities as it was then.
    http: Mutex<Option<(Stamp, reqwest::Client)>>,
}

/// What tells whether a file changed.
pub(crate) type Stamp = Option<(SystemTime, u64)>;

pub(crate) fn stamp(file: &Path) -> Stamp {
    std::fs::metadata(file).ok().and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())))
}

/// A client for one call; the token in it is wiped when it is dropped.
pub struct Client(pub(crate) VaultClient);

impl Client {
    /// For the functions of `vaultrs`.
    pub fn vault(&self) -> &VaultClient {
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
    /// Nothing is asked of Vault yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            address: endpoint.address.trim_end_matches('/').to_owned(),
            authorities: endpoint.certificate_authorities,
            namespace: endpoint.namespace,
            limit: endpoint.time_limit,
            http: Mutex::new(None),
        }
    }

    /// Without a slash at the end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client that speaks with this token, or with none.
    pub fn client(&self, token: Option<&str>) -> Result<Client, VaultError> {
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
    fn http(&self) -> Result<reqwest::Client, VaultError> {
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

    fn new_http(&self) -> Result<reqwest::Client, VaultError> {
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
            let misconfigured = |detail| VaultError::Misconfigured { file: file.clone(), detail };
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
    /// among it: that is not for our log.
    pub async fn within<T>(&self, call: impl Future<Output = Result<T, ClientError>> + Send) -> Result<T, CallError> {
        match tokio::time::timeout(self.limit, call.with_subscriber(NoSubscriber::default())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.explain(error)),
            Err(_) => Err(self.slow().into()),
        }
    }

    /// What `sys/health` says.
    pub async fn health(&self) -> Result<(), VaultError> {
        let client = self.client(None)?;
        let address = self.address.clone();
        match self.within(vaultrs::sys::status(client.vault())).await {
            Ok(ServerStatus::OK | ServerStatus::STANDBY | ServerStatus::PERFSTANDBY) => Ok(()),
            Ok(ServerStatus::SEALED) => Err(VaultError::Sealed { address }),
            Ok(ServerStatus::UNINITIALIZED) => Err(VaultError::Uninitialized { address }),
            Ok(other) => Err(self.unreachable(&format!("its health is {other:?}"))),
            Err(CallError::Vault(error)) => Err(error),
            Err(CallError::Refused { code, .. }) => Err(self.unreachable(&format!("its health is status {code}"))),
        }
    }

    /// Whether Vault still knows a token. Every token may ask that of itself by Vault's default policy.
    pub async fn accepts(&self, token: &Token) -> bool {
        match self.client(Some(token.value())) {
            Ok(client) => self.within(vaultrs::token::lookup_self(client.vault())).await.is_ok(),
            Err(_) => false,
        }
    }

    fn slow(&self) -> VaultError {
        VaultError::Slow { address: self.address.clone(), limit: self.limit }
    }

    fn unreachable(&self, detail: &str) -> VaultError {
        VaultError::Unreachable { address: self.address.clone(), detail: detail.to_owned() }
    }

    fn explain(&self, error: ClientError) -> CallError {
        match error {
            ClientError::APIError { code: 503, errors } if errors.iter().any(|error| error.contains("sealed")) => {
                VaultError::Sealed { address: self.address.clone() }.into()
            }
            ClientError::APIError { code: code @ 502..=504, errors } => {
                self.unreachable(&format!("status {code}: {}", errors.join("; "))).into()
            }
            ClientError::APIError { code: 429, errors } => {
                VaultError::Busy { address: self.address.clone(), detail: errors.join("; ") }.into()
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
            other => VaultError::Unexpected { path: self.address.clone(), detail: other.to_string() }.into(),
        }
    }
}
