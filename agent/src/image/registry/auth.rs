//! How a registry gets to know who asks: RFC 7617 Basic, and the token service of the distribution project.

use std::{fs::File, io::BufReader};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use docker_credential::{CredentialRetrievalError, DockerCredential};
use http_auth::{ChallengeRef, parse_challenges};
use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Endpoint, ImageError, REQUEST_TIME_LIMIT, may_be_asked, origin};

const TOKEN_LIMIT: u64 = 256 << 10;

/// What the host's configuration has for a registry.
enum Credential {
    Anonymous,
    Password {
        user: String,
        password: Zeroizing<String>,
    },
    /// An OAuth 2 refresh token.
    Identity(Zeroizing<String>),
}

/// What a registry wants.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Endpoint {
    /// The authorization that a registry asks for by its challenges.
    pub(super) async fn answer(&self, challenges: &[String], path: &str) -> Result<HeaderValue, ImageError> {
        let challenge = challenges.iter().find_map(|text| understood(text));
        match (challenge, self.credential().await?) {
            (Some(Challenge::Basic), Credential::Password { user, password }) => basic(&user, &password),
            (Some(Challenge::Bearer { realm, service }), credential) => {
                self.token(&realm, service.as_deref(), &credential).await
            }
            (Some(Challenge::Basic), _) => Err(self.unauthorized(
                path,
                "it wants a user and a password, and the file of images.credentials has none for it",
            )),
            (None, _) => Err(self.unauthorized(path, "it wants a kind of login that is neither Basic nor Bearer")),
        }
    }

    fn unauthorized(&self, path: &str, reason: &str) -> ImageError {
        ImageError::Unauthorized {
            registry: self.registry.clone(),
            what: format!("{}/{path}", self.repository),
            reason: reason.to_owned(),
        }
    }

    /// Read anew each time, so that a changed file holds at once. A credential helper is a program and may take time.
    async fn credential(&self) -> Result<Credential, ImageError> {
        let Some(path) = self.credentials.clone() else { return Ok(Credential::Anonymous) };
        let wrong = |reason: super::super::error::Cause| ImageError::Misconfigured {
            what: format!("images.credentials ({}) cannot be used for {}", path.display(), self.registry),
            source: Some(reason),
        };
        let (file, registry) = (path.clone(), self.registry.clone());
        let read = tokio::task::spawn_blocking(move || match File::open(&file) {
            Ok(file) => docker_credential::get_credential_from_reader(BufReader::new(file), &registry)
                .map_err(|reason| describe(&reason)),
            Err(reason) => Err(Some(reason.to_string())),
        });
        match tokio::time::timeout(REQUEST_TIME_LIMIT, read).await {
            Err(elapsed) => Err(wrong(elapsed.into())),
            Ok(Err(lost)) => Err(ImageError::lost_thread(lost)),
            Ok(Ok(Err(None))) => Ok(Credential::Anonymous),
            Ok(Ok(Err(Some(reason)))) => Err(wrong(reason.into())),
            Ok(Ok(Ok(DockerCredential::IdentityToken(token)))) => Ok(Credential::Identity(token.into())),
            Ok(Ok(Ok(DockerCredential::UsernamePassword(user, password)))) => {
                Ok(Credential::Password { user, password: password.into() })
            }
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credential: &Credential,
    ) -> Result<HeaderValue, ImageError> {
        let failed = |reason: super::super::error::Cause| {
            ImageError::unavailable(format!("the token service of {} gives no token", self.registry), reason)
        };
        let mut url = Url::parse(realm).map_err(|reason| failed(reason.into()))?;
        if !may_be_asked(&url, &self.plain_http) {
            return Err(ImageError::Misconfigured {
                what: format!(
                    "{} sends credentials to {} without TLS: add it to images.plain_http to allow that",
                    self.registry,
                    origin(&url)
                ),
                source: None,
            });
        }
        let scope = format!("repository:{}:pull", self.repository);
        let fields = [("service", service.unwrap_or_default()), ("scope", &scope)];
        let request = match credential {
            Credential::Identity(token) => {
                let form = Zeroizing::new(form(
                    &[
                        &fields[..],
                        &[("grant_type", "refresh_token"), ("client_id", "goliath-agent"), ("refresh_token", token)],
                    ]
                    .concat(),
                ));
                let form_type = "application/x-www-form-urlencoded";
                self.client.post(url).header(reqwest::header::CONTENT_TYPE, form_type).body(form.to_string())
            }
            Credential::Password { user, password } => {
                url.query_pairs_mut().extend_pairs(fields);
                self.client.get(url).header(reqwest::header::AUTHORIZATION, basic(user, password)?)
            }
            Credential::Anonymous => {
                url.query_pairs_mut().extend_pairs(fields);
                self.client.get(url)
            }
        };
        let response =
            request.timeout(REQUEST_TIME_LIMIT).send().await.map_err(|reason| failed(reason.without_url().into()))?;
        let status = response.status();
        if status.is_client_error() {
            return Err(self.complaint(reqwest::StatusCode::UNAUTHORIZED, response, "token").await);
        }
        if !status.is_success() {
            return Err(failed(status.to_string().into()));
        }
        let body = Zeroizing::new(self.limited(response, "token", TOKEN_LIMIT).await?);
        let token = read_token(&body).ok_or_else(|| failed("its answer has no token".into()))?;
        secret(&format!("Bearer {}", *token)).map_err(|reason| failed(reason.into()))
    }
}

