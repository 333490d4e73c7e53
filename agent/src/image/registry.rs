//! Registries: the OCI distribution specification's reading half.
//!
//! `oci-client` reads references for us. Its transfers are not used: it reads manifests and tokens of any length into
//! memory, follows a registry to wherever it points with the credentials, and does not tell a failed login from none.

mod auth;
mod download;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use tracing::warn;

use super::{
    ImageError,
    manifest::{ACCEPTED, CONFIG_LIMIT, Descriptor, MANIFEST_LIMIT},
};
use crate::{
    config::ImageConfig,
    spec::{Digest, ImageReference},
};

const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(10);
/// Without a byte received.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// For manifests, configurations and tokens: small things.
const REQUEST_TIME_LIMIT: Duration = Duration::from_mins(1);
const REDIRECTS: usize = 5;
const COMPLAINT_LIMIT: u64 = 16 << 10;

/// The way to all registries, as the host's configuration has it.
#[derive(Debug, Clone)]
pub(super) struct Registries {
    client: Client,
    plain_http: Arc<BTreeSet<String>>,
    mirrors: Arc<BTreeMap<String, Vec<String>>>,
    credentials: Option<PathBuf>,
}

/// A repository and the endpoints that serve it: mirrors first, the registry itself last.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    endpoints: Arc<Vec<Endpoint>>,
}

#[derive(Debug)]
struct Endpoint {
    client: Client,
    /// For people, and for credentials: as configured or as in the reference.
    registry: String,
    repository: String,
    /// `https://registry/v2/repository/`
    base: Url,
    plain_http: Arc<BTreeSet<String>>,
    credentials: Option<PathBuf>,
    /// What worked last; it dies with the pull.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registries {
    pub(super) fn new(config: &ImageConfig) -> Result<Self, ImageError> {
        let plain_http: Arc<BTreeSet<String>> = Arc::new(config.plain_http.iter().cloned().collect());
        let mut builder = Client::builder()
            .user_agent(concat!("goliath-agent/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .redirect(redirects(Arc::clone(&plain_http)));
        if let Some(path) = &config.certificate_authorities {
            builder = builder.tls_certs_merge(certificate_authorities(path)?);
        }
        let client = builder.build().map_err(|reason| ImageError::Misconfigured {
            what: "no HTTP client can be made for registries: check images.certificate_authorities".to_owned(),
            source: Some(reason.into()),
        })?;
        Ok(Self {
            client,
            plain_http,
            mirrors: Arc::new(config.mirrors.clone()),
            credentials: config.credentials.clone(),
        })
    }

    pub(super) fn repository(&self, registry: &str, repository: &str) -> Result<Repository, ImageError> {
        let mirrors = self.mirrors.get(registry).into_iter().flatten().map(String::as_str);
        let endpoints =
            mirrors.chain([registry]).map(|host| self.endpoint(host, repository)).collect::<Result<_, _>>()?;
        Ok(Repository { endpoints: Arc::new(endpoints) })
    }

    fn endpoint(&self, registry: &str, repository: &str) -> Result<Endpoint, ImageError> {
        let scheme = if self.plain_http.contains(registry) { "http" } else { "https" };
        // Docker's registry is not at the name that its images have.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let base =
            Url::parse(&format!("{scheme}://{host}/v2/{repository}/")).map_err(|reason| ImageError::Misconfigured {
                what: format!("{registry:?} is not a registry's host and port"),
                source: Some(reason.into()),
            })?;
        Ok(Endpoint {
            client: self.client.clone(),
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            base,
            plain_http: Arc::clone(&self.plain_http),
            credentials: self.credentials.clone(),
            authorization: Mutex::new(None),
        })
    }
}

fn certificate_authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, ImageError> {
    let wrong = |source: super::error::Cause| ImageError::Misconfigured {
        what: format!("images.certificate_authorities cannot be read from {}", path.display()),
        source: Some(source),
    };
    let pem = std::fs::read(path).map_err(|reason| wrong(reason.into()))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|reason| wrong(reason.into()))
}

/// A registry may point elsewhere (object stores), but never from TLS to plain HTTP that was not allowed by name.
fn redirects(plain_http: Arc<BTreeSet<String>>) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS {
            attempt.error(format!("more than {REDIRECTS} redirects"))
        } else if may_be_asked(attempt.url(), &plain_http) {
            attempt.follow()
        } else {
            let refusal = format!("a redirect to {}: plain HTTP is not allowed there", origin(attempt.url()));
            attempt.error(refusal)
        }
    })
}

fn may_be_asked(url: &Url, plain_http: &BTreeSet<String>) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && plain_http.contains(&origin(url)))
}

/// Host, and port where it is not the scheme's.
fn origin(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    }
}

impl Repository {
    /// The bytes of the manifest or index that a reference names. Where it names a digest, they have it.
    pub(super) async fn manifest(&self, reference: &ImageReference) -> Result<Vec<u8>, ImageError> {
        match reference.digest() {
            Some(digest) => self.manifest_by_digest(digest).await,
            None => self.small(&format!("manifests/{}", reference.tag().unwrap_or("latest")), MANIFEST_LIMIT).await,
        }
    }

