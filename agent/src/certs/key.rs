//! Private keys: made here, shown to nobody.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _, SanType, string::Ia5String};
use zeroize::{Zeroize as _, Zeroizing};

use crate::spec::CertificateRequest;

/// A private key in PEM (PKCS #8). It is wiped when dropped and never shown.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<String>);

impl PrivateKey {
    /// PEM, for the volume alone.
    pub(super) fn pem(&self) -> &Zeroizing<String> {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PrivateKey(hidden)")
    }
}

/// A key that has no certificate yet: ECDSA on P-256.
pub(super) struct NewKey(Zeroizing<KeyPair>);

impl NewKey {
    pub(super) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(|pair| Self(Zeroizing::new(pair)))
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// The subject public key's bits, as a certificate shows them.
    pub(super) fn public_key(&self) -> &[u8] {
        self.0.der_bytes()
    }

    /// A PKCS #10 signing request in PEM, which proves that we hold the key.
    pub(super) fn signing_request(&self, request: &CertificateRequest) -> Result<String, rcgen::Error> {
        names(request)?.serialize_request(self.pair())?.pem()
    }

    pub(super) fn into_private_key(self) -> PrivateKey {
        PrivateKey(pem(self.0.serialized_der()))
    }
}

/// What a certificate for a request carries: its names, nothing else.
pub(super) fn names(request: &CertificateRequest) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, request.common_name.as_str());
    parameters.distinguished_name = subject;
    for name in &request.dns_names {
        parameters.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
    }
    parameters.subject_alt_names.extend(request.ip_addresses.iter().copied().map(SanType::IpAddress));
    Ok(parameters)
}

/// Whether a PEM key belongs to a certificate that shows these public key bits.
pub(super) fn belongs_to(key_pem: &str, public_key: &[u8]) -> bool {
    KeyPair::from_pem(key_pem).map(Zeroizing::new).is_ok_and(|pair| pair.der_bytes() == public_key)
}

/// RFC 7468, written into one buffer so that no copy of the key stays behind.
fn pem(der: &[u8]) -> Zeroizing<String> {
    const LINE: usize = 48;
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 2 + 128));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    for chunk in der.chunks(LINE) {
        let mut line = [0; LINE / 3 * 4];
        // A line of 48 bytes has 64 characters: it always fits.
        if let Ok(length) = STANDARD.encode_slice(chunk, &mut line) {
            text.extend(line.iter().take(length).map(|byte| char::from(*byte)));
        }
        line.zeroize();
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;

    pub(in super::super) fn request(name: &str) -> CertificateRequest {
        CertificateRequest {
            name: name.parse().unwrap(),
            issuer: "local".parse().unwrap(),
            role: "node".to_owned(),
            common_name: format!("{name}.acme.example"),
            dns_names: BTreeSet::from([format!("{name}.acme.example")]),
            ip_addresses: BTreeSet::from(["10.7.0.10".parse().unwrap()]),
            organizations: BTreeSet::from(["system:nodes".to_owned()]),
            ttl: Duration::from_hours(1),
        }
    }

    #[test]
    fn a_key_in_pem_is_the_key_that_was_made() {
        let key = NewKey::generate().unwrap();
        let public_key = key.public_key().to_vec();
        assert_eq!(key.pair().serialize_pem(), key.pair().serialize_pem().replace('\r', ""));
        let theirs = key.pair().serialize_pem();
        let private = key.into_private_key();
        assert_eq!(*private.0, theirs);
        assert!(belongs_to(&private.0, &public_key));
        assert!(!belongs_to(&private.0, NewKey::generate().unwrap().public_key()));
    }

    #[test]
    fn a_key_is_never_shown() {
        let private = NewKey::generate().unwrap().into_private_key();
        assert_eq!(format!("{private:?}"), "PrivateKey(hidden)");
    }
}
