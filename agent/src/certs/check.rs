//! What a certificate says, and whether it is what was asked for.

use std::{collections::BTreeSet, fmt::Display, net::IpAddr};

use jiff::Timestamp;
use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{ASN1Time, FromDer as _, X509Certificate},
    x509::AttributeTypeAndValue,
};

use super::schedule::Lifetime;
use crate::spec::CertificateRequest;

/// What a leaf certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Hex pairs with colons, as Vault writes it.
    pub(super) serial_number: String,
    pub(super) common_names: Vec<String>,
    pub(super) organizations: BTreeSet<String>,
    /// In lower case.
    pub(super) dns_names: BTreeSet<String>,
    pub(super) ip_addresses: BTreeSet<IpAddr>,
    /// Alternative names of other kinds, for messages.
    pub(super) other_names: Vec<String>,
    pub(super) lifetime: Lifetime,
    pub(super) authority: bool,
    /// The subject public key's bits.
    pub(super) public_key: Vec<u8>,
}

/// Why a text is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("holds no certificate in PEM")]
    Empty,
    #[error("holds a certificate that cannot be read: {0}")]
    Broken(String),
}

/// Reads the first certificate of a PEM chain.
pub(super) fn leaf(chain: &str) -> Result<Leaf, Unreadable> {
    let broken = |reason: &dyn Display| Unreadable::Broken(reason.to_string());
    let pem =
        Pem::iter_from_buffer(chain.as_bytes()).next().ok_or(Unreadable::Empty)?.map_err(|reason| broken(&reason))?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|reason| broken(&reason))?;
    let mut leaf = Leaf {
        serial_number: certificate.raw_serial_as_string(),
        common_names: texts(certificate.subject().iter_common_name()),
        organizations: texts(certificate.subject().iter_organization()).into_iter().collect(),
        dns_names: BTreeSet::new(),
        ip_addresses: BTreeSet::new(),
        other_names: Vec::new(),
        lifetime: Lifetime {
            not_before: moment(certificate.validity().not_before),
            not_after: moment(certificate.validity().not_after),
        },
        authority: certificate.is_ca(),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    };
    if let Some(names) = certificate.subject_alternative_name().map_err(|reason| broken(&reason))? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    leaf.dns_names.insert(name.to_ascii_lowercase());
                }
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(address) => {
                        leaf.ip_addresses.insert(address);
                    }
                    None => leaf.other_names.push(name.to_string()),
                },
                other => leaf.other_names.push(other.to_string()),
            }
        }
    }
    Ok(leaf)
}

/// Whether a PEM certificate is its own issuer.
pub(super) fn is_root(pem: &str) -> bool {
    Pem::iter_from_buffer(pem.as_bytes()).next().and_then(Result::ok).is_some_and(|pem| {
        X509Certificate::from_der(&pem.contents)
            .is_ok_and(|(_, certificate)| certificate.subject().as_raw() == certificate.issuer().as_raw())
    })
}

/// What of a certificate is not as asked: each a clause. Its length of life is the issuer's to cap.
pub(super) fn differences(request: &CertificateRequest, leaf: &Leaf) -> Vec<String> {
    let mut found = Vec::new();
    if leaf.common_names.as_slice() != std::slice::from_ref(&request.common_name) {
        found.push(format!("common name {} instead of {:?}", listed(&leaf.common_names), request.common_name));
    }
    compare(&mut found, "organisations", &request.organizations, &leaf.organizations);
    compare(
        &mut found,
        "DNS names",
        &request.dns_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        &leaf.dns_names,
    );
    compare(&mut found, "IP addresses", &request.ip_addresses, &leaf.ip_addresses);
    if !leaf.other_names.is_empty() {
        found.push(format!("further names {}", listed(&leaf.other_names)));
    }
    if leaf.authority {
        found.push("it is a certificate authority".to_owned());
    }
    found
}

fn compare<T: Ord + Display>(found: &mut Vec<String>, what: &str, asked: &BTreeSet<T>, got: &BTreeSet<T>) {
    if asked != got {
        found.push(format!("{what} {} instead of {}", listed(got), listed(asked)));
    }
}

fn listed<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if values.is_empty() { "none".to_owned() } else { format!("[{}]", values.join(", ")) }
}

fn texts<'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Vec<String> {
    attributes.map(|attribute| attribute.as_str().map_or_else(|_| "(not text)".to_owned(), str::to_owned)).collect()
}

fn moment(time: ASN1Time) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
