//! Requests that `vaultrs` has no function for, over its client and with the session's token.

use std::time::Duration;

use rustify::{
    endpoint::Endpoint,
    enums::{RequestMethod, RequestType, ResponseType},
    errors::ClientError,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use vaultrs::api;
use zeroize::Zeroizing;

use crate::{
    error::{CallError, VaultError},
    session::{Session, Token},
};

/// What Vault answered, kept by it for whoever brings the token.
#[derive(Deserialize)]
pub struct Wrapped {
    /// Good once.
    pub token: Zeroizing<String>,
    /// How many seconds it lasts.
    pub ttl: u64,
}

/// A request.
#[derive(Clone)]
struct Call {
    method: RequestMethod,
    path: String,
    body: Body,
    /// How long the answer is kept for whoever unwraps it.
    wrap: Option<Duration>,
}

#[derive(Clone)]
enum Body {
    None,
    Json(Value),
    /// See [`Session::delete_to_the_end`].
    Unread,
}

/// More than servers buffer, and less than Go's reads away behind an answer to keep the connection.
const UNREAD: usize = 128 << 10;

impl Endpoint for Call {
    type Response = Value;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        self.method.clone()
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(match &self.body {
            Body::None => None,
            Body::Json(body) => Some(body.to_string().into_bytes()),
            Body::Unread => Some(vec![b'-'; UNREAD]),
        })
    }
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<String>,
}

impl Session {
    /// What is there; none where nothing is.
    pub async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, CallError> {
        self.exchange_data(RequestMethod::GET, path).await
    }

    /// The names below a path; none where nothing is.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, CallError> {
        let found: Option<Keys> = self.exchange_data(RequestMethod::LIST, path).await?;
        Ok(found.map(|found| found.keys).unwrap_or_default())
    }

    /// Makes or changes what is there.
    pub async fn write(&self, path: &str, body: Value) -> Result<(), CallError> {
        let call = Call { method: RequestMethod::POST, path: path.to_owned(), body: Body::Json(body), wrap: None };
        self.exchange(call).await.map(drop)
    }

    /// Removes what is there; most of Vault's paths take it well if nothing is.
    pub async fn delete(&self, path: &str) -> Result<(), CallError> {
        let call = Call { method: RequestMethod::DELETE, path: path.to_owned(), body: Body::None, wrap: None };
        self.exchange(call).await.map(drop)
    }

    /// Removes what is there even where this process ends meanwhile: what Vault began it ends.
    ///
    /// Vault gives a request up when its client goes away. A server of Go notices that only once it has read the whole
    /// request, and of a removal Vault reads no more than tells that it is no JSON: so this one has a body.
    pub async fn delete_to_the_end(&self, path: &str) -> Result<(), CallError> {
        let call = Call { method: RequestMethod::DELETE, path: path.to_owned(), body: Body::Unread, wrap: None };
        self.exchange(call).await.map(drop)
    }

    /// Writes, and has Vault keep the answer for whoever unwraps it first.
    pub async fn write_wrapped(&self, path: &str, body: Value, ttl: Duration) -> Result<Wrapped, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            wrap_info: Wrapped,
        }
        let call = Call { method: RequestMethod::POST, path: path.to_owned(), body: Body::Json(body), wrap: Some(ttl) };
        let answer: Answer = parse(path, self.exchange(call).await?)?;
        Ok(answer.wrap_info)
    }

    async fn exchange_data<T: DeserializeOwned>(
        &self,
        method: RequestMethod,
        path: &str,
    ) -> Result<Option<T>, CallError> {
        let call = Call { method, path: path.to_owned(), body: Body::None, wrap: None };
        match self.exchange(call).await {
            Ok(mut answer) => Ok(Some(parse(path, answer.get_mut("data").map(Value::take).unwrap_or_default())?)),
            // Where nothing is Vault says no more than that; it has words where nothing can be.
            Err(CallError::Refused { code: 404, errors }) if errors.is_empty() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn exchange(&self, call: Call) -> Result<Value, CallError> {
        let token = self.token(None).await?;
        let answer = self.send(&token, call.clone()).await;
        if matches!(answer, Err(CallError::Refused { code: 403, .. })) && !self.connection().accepts(&token).await {
            // Revoked or expired: it is the token that Vault refuses, not the request.
            let token = self.token(Some(token.epoch())).await?;
            return self.send(&token, call).await;
        }
        answer
    }

    async fn send(&self, token: &Token, call: Call) -> Result<Value, CallError> {
        let connection = self.connection();
        let mut client = connection.client(Some(token.value()))?;
        client.0.middle.wrap = call.wrap.map(|ttl| format!("{}s", ttl.as_secs()));
        let answers = call.wrap.is_some() || matches!(call.method, RequestMethod::GET | RequestMethod::LIST);
        if answers {
            connection.within(api::exec_with_no_result(client.vault(), call)).await
        } else {
            connection.within(api::exec_with_empty(client.vault(), call)).await.map(|()| Value::Null)
        }
    }
}

/// The reason of a failure is not told: it may show what was answered.
fn parse<T: DeserializeOwned>(path: &str, answer: Value) -> Result<T, VaultError> {
    serde_json::from_value(answer).map_err(|_| VaultError::Unexpected {
        path: path.to_owned(),
        detail: "Vault's answer does not look as it should: is its version known to work?".to_owned(),
    })
}