/// None: nothing is configured for this registry, which is no failure. Else a reason without a helper's output, which
/// may hold secrets.
fn describe(reason: &CredentialRetrievalError) -> Option<String> {
    match reason {
        CredentialRetrievalError::NoCredentialConfigured => None,
        CredentialRetrievalError::HelperFailure { helper, .. } => Some(format!("{helper} failed")),
        other => Some(other.to_string()),
    }
}

fn understood(text: &str) -> Option<Challenge> {
    let challenges = parse_challenges(text).ok()?;
    let parameter = |challenge: &ChallengeRef<'_>, wanted: &str| {
        challenge
            .params
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.to_unescaped())
    };
    challenges.iter().find_map(|challenge| match challenge.scheme.to_ascii_lowercase().as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: parameter(challenge, "realm")?, service: parameter(challenge, "service") })
        }
        _ => None,
    })
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, ImageError> {
    let encoded = Zeroizing::new(STANDARD.encode(Zeroizing::new(format!("{user}:{password}")).as_bytes()));
    secret(&format!("Basic {}", *encoded))
        .map_err(|reason| ImageError::unavailable("the credentials make no HTTP header", reason))
}

fn secret(text: &str) -> Result<HeaderValue, reqwest::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Fields as a form is sent, by the encoder that queries have.
fn form(fields: &[(&str, &str)]) -> String {
    let Ok(mut url) = Url::parse("https://form.invalid") else { return String::new() };
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

fn read_token(body: &[u8]) -> Option<Zeroizing<String>> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let Answer { token, access_token } = serde_json::from_slice(body).ok()?;
    token.or(access_token).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood_as_registries_write_them() {
        assert_eq!(understood(r#"Basic realm="Registry""#), Some(Challenge::Basic));
        assert_eq!(
            understood(r#"Bearer realm="https://auth.example/token",service="registry.example",scope="a:b:pull""#),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: Some("registry.example".to_owned())
            })
        );
        assert_eq!(understood("Negotiate"), None);
        assert_eq!(understood("Bearer service=x"), None);
        assert_eq!(understood("\"\"\""), None);
    }

    #[test]
    fn a_token_is_read_under_both_of_its_names() {
        assert_eq!(*read_token(br#"{"token":"a"}"#).unwrap(), "a");
        assert_eq!(*read_token(br#"{"access_token":"b","expires_in":60}"#).unwrap(), "b");
        assert!(read_token(b"{}").is_none());
    }

    #[test]
    fn a_credential_is_never_shown() {
        assert!(!format!("{:?}", basic("user", "hunter2").unwrap()).contains(&STANDARD.encode("user:hunter2")));
    }

    #[test]
    fn a_form_is_encoded() {
        assert_eq!(form(&[("a", "1 & 2"), ("b", "ü")]), "a=1+%26+2&b=%C3%BC");
    }
}
