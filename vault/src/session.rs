//! A login to Vault: one task owns the token, renews it, and logs in again when it must. Whoever needs a
//! token asks the task, so however many ask, one login is under way.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{info, warn};
use vaultrs::api::AuthInfo;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    connection::{Connection, Stamp, stamp},
    error::{CallError, VaultError},
    secret_id::{SecretId, read_token},
};

/// Callers wait for their turn beyond it.
const REQUESTS: usize = 64;
/// How soon a delivered secret id is seen: a wrapping token has a short life of its own.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// A token of Vault.
pub struct Token {
    value: Zeroizing<String>,
    epoch: u64,
}

impl Token {
    /// A secret.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Which login it is of: names a token without telling it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// The task's address.
pub struct Session {
    requests: mpsc::Sender<Request>,
    connection: Arc<Connection>,
}

struct Request {
    /// The login whose token Vault did not take.
    rejected: Option<u64>,
    reply: oneshot::Sender<Result<Arc<Token>, VaultError>>,
}

impl Session {
    /// Starts the task that logs in and keeps the token; Vault may be away. Needs a Tokio runtime. The name stands in the
    /// log.
    pub fn start(name: &str, login: Login, connection: Arc<Connection>) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let keeper = Keeper {
            name: name.to_owned(),
            connection: Arc::clone(&connection),
            method: login,
            login: None,
            logins: 0,
            failures: 0,
            retry: None,
            tried: None,
        };
        // It ends when the session is dropped and its queue closes.
        tokio::spawn(keeper.run(receiver));
        Self { requests, connection }
    }

    /// To the Vault that it logs in to.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A token that is good as far as is known, and not of the login that was rejected.
    pub async fn token(&self, rejected: Option<u64>) -> Result<Arc<Token>, VaultError> {
        let gone = || VaultError::Login {
            address: self.connection.address().to_owned(),
            detail: "the task that logs in has ended; restart this program".to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { rejected, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// How to log in.
pub enum Login {
    /// By AppRole.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// Not a secret.
        role_id: String,
        /// How it is delivered and kept.
        secret_id: SecretId,
    },
    /// By a token that something else puts into a file, and may replace there at any time.
    TokenFile(PathBuf),
}

impl Login {
    /// The file that somebody may have put there.
    fn delivered(&self) -> Stamp {
        match self {
            Self::AppRole { secret_id, .. } => secret_id.delivered(),
            Self::TokenFile(file) => stamp(file),
        }
    }
}

/// A login that succeeded, and how long it lasts.
struct Current {
    token: Arc<Token>,
    lease: Option<Lease>,
    /// The token's file as it was read.
    stamp: Stamp,
}

struct Lease {
    /// What the login gave.
    full: Duration,
    renewable: bool,
    act_at: Instant,
    ends_at: Instant,
}

impl Lease {
    /// None: it never ends.
    fn new(full: Duration, granted: Duration, renewable: bool, now: Instant) -> Option<Self> {
        (granted > Duration::ZERO).then(|| Self {
            full,
            renewable,
            act_at: now + granted.mul_f64(2.0 / 3.0),
            ends_at: now + granted,
        })
    }
}

/// When to look again, by when the lease asks for something and when a login is tried again.
fn wake_at(now: Instant, lease: Option<Instant>, retry: Option<Instant>) -> Instant {
    [lease, retry].into_iter().flatten().fold(now + LOOK_AT_FILES, Instant::min)
}

struct Keeper {
    name: String,
    connection: Arc<Connection>,
    method: Login,
    login: Option<Current>,
    /// How many there were.
    logins: u64,
    failures: u32,
    /// When a login that failed is tried again without being asked for.
    retry: Option<Instant>,
    /// The file that the last try saw: another one is tried at once.
    tried: Stamp,
}

impl Keeper {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        // A wrapping token does not wait for the first guest.
        self.retry = Some(Instant::now());
        loop {
            let lease = self.login.as_ref().and_then(|login| login.lease.as_ref()).map(|lease| lease.act_at);
            let wake = tokio::time::sleep_until(wake_at(Instant::now(), lease, self.retry));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.answer(request, &mut requests).await,
                    None => return,
                },
                () = wake => self.work().await,
            }
        }
    }

    /// What nobody asked for: a login at the start, a new secret id or token file, a renewal.
    async fn work(&mut self) {
        let now = Instant::now();
        let delivered = self.method.delivered();
        let changed = delivered.is_some() && delivered != self.tried;
        let retry = self.retry.is_some_and(|retry| retry <= now);
        if changed || retry {
            // A login that lasts is not given up for one that may fail.
            let _ = self.log_in().await;
        } else if self.login.as_ref().and_then(|login| login.lease.as_ref()).is_some_and(|lease| lease.act_at <= now) {
            self.renew().await;
        }
    }

    async fn answer(&mut self, request: Request, requests: &mut mpsc::Receiver<Request>) {
        let rejected = request.rejected;
        if let Some(token) = self.current(rejected) {
            let _ = request.reply.send(Ok(token));
            return;
        }
        let result = self.log_in().await;
        let _ = request.reply.send(result.clone());
        // Whoever asked meanwhile gets what came: a Vault that is slow is not asked once for each of them.
        while let Ok(waiting) = requests.try_recv() {
            let _ = waiting.reply.send(result.clone());
        }
    }

    fn current(&self, rejected: Option<u64>) -> Option<Arc<Token>> {
        let login = self.login.as_ref()?;
        let ended = login.lease.as_ref().is_some_and(|lease| lease.ends_at <= Instant::now());
        let replaced = match &self.method {
            Login::TokenFile(file) => login.stamp != stamp(file),
            Login::AppRole { .. } => false,
        };
        (!ended && !replaced && rejected != Some(login.token.epoch)).then(|| Arc::clone(&login.token))
    }

