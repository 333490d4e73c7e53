//! What the status of authorities, and of hosts that go, says.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    objects::{
        CertificateAuthority, CertificateAuthorityStatus, ConditionStatus, Conditions, Guest, ResourceExt as _,
        whole_seconds,
    },
    pki::{AuthorityState, PkiError},
    runtime::events::Severity,
};

/// The issuer holds it as declared.
const READY: &str = "Ready";
/// Hosts may have the certificates of the guests that they run.
const HOSTS_GRANTED: &str = "HostsGranted";
const DELETING: &str = "Deleting";
/// A host that goes has no login any more: once it holds, the host is gone.
const LOGIN_ENDED: &str = "LoginEnded";

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) type_: &'static str,
    pub(super) status: ConditionStatus,
    pub(super) reason: String,
    pub(super) message: String,
    /// Somebody should look.
    pub(super) fault: bool,
}

impl Told {
    /// Whether it says something else than what was told before; another number or name in its words is no news.
    pub(super) fn is_news(&self, conditions: Option<&Conditions>) -> bool {
        let before = conditions.and_then(|conditions| conditions.get(self.type_));
        before.is_none_or(|before| (before.status, before.reason.as_str()) != (self.status, self.reason.as_str()))
    }

    pub(super) fn severity(&self) -> Severity {
        if self.fault { Severity::Warning } else { Severity::Normal }
    }

    pub(super) fn set(self, conditions: &mut Conditions, generation: Option<i64>) {
        let Self { type_, status, reason, message, .. } = self;
        conditions.set(type_, status, &reason, message, generation, Timestamp::now());
    }
}

fn told(type_: &'static str, status: ConditionStatus, reason: &str, message: impl Into<String>) -> Told {
    Told { type_, status, reason: reason.to_owned(), message: message.into(), fault: false }
}

fn fault(type_: &'static str, status: ConditionStatus, error: &PkiError) -> Told {
    Told { fault: true, ..told(type_, status, error.reason(), error.to_string()) }
}

/// It is not what an authority can be.
pub(super) fn refused(reason: &str, message: String) -> Told {
    Told { fault: true, ..told(READY, ConditionStatus::False, reason, message) }
}

/// After an attempt to make it true.
pub(super) fn ready(authority: &CertificateAuthority, made: &Result<AuthorityState, PkiError>) -> Told {
    let was_ready = authority.status.as_ref().is_some_and(|status| {
        let ready = status.conditions.get(READY);
        ready.is_some_and(|ready| {
            ready.status != ConditionStatus::False && ready.observed_generation == authority.metadata.generation
        })
    });
    let issuer = &authority.spec.issuer;
    match made {
        Ok(AuthorityState { mount: Some(mount), .. }) => {
            told(READY, ConditionStatus::True, "Made", format!("issuer {issuer} holds it in {mount}"))
        }
        Ok(AuthorityState { mount: None, .. }) => {
            told(READY, ConditionStatus::True, "Local", format!("each host has issuer {issuer} in its own files"))
        }
        // It was there, and nothing says that it is not.
        Err(error) if was_ready && error.is_of_issuer() => fault(READY, ConditionStatus::Unknown, error),
        Err(error) => fault(READY, ConditionStatus::False, error),
    }
}

/// On its way out, and what it waits for.
pub(super) fn deleting(reason: &str, message: String) -> Vec<Told> {
    vec![going(), told(DELETING, ConditionStatus::True, reason, message)]
}

/// On its way out, and what stands in the way.
pub(super) fn stays(error: &PkiError) -> Vec<Told> {
    vec![going(), fault(DELETING, ConditionStatus::True, error)]
}

fn going() -> Told {
    told(READY, ConditionStatus::False, DELETING, "it is being deleted")
}

/// By the hosts that run its guests and whose logins are not as they should be.
pub(super) fn hosts_granted(failures: &BTreeMap<String, PkiError>) -> Told {
    let Some(first) = failures.values().next() else {
        let message = "each host that runs guests of the cluster may have their certificates";
        return told(HOSTS_GRANTED, ConditionStatus::True, "Granted", message);
    };
    let hosts = some_of(failures.keys().cloned());
    let message = format!("not as it should be on {hosts}: {first}");
    Told { message, ..fault(HOSTS_GRANTED, ConditionStatus::False, first) }
}

/// A host that goes is still needed.
pub(super) fn guests_remain(guests: &[Arc<Guest>]) -> Told {
    let names = some_of(guests.iter().map(|guest| guest.name_any()));
    told(LOGIN_ENDED, ConditionStatus::False, "GuestsRemain", format!("guests are still bound to it: {names}"))
}

/// An issuer would still let the host log in.
pub(super) fn login_stays(error: &PkiError) -> Told {
    fault(LOGIN_ENDED, ConditionStatus::False, error)
}

/// Whether it is told that nothing is in the way.
pub(super) fn tells_granted(authority: &CertificateAuthority) -> bool {
    authority.status.as_ref().is_some_and(|status| status.conditions.is_true(HOSTS_GRANTED))
}

/// What the issuer holds.
pub(super) fn show(status: &mut CertificateAuthorityStatus, made: &AuthorityState) {
    status.mount.clone_from(&made.mount);
    status.certificate = made.root.as_ref().map(|root| root.certificate.clone());
    status.not_after = made.root.as_ref().map(|root| whole_seconds(root.not_after));
}

/// The first few, and how many more.
pub(super) fn some_of(names: impl Iterator<Item = String>) -> String {
    const FEW: usize = 3;
    let names: Vec<_> = names.collect();
    let few = names.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(FEW) {
        0 => few,
        more => format!("{few} and {more} more"),
    }
}
