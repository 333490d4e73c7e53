//! Secondary indexes of caches: which objects belong to something, without looking at all of them.

use std::{convert::Infallible, fmt, hash::Hash};

use crate::objects::{Certificate, CertificateAuthority, Cluster, Guest, Host, Object};

/// A kind, with the indexes that its cache keeps.
pub trait Indexed: Object {
    /// One of them.
    type Index: fmt::Debug + Copy + Eq + Hash + Send + Sync + 'static;

    /// All of them.
    const INDEXES: &'static [Self::Index];

    /// Under which keys an index finds this object.
    fn keys(&self, index: Self::Index) -> Vec<String>;
}

/// Indexes of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestBy {
    /// By `spec.cluster`.
    Cluster,
    /// By the host of `spec.binding`.
    Host,
    /// By `metadata.uid`, as agents know them.
    Uid,
}

impl Indexed for Guest {
    type Index = GuestBy;
    const INDEXES: &'static [GuestBy] = &[GuestBy::Cluster, GuestBy::Host, GuestBy::Uid];

    fn keys(&self, index: GuestBy) -> Vec<String> {
        match index {
            GuestBy::Cluster => vec![self.spec.cluster.to_string()],
            GuestBy::Host => self.spec.host().map(ToString::to_string).into_iter().collect(),
            GuestBy::Uid => self.metadata.uid.clone().into_iter().collect(),
        }
    }
}

/// Indexes of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateBy {
    /// By `spec.cluster`.
    Cluster,
    /// By `spec.guest`.
    Guest,
}

impl Indexed for Certificate {
    type Index = CertificateBy;
    const INDEXES: &'static [CertificateBy] = &[CertificateBy::Cluster, CertificateBy::Guest];

    fn keys(&self, index: CertificateBy) -> Vec<String> {
        match index {
            CertificateBy::Cluster => vec![self.spec.cluster.to_string()],
            CertificateBy::Guest => vec![self.spec.guest.to_string()],
        }
    }
}

/// Kinds that are found by their name alone.
macro_rules! by_name_alone {
    ($($kind:ident),*) => {
        $(impl Indexed for $kind {
            type Index = Infallible;
            const INDEXES: &'static [Infallible] = &[];

            fn keys(&self, index: Infallible) -> Vec<String> {
                match index {}
            }
        })*
    };
}

by_name_alone!(Cluster, CertificateAuthority, Host);
