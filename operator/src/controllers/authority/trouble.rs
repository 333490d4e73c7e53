//! An issuer that is away is asked by one, not by all who want something of it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::pki::PkiError;

/// What is known of an issuer: whether it can be used now.
#[derive(Debug)]
pub(super) struct Trouble {
    /// For so long after a failure nobody asks.
    quiet: Duration,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    error: PkiError,
    until: Instant,
}

impl Trouble {
    /// None is known.
    pub(super) fn none(quiet: Duration) -> Self {
        Self { quiet, known: Mutex::new(None) }
    }

    /// Asks the issuer, unless another learnt a moment ago that it cannot be used.
    pub(super) async fn unless<T>(&self, call: impl Future<Output = Result<T, PkiError>>) -> Result<T, PkiError> {
        if let Some(error) = self.now() {
            return Err(error);
        }
        let result = call.await;
        self.note(result.as_ref().err());
        result
    }

    /// What another learnt a moment ago.
    pub(super) fn now(&self) -> Option<PkiError> {
        let now = Instant::now();
        self.known().filter(|known| now < known.until).map(|known| known.error)
    }

    /// When to come back.
    pub(super) fn pause(&self) -> Duration {
        let left = self.known().map(|known| known.until.saturating_duration_since(Instant::now()));
        left.unwrap_or(self.quiet) + self.quiet.mul_f64(fastrand::f64())
    }

    fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: Option<&PkiError>) {
        let error = error.filter(|error| error.is_of_issuer());
        let known = error.map(|error| Known { error: error.clone(), until: Instant::now() + self.quiet });
        let before = std::mem::replace(&mut *self.known.lock().unwrap_or_else(PoisonError::into_inner), known);
        match (before, error) {
            (None, Some(error)) => warn!(reason = error.reason(), "an issuer cannot be used: {error}"),
            (Some(_), None) => info!("an issuer can be used again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use goliath_vault::VaultError;

    use super::*;

    #[tokio::test]
    async fn an_issuer_that_is_away_is_left_alone_for_a_while() {
        let sealed = PkiError::from(VaultError::Sealed { address: "https://vault.example:8200".to_owned() });
        let away = async || Err::<i32, _>(sealed.clone());
        let quiet = Trouble::none(Duration::from_hours(1));
        assert_eq!(quiet.unless(away()).await, Err(sealed.clone()));
        assert_eq!(quiet.unless(async { Ok(1) }).await, Err(sealed.clone()), "it was asked");
        assert!(quiet.pause() > Duration::from_mins(59));

        let short = Trouble::none(Duration::ZERO);
        assert_eq!(short.unless(away()).await, Err(sealed.clone()));
        assert_eq!(short.unless(async { Ok(1) }).await, Ok(1));
    }

    #[tokio::test]
    async fn trouble_of_one_object_is_nobody_elses() {
        let trouble = Trouble::none(Duration::from_hours(1));
        let forbidden = PkiError::Forbidden { path: "sys/mounts/pki-acme".to_owned() };
        assert_eq!(trouble.unless(async { Err::<i32, _>(forbidden.clone()) }).await, Err(forbidden));
        assert_eq!(trouble.unless(async { Ok(1) }).await, Ok(1));
    }
}