    async fn log_in(&mut self) -> Result<Arc<Token>, VaultError> {
        self.tried = self.method.delivered();
        let result = match &mut self.method {
            Login::AppRole { mount, role_id, secret_id } => {
                log_in_with_role(&self.connection, mount, role_id, secret_id).await
            }
            Login::TokenFile(file) => log_in_with_file(&self.connection, file).await,
        };
        match result {
            Ok(granted) => {
                self.logins += 1;
                (self.failures, self.retry) = (0, None);
                let token = Arc::new(Token { value: granted.token, epoch: self.logins });
                let lease = Lease::new(granted.lease, granted.lease, granted.renewable, Instant::now());
                info!(vault = %self.name, lease_seconds = granted.lease.as_secs(), "logged in to Vault");
                self.login = Some(Current { token: Arc::clone(&token), lease, stamp: granted.stamp });
                Ok(token)
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                let delay = FIRST_RETRY.saturating_mul(1 << (self.failures - 1).min(16)).min(LONGEST_RETRY);
                self.retry = Some(Instant::now() + delay);
                warn!(vault = %self.name, reason = reason.reason(), "no login to Vault: {reason}");
                Err(reason)
            }
        }
    }

    async fn renew(&mut self) {
        let Some(Current { token, lease: Some(lease), .. }) = &self.login else { return };
        let (token, full, ends_at, renewable) = (Arc::clone(token), lease.full, lease.ends_at, lease.renewable);
        let now = Instant::now();
        if !renewable {
            self.act_later(ends_at, now);
            let _ = self.log_in().await;
            return;
        }
        match self.renew_token(&token).await {
            Ok(auth) => {
                let granted = Duration::from_secs(auth.lease_duration);
                let lease = Lease::new(full, granted, auth.renewable, Instant::now());
                if let Some(login) = &mut self.login {
                    login.lease = lease;
                }
                // Vault shortens what it grants when a token comes to its longest life.
                if granted < full / 2 {
                    let _ = self.log_in().await;
                }
            }
            Err(CallError::Refused { .. }) => {
                self.act_later(ends_at, now);
                let _ = self.log_in().await;
            }
            Err(CallError::Vault(reason)) => {
                warn!(vault = %self.name, reason = reason.reason(), "the token is not renewed: {reason}");
                self.act_later(ends_at, now);
            }
        }
    }

    async fn renew_token(&self, token: &Token) -> Result<AuthInfo, CallError> {
        let client = self.connection.client(Some(token.value()))?;
        let mut auth = self.connection.within(vaultrs::token::renew_self(client.vault(), None)).await?;
        auth.client_token.zeroize();
        Ok(auth)
    }

    /// The next try, well before the token's end or, once that is over, whenever somebody asks.
    fn act_later(&mut self, ends_at: Instant, now: Instant) {
        let left = ends_at.saturating_duration_since(now);
        if let Some(lease) = self.login.as_mut().and_then(|login| login.lease.as_mut()) {
            lease.act_at = now + (left / 4).clamp(FIRST_RETRY, LONGEST_RETRY);
        }
    }
}

/// What a login gave.
struct Granted {
    token: Zeroizing<String>,
    /// Zero: for ever.
    lease: Duration,
    renewable: bool,
    stamp: Stamp,
}

async fn log_in_with_role(
    connection: &Connection,
    mount: &str,
    role_id: &str,
    secret_id: &mut SecretId,
) -> Result<Granted, VaultError> {
    let secret = secret_id.obtain(connection).await?;
    let client = connection.client(None)?;
    let auth = connection
        .within(vaultrs::auth::approle::login(client.vault(), mount, role_id, &secret))
        .await
        .map_err(|error| {
            refused(connection, error, || {
                "Vault does not take the role id and the secret id, which may have expired or been destroyed: deliver a \
                 newly wrapped secret id"
                    .to_owned()
            })
        })?;
    Ok(Granted {
        token: Zeroizing::new(auth.client_token),
        lease: Duration::from_secs(auth.lease_duration),
        renewable: auth.renewable,
        stamp: None,
    })
}

async fn log_in_with_file(connection: &Connection, file: &Path) -> Result<Granted, VaultError> {
    let stamp = stamp(file);
    let token = read_token(file)?.ok_or_else(|| VaultError::Login {
        address: connection.address().to_owned(),
        detail: format!("there is no token in {}", file.display()),
    })?;
    let client = connection.client(Some(&token))?;
    let mut found = connection.within(vaultrs::token::lookup_self(client.vault())).await.map_err(|error| {
        refused(connection, error, || {
            format!("Vault does not take the token in {}: put a good one there", file.display())
        })
    })?;
    found.id.zeroize();
    Ok(Granted { token, lease: Duration::from_secs(found.ttl), renewable: found.renewable.unwrap_or(false), stamp })
}

fn refused(connection: &Connection, error: CallError, advice: impl FnOnce() -> String) -> VaultError {
    match error {
        CallError::Vault(error) => error,
        CallError::Refused { code: 400 | 403, .. } => {
            VaultError::Login { address: connection.address().to_owned(), detail: advice() }
        }
        CallError::Refused { code, errors } => VaultError::Login {
            address: connection.address().to_owned(),
            detail: format!("Vault answered with status {code}: {}", errors.join("; ")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivered_file_is_looked_for_every_few_seconds_however_late_the_next_try_is() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for (lease, retry, wake) in [
            (None, None, at(5)),
            (None, Some(at(60)), at(5)),
            (Some(at(3600)), Some(at(60)), at(5)),
            (Some(at(3)), Some(at(60)), at(3)),
            (Some(at(3)), Some(at(1)), at(1)),
        ] {
            assert_eq!(wake_at(now, lease, retry), wake);
        }
    }
}