    pub(super) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.small(&format!("manifests/{digest}"), MANIFEST_LIMIT).await?;
        super::check_digest(&bytes, digest, "manifest")?;
        Ok(bytes)
    }

    /// A configuration.
    pub(super) async fn config(&self, blob: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let bytes = self.small(&format!("blobs/{}", blob.digest), CONFIG_LIMIT).await?;
        super::check_digest(&bytes, &blob.digest, "configuration")?;
        Ok(bytes)
    }

    /// Asks one endpoint after the other; the registry itself has the last word.
    async fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut outcome = Err(ImageError::NotFound { what: path.to_owned() });
        for endpoint in self.endpoints.iter() {
            if let Err(error) = outcome.as_ref().map(|_: &Vec<u8>| ())
                && !matches!(error, ImageError::NotFound { .. })
            {
                warn!(error = %Chain(error), next = endpoint.registry, "a mirror failed");
            }
            outcome = endpoint.small(path, limit).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a ImageError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Endpoint {
    /// Whole, and of at most `limit` bytes.
    async fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut attempts = download::Backoff::new(3);
        loop {
            let fetch = async { self.limited(self.get(path, None).await?, path, limit).await };
            let outcome = tokio::time::timeout(REQUEST_TIME_LIMIT, fetch)
                .await
                .unwrap_or_else(|elapsed| Err(self.failed(path, elapsed)));
            match outcome {
                Err(error @ ImageError::Unavailable { .. }) => attempts.pause(error).await?,
                outcome => return outcome,
            }
        }
    }

    async fn limited(&self, mut response: Response, path: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|reason| self.failed(path, reason))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(ImageError::refused(format!("{} sends more than {limit} bytes for {path}", self.registry)));
            }
        }
        Ok(bytes)
    }

    /// A response with a successful status, from `offset` on where one is given.
    async fn get(&self, path: &str, offset: Option<u64>) -> Result<Response, ImageError> {
        let url = self.base.join(path).map_err(|reason| self.failed(path, reason))?;
        let mut response = self.send(&url, path, offset).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges: Vec<String> = response
                .headers()
                .get_all(WWW_AUTHENTICATE)
                .iter()
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect();
            let authorization = self.answer(&challenges, path).await?;
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
            response = self.send(&url, path, offset).await?;
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(self.complaint(status, response, path).await),
        }
    }

    async fn send(&self, url: &Url, path: &str, offset: Option<u64>) -> Result<Response, ImageError> {
        let mut request = self.client.get(url.clone());
        if path.starts_with("manifests/") {
            request = request.header(ACCEPT, ACCEPTED);
        }
        if let Some(authorization) = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(offset) = offset {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        request.send().await.map_err(|reason| self.failed(path, reason))
    }

    fn failed(&self, path: &str, reason: impl Into<super::error::Cause>) -> ImageError {
        ImageError::unavailable(format!("{} does not give {}/{path}", self.registry, self.repository), reason)
    }

    /// What an unsuccessful answer means.
    async fn complaint(&self, status: StatusCode, response: Response, path: &str) -> ImageError {
        let said = match tokio::time::timeout(REQUEST_TIME_LIMIT, self.limited(response, path, COMPLAINT_LIMIT)).await {
            Ok(Ok(body)) => registry_message(&body),
            _ => None,
        };
        let reason = said.map_or_else(|| status.to_string(), |said| format!("{status}: {said}"));
        let what = format!("{}/{path}", self.repository);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ImageError::Unauthorized {
                registry: self.registry.clone(),
                what,
                reason: format!("{reason}; check the credentials that images.credentials has for it"),
            },
            StatusCode::NOT_FOUND => ImageError::NotFound { what: format!("{}/{what}", self.registry) },
            StatusCode::RANGE_NOT_SATISFIABLE => {
                ImageError::refused(format!("{} has fewer bytes of {path} than its manifest states", self.registry))
            }
            _ => self.failed(path, reason),
        }
    }
}

/// The first message of an error answer, for people.
fn registry_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    let Errors { errors } = serde_json::from_slice(body).ok()?;
    let message = errors.into_iter().next()?.message;
    Some(message.chars().take(200).flat_map(char::escape_debug).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn plain_http_is_allowed_by_name_and_port_only() {
        let allowed = BTreeSet::from(["registry.local:5000".to_owned(), "plain.local".to_owned()]);
        for (text, expected) in [
            ("https://anywhere.example/x", true),
            ("http://registry.local:5000/x", true),
            ("http://registry.local:5001/x", false),
            ("http://registry.local/x", false),
            ("http://plain.local/x", true),
            ("http://plain.local:80/x", true),
            ("ftp://plain.local/x", false),
        ] {
            assert_eq!(may_be_asked(&url(text), &allowed), expected, "{text}");
        }
    }

    #[test]
    fn mirrors_are_asked_in_order_before_the_registry() {
        let config = ImageConfig {
            plain_http: vec!["b:1".to_owned()],
            mirrors: BTreeMap::from([("registry.example".to_owned(), vec!["a.example".to_owned(), "b:1".to_owned()])]),
            ..ImageConfig::default()
        };
        let repository = Registries::new(&config).unwrap().repository("registry.example", "team/tiny").unwrap();
        let bases: Vec<&str> = repository.endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect();
        assert_eq!(
            bases,
            ["https://a.example/v2/team/tiny/", "http://b:1/v2/team/tiny/", "https://registry.example/v2/team/tiny/"]
        );
    }

    #[test]
    fn a_registrys_message_is_shown_without_its_control_characters() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"}]}"#;
        assert_eq!(registry_message(body).unwrap(), "no\\u{1b}[31m");
        assert_eq!(registry_message(b"<html>"), None);
    }
}
