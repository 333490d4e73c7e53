//! A certificate authority for the lab: for the hosts' API, their operators, and for the agents' local issuer.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A key is not for logs.
impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server at these addresses.
    Host(IpAddr),
    /// A client.
    Operator,
    /// A client that belongs to an organisation.
    Member(&'static str),
    /// A client whose certificate ended an hour ago.
    ExpiredOperator,
}

impl Authority {
    /// Makes one.
    pub fn new(common_name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = parameters(common_name)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), certificate })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate.
    pub fn issue(&self, common_name: &str, purpose: Purpose) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut parameters = parameters(common_name)?;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage = match purpose {
            Purpose::Host(address) => {
                parameters.subject_alt_names =
                    vec![SanType::DnsName(common_name.try_into()?), SanType::IpAddress(address)];
                ExtendedKeyUsagePurpose::ServerAuth
            }
            Purpose::Member(organization) => {
                parameters.distinguished_name.push(DnType::OrganizationName, organization);
                ExtendedKeyUsagePurpose::ClientAuth
            }
            Purpose::Operator | Purpose::ExpiredOperator => ExtendedKeyUsagePurpose::ClientAuth,
        };
        parameters.extended_key_usages = vec![usage];
        if purpose == Purpose::ExpiredOperator {
            parameters.not_after = (SystemTime::now() - Duration::from_hours(1)).into();
        }
        let certificate = parameters.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }

    /// Writes certificate and key for an agent's local issuer.
    pub fn write(&self, certificate: &Path, key: &Path) -> Result<()> {
        let identity = Identity { certificate: self.certificate.clone(), key: self.issuer.key().serialize_pem() };
        identity.write(certificate, key)
    }
}

impl Identity {
    /// Reads `<name>.crt` and `<name>.key`.
    pub fn read(directory: &Path, name: &str) -> Result<Self> {
        let read = |extension: &str| {
            let path = directory.join(name).with_extension(extension);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self { certificate: read("crt")?, key: read("key")? })
    }

    /// Writes both; the key for its owner alone.
    pub fn write(&self, certificate: &Path, key: &Path) -> Result<()> {
        fs::write(certificate, &self.certificate).with_context(|| format!("cannot write {}", certificate.display()))?;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(key)?;
        Ok(file.write_all(self.key.as_bytes())?)
    }
}

fn parameters(common_name: &str) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.not_before = (SystemTime::now() - Duration::from_hours(2)).into();
    parameters.not_after = (SystemTime::now() + Duration::from_hours(24)).into();
    Ok(parameters)
}
