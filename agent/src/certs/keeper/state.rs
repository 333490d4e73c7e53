//! What is told of a guest's certificates.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use jiff::Timestamp;

use crate::{
    certs::{
        disk::CertificateDisk,
        issuer::IssueError,
        schedule::Urgency,
        volume::{Held, VolumeError},
    },
    spec::{CertificateName, CertificateRequest, IssuerName},
};

/// What a guest's volume holds and what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeeperState {
    /// One for each certificate that the spec asks for.
    pub certificates: BTreeMap<CertificateName, CertificateState>,
    /// How it is with the disk image of them.
    pub disk: DiskState,
}

/// How it is with the disk image, for a guest without virtiofs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DiskState {
    /// The guest has virtiofs.
    #[default]
    NotWanted,
    /// It is not written, or not as new as the certificates; why, if it was tried.
    Pending(Option<Failure>),
    /// It holds what the volume holds.
    Laid(CertificateDisk),
}

/// How it is with one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateState {
    /// The volume does not hold it.
    Missing {
        /// Why the last try did not work; none: it was not tried yet.
        last_error: Option<Failure>,
    },
    /// The volume holds it, it is what the spec asks for, and it is good.
    Valid {
        /// What it says.
        info: CertificateInfo,
        /// What will go wrong if nobody does anything.
        warning: Option<Warning>,
    },
    /// The volume holds one that the spec asked for before.
    Outdated {
        /// What it says.
        info: CertificateInfo,
        /// Why there is no new one; none: it was not tried yet.
        last_error: Option<Failure>,
    },
    /// The volume holds it, and its time is over.
    Expired {
        /// What it says.
        info: CertificateInfo,
        /// Why there is no new one; none: it was not tried yet.
        last_error: Option<Failure>,
    },
}

/// What did not work, and when that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What will go wrong if nobody does anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// `RenewalFails`, then `RenewalLate` after three quarters of the life, then `ExpiresSoon` after nine tenths.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// A certificate in a guest's volume: what `goliath.agent.v1.Certificate` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Its directory in the volume.
    pub name: CertificateName,
    /// Which issuance this is: 1, 2, ….
    pub generation: u64,
    /// Who issued it.
    pub issuer: IssuerName,
    /// Hex pairs with colons.
    pub serial_number: String,
    /// Subject.
    pub common_name: String,
    /// Subject alternative names.
    pub dns_names: BTreeSet<String>,
    /// Subject alternative addresses.
    pub ip_addresses: BTreeSet<IpAddr>,
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last.
    pub not_after: Timestamp,
    /// When the agent means to renew it.
    pub renew_at: Timestamp,
    /// Why the last renewal did not work.
    pub last_error: Option<String>,
    /// PEM: the certificate and its chain.
    pub certificate_chain: String,
}

impl KeeperState {
    pub(super) fn all_missing<'a>(names: impl Iterator<Item = &'a CertificateName>, on_disk: bool) -> Self {
        let missing = || CertificateState::Missing { last_error: None };
        let disk = if on_disk { DiskState::Pending(None) } else { DiskState::NotWanted };
        Self { certificates: names.map(|name| (name.clone(), missing())).collect(), disk }
    }

    /// The disk image that is there, if one is wanted and there is one.
    pub fn disk(&self) -> Option<&CertificateDisk> {
        match &self.disk {
            DiskState::Laid(disk) => Some(disk),
            DiskState::NotWanted | DiskState::Pending(_) => None,
        }
    }

    /// Whether the guest has all that its spec asks for.
    pub fn all_present(&self) -> bool {
        self.certificates.values().all(|state| matches!(state, CertificateState::Valid { .. }))
            && !matches!(self.disk, DiskState::Pending(_))
    }

    /// What the volume holds.
    pub fn infos(&self) -> Vec<CertificateInfo> {
        self.certificates.values().filter_map(|state| state.info().cloned()).collect()
    }

    /// The condition `CertificatesReady`: whether all are present, a reason, and a sentence with what is wrong, the
    /// worst first. One that is present can have a warning: then the reason is that of the warning.
    pub fn condition(&self) -> (bool, &'static str, String) {
        let mut problems: Vec<(u8, &'static str, String)> =
            self.certificates.iter().filter_map(|(name, state)| state.problem(name)).collect();
        if let DiskState::Pending(Some(failure)) = &self.disk {
            problems.push((2, failure.reason, format!("the certificate disk is not as it must be: {failure}")));
        }
        problems.sort();
        let reason = problems.first().map_or("Valid", |(_, reason, _)| reason);
        let message = if problems.is_empty() {
            match self.certificates.len() {
                0 => "no certificates are asked for".to_owned(),
                1 => "the certificate is there and good".to_owned(),
                count => format!("all {count} certificates are there and good"),
            }
        } else {
            problems.iter().map(|(_, _, message)| message.as_str()).collect::<Vec<_>>().join("; ")
        };
        (self.all_present(), reason, message)
    }
}

