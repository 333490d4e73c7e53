//! What hosts' logins may do: have certificates of the guests that are bound to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use crate::{
    objects::{CertificateAuthority, Guest, Host, HostName, IssuerName},
    pki::{Grant, HostLogin, PkiError},
    runtime::Change,
};

/// The login that a host shall have at an issuer, by the guests that are bound to it. A guest that is being deleted still
/// runs.
pub(super) fn login(
    host: &Host,
    guests: &[Arc<Guest>],
    issuer: &IssuerName,
    authority: impl Fn(&str) -> Option<Arc<CertificateAuthority>>,
) -> Result<HostLogin, PkiError> {
    let (name, uid) = identity(host)?;
    let is_here =
        |grant: &Grant| authority(grant.cluster.as_str()).is_some_and(|authority| authority.spec.issuer == *issuer);
    Ok(HostLogin { host: name, uid, grants: guests.iter().map(|guest| grant(guest)).filter(is_here).collect() })
}

/// By which a login is named and marked.
pub(super) fn identity(host: &Host) -> Result<(HostName, Uuid), PkiError> {
    let invalid = |text: Option<&str>| PkiError::NoUid(text.unwrap_or_default().to_owned());
    let (name, uid) = (host.metadata.name.as_deref(), host.metadata.uid.as_deref());
    Ok((
        name.and_then(|name| name.parse().ok()).ok_or_else(|| invalid(name))?,
        uid.and_then(|uid| uid.parse().ok()).ok_or_else(|| invalid(uid))?,
    ))
}

fn grant(guest: &Guest) -> Grant {
    Grant { cluster: guest.spec.cluster.clone(), role: guest.spec.role }
}

/// The hosts whose logins a change of a guest concerns: none for most, since what changes is a status.
pub(super) fn moved(change: &Change<Guest>) -> BTreeSet<HostName> {
    let place = |guest: Option<&Arc<Guest>>| guest.and_then(|guest| Some((guest.spec.host()?.clone(), grant(guest))));
    let (old, new) = (place(change.old.as_ref()), place(change.new.as_ref()));
    if old == new {
        return BTreeSet::new();
    }
    [old, new].into_iter().flatten().map(|(host, _)| host).collect()
}

/// Whose guests these are.
pub(super) fn clusters(guests: &[Arc<Guest>]) -> BTreeSet<String> {
    guests.iter().map(|guest| guest.spec.cluster.to_string()).collect()
}

/// Why hosts' logins are not as they should be, by host; most of the time it is empty.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<String, PkiError>>);

impl Failures {
    /// Notes how an attempt ended; tells whether that is news.
    pub(super) fn note(&self, host: &str, attempt: &Result<(), PkiError>) -> bool {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match attempt {
            Ok(()) => failures.remove(host).is_some(),
            Err(error) => failures.insert(host.to_owned(), error.clone()).as_ref() != Some(error),
        }
    }

    /// The host is gone.
    pub(super) fn forget(&self, host: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// Those of some hosts.
    pub(super) fn of(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, PkiError> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failures.into_iter().filter(|(host, _)| wanted(host)).collect()
    }
}
