//! A CA in memory and what it signs: EC P-256 throughout.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, Error, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

const YEARS_10: Duration = Duration::from_hours(24 * 3652);
/// The organisation that an operator takes for administrators, where its configuration names no other.
const ADMINISTRATORS: &str = "goliath:administrators";
/// Clocks differ: a certificate is good from a little before it was made.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// PEM, both.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(host_name: &str) -> Result<Self, Error> {
        let mut params = params(&format!("Goliath CA of {host_name}"), YEARS_10, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, key)? })
    }

    pub(super) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// For a server under that name and at those addresses.
    pub(super) fn host(&self, name: &str, addresses: &[IpAddr], ttl: Duration) -> Result<Pair, Error> {
        let mut names = vec![name.to_owned()];
        names.extend(addresses.iter().map(IpAddr::to_string));
        self.sign(params(name, ttl, &names)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client: whoever holds it may do everything, with an operator of many hosts too.
    pub(super) fn operator(&self, ttl: Duration) -> Result<Pair, Error> {
        let mut params = params("operator", ttl, &[])?;
        params.distinguished_name.push(DnType::OrganizationName, ADMINISTRATORS);
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Result<Pair, Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn params(common_name: &str, ttl: Duration, names: &[String]) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + ttl).into();
    Ok(params)
}