impl CertificateState {
    /// What the volume holds of it.
    pub fn info(&self) -> Option<&CertificateInfo> {
        match self {
            Self::Missing { .. } => None,
            Self::Valid { info, .. } | Self::Outdated { info, .. } | Self::Expired { info, .. } => Some(info),
        }
    }

    /// How bad it is (0 is worst), a reason and a sentence; none: all is well.
    fn problem(&self, name: &CertificateName) -> Option<(u8, &'static str, String)> {
        let why = |last_error: &Option<Failure>| {
            last_error.as_ref().map_or(("Issuing", "it is being issued".to_owned()), |failure| {
                (failure.reason, failure.message.clone())
            })
        };
        Some(match self {
            Self::Valid { warning: None, .. } => return None,
            Self::Missing { last_error } => {
                let (reason, why) = why(last_error);
                (0, reason, format!("certificate `{name}` is missing: {why}"))
            }
            Self::Expired { info, last_error } => {
                (1, "Expired", format!("certificate `{name}` was over at {}: {}", info.not_after, why(last_error).1))
            }
            Self::Outdated { last_error, .. } => {
                let (reason, why) = why(last_error);
                (2, reason, format!("certificate `{name}` is not what the spec asks for now: {why}"))
            }
            Self::Valid { warning: Some(warning), .. } => (3, warning.reason, warning.message.clone()),
        })
    }
}

impl Failure {
    pub(super) fn of_issuer(error: &IssueError) -> Self {
        Self { reason: error.reason(), message: error.to_string(), at: Timestamp::now() }
    }

    pub(super) fn of_volume(error: &VolumeError) -> Self {
        let reason = match error {
            VolumeError::NotInMemory(_) => "VolumeNotInMemory",
            VolumeError::Step { .. } => "VolumeFailed",
        };
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            message = format!("{message}: {inner}");
            source = inner.source();
        }
        Self { reason, message, at: Timestamp::now() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// What went wrong with a certificate.
#[derive(Clone, Copy)]
pub(super) struct Trouble<'a> {
    pub(super) last_failure: Option<&'a Failure>,
    /// It failed when it was due, not only when somebody asked for it early.
    pub(super) overdue: bool,
}

/// What is to be told of a certificate: pure.
pub(super) fn of(
    request: &CertificateRequest,
    held: Option<&Held>,
    trouble: Trouble<'_>,
    renew_at: Timestamp,
    now: Timestamp,
) -> CertificateState {
    let last_error = trouble.last_failure.cloned();
    let Some(held) = held else { return CertificateState::Missing { last_error } };
    let info = CertificateInfo {
        name: request.name.clone(),
        generation: held.record.issuance,
        issuer: held.record.request.issuer.clone(),
        serial_number: held.leaf.serial_number.clone(),
        common_name: held.leaf.common_names.join(", "),
        dns_names: held.leaf.dns_names.clone(),
        ip_addresses: held.leaf.ip_addresses.clone(),
        not_before: held.leaf.lifetime.not_before,
        not_after: held.leaf.lifetime.not_after,
        renew_at,
        last_error: last_error.as_ref().map(|failure| failure.message.clone()),
        certificate_chain: held.chain.clone(),
    };
    if held.record.request != *request {
        return CertificateState::Outdated { info, last_error };
    }
    let reason = match Urgency::of(held.lifetime(), now) {
        Urgency::Expired => return CertificateState::Expired { info, last_error },
        Urgency::Urgent => Some("ExpiresSoon"),
        Urgency::Late => Some("RenewalLate"),
        Urgency::None if trouble.overdue => Some("RenewalFails"),
        Urgency::None => None,
    };
    let warning = reason.map(|reason| {
        let why = last_error.map_or("it was not renewed yet".to_owned(), |failure| failure.message);
        let message = format!("certificate `{}` is good until {} only: {why}", info.name, info.not_after);
        Warning { reason, message }
    });
    CertificateState::Valid { info, warning }
}
