//! A certificate authority in two files, for a single machine or a trial.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use rcgen::{DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData as _, SerialNumber};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    check,
    issuer::{IssueError, IssuedCertificate, Issuer, IssuerHealth, accept},
    key::{self, NewKey},
    schedule::Lifetime,
};
use crate::{
    config::LocalIssuerConfig,
    spec::{CertificateRequest, ClusterName},
};

/// How far clocks may differ.
const BACKDATE: Duration = Duration::from_secs(30);

/// A certificate authority in files. They are read for each certificate: the key does not stay in memory, and files
/// that changed are taken up.
#[derive(Debug, Clone)]
pub struct LocalIssuer {
    config: LocalIssuerConfig,
}

struct Authority {
    certificate: String,
    lifetime: Lifetime,
    key: Zeroizing<KeyPair>,
}

impl LocalIssuer {
    /// Reads nothing yet.
    pub fn new(config: &LocalIssuerConfig) -> Self {
        Self { config: config.clone() }
    }

    fn authority(&self) -> Result<Authority, IssueError> {
        let LocalIssuerConfig { certificate: certificate_file, key: key_file } = &self.config;
        refuse_readable_by_others(key_file)?;
        let certificate = read(certificate_file)?;
        let leaf = check::leaf(&certificate).map_err(|reason| misconfigured(certificate_file, reason.to_string()))?;
        if !leaf.authority {
            return Err(misconfigured(certificate_file, "is not the certificate of a certificate authority"));
        }
        let key = KeyPair::from_pem(&Zeroizing::new(read(key_file)?))
            .map_err(|_| misconfigured(key_file, "holds no private key in PEM that can be used"))?;
        if key.der_bytes() != leaf.public_key {
            return Err(misconfigured(key_file, format!("is not the key of {}", certificate_file.display())));
        }
        Ok(Authority { certificate, lifetime: leaf.lifetime, key: Zeroizing::new(key) })
    }

    pub(super) fn sign(&self, request: &CertificateRequest) -> Result<IssuedCertificate, IssueError> {
        let authority = self.authority()?;
        let path = self.config.certificate.display().to_string();
        let broken = |reason: rcgen::Error| IssueError::Refused { path: path.clone(), detail: reason.to_string() };
        let now = Timestamp::now();
        if authority.lifetime.not_after <= now {
            return Err(misconfigured(
                &self.config.certificate,
                format!("was over at {}", authority.lifetime.not_after),
            ));
        }
        let mut parameters = key::names(request).map_err(broken)?;
        let mut organizations = request.organizations.iter();
        if let Some(organization) = organizations.next() {
            parameters.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        }
        if organizations.next().is_some() {
            return Err(IssueError::Refused {
                path,
                detail: "a local CA puts one organisation at most into a certificate".to_owned(),
            });
        }
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let seconds = |moment: Timestamp| Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or(0));
        parameters.not_before = epoch + seconds(now).saturating_sub(BACKDATE);
        parameters.not_after = epoch + (seconds(now) + request.ttl).min(seconds(authority.lifetime.not_after));
        parameters.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

        let key = NewKey::generate().map_err(broken)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&authority.certificate, &*authority.key).map_err(broken)?;
        let leaf = parameters.signed_by(key.pair(), &issuer).map_err(broken)?.pem();
        // One that is not a root itself must be sent along.
        let chain = if check::is_root(&authority.certificate) { leaf } else { leaf + &authority.certificate };
        accept(&path, request, key, chain, authority.certificate)
    }
}

impl Issuer for LocalIssuer {
    fn issue<'a>(
        &'a self,
        _cluster: &'a ClusterName,
        request: &'a CertificateRequest,
    ) -> BoxFuture<'a, Result<IssuedCertificate, IssueError>> {
        Box::pin(async { blocking(self.clone(), request.clone(), |issuer, request| issuer.sign(&request)).await })
    }

    fn health(&self) -> BoxFuture<'_, IssuerHealth> {
        Box::pin(async {
            match blocking(self.clone(), (), |issuer, ()| issuer.authority().map(|_| ())).await {
                Ok(()) => IssuerHealth::ready(format!("{} and its key serve", self.config.certificate.display())),
                Err(reason) => IssuerHealth::from(&reason),
            }
        })
    }
}

async fn blocking<I: Send + 'static, O: Send + 'static>(
    issuer: LocalIssuer,
    input: I,
    work: impl FnOnce(&LocalIssuer, I) -> Result<O, IssueError> + Send + 'static,
) -> Result<O, IssueError> {
    let path = issuer.config.certificate.display().to_string();
    tokio::task::spawn_blocking(move || work(&issuer, input))
        .await
        .unwrap_or_else(|reason| Err(IssueError::Unexpected { path, detail: reason.to_string() }))
}

fn misconfigured(file: &Path, detail: impl Into<String>) -> IssueError {
    IssueError::Misconfigured { file: file.to_owned(), detail: detail.into() }
}

fn read(file: &Path) -> Result<String, IssueError> {
    fs::read_to_string(file).map_err(|reason| misconfigured(file, format!("cannot be read: {reason}")))
}

fn refuse_readable_by_others(file: &Path) -> Result<(), IssueError> {
    let metadata = fs::metadata(file).map_err(|reason| misconfigured(file, format!("cannot be read: {reason}")))?;
    let mode = metadata.permissions().mode() & 0o777;
    let others = mode & 0o077;
    if others == 0 {
        return Ok(());
    }
    Err(misconfigured(file, format!("has mode {mode:04o}, so others than its owner may have the key: chmod 0600 it")))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use rcgen::{BasicConstraints, CertificateParams, IsCa};

    use super::*;
    use crate::certs::key::{belongs_to, tests::request};

    /// A CA in files of a directory.
    pub(in super::super) fn authority_in(directory: &Path) -> LocalIssuer {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "lab CA");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let config = LocalIssuerConfig { certificate: directory.join("ca.crt"), key: directory.join("ca.key") };
        fs::write(&config.certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&config.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&config.key, fs::Permissions::from_mode(0o600)).unwrap();
        LocalIssuer::new(&config)
    }

    fn cluster() -> ClusterName {
        "acme".parse().unwrap()
    }

    #[tokio::test]
    async fn a_certificate_is_as_asked_and_its_key_belongs_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority_in(directory.path());
        let asked = request("node");
        let issued = authority.issue(&cluster(), &asked).await.unwrap();
        let leaf = check::leaf(&issued.certificate_chain).unwrap();
        assert_eq!(check::differences(&asked, &leaf), Vec::<String>::new());
        assert!(belongs_to(issued.private_key.pem(), &leaf.public_key));
        let good_for = leaf.lifetime.not_after.duration_since(Timestamp::now()).as_secs();
        assert!((3590..=3600).contains(&good_for), "{good_for}");
        assert!(check::is_root(&issued.authorities));
        assert!(authority.health().await.ready);
    }

    #[tokio::test]
    async fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = authority_in(directory.path());
        fs::set_permissions(directory.path().join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = issuer.issue(&cluster(), &request("node")).await.unwrap_err();
        assert!(
            refusal
                .to_string()
                .ends_with("ca.key: has mode 0644, so others than its owner may have the key: chmod 0600 it"),
            "{refusal}"
        );
        assert!(!issuer.health().await.ready);
    }

    #[tokio::test]
    async fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let issuer = authority_in(one.path());
        authority_in(other.path());
        fs::copy(other.path().join("ca.key"), one.path().join("ca.key")).unwrap();
        let refusal = issuer.issue(&cluster(), &request("node")).await.unwrap_err();
        assert_eq!(refusal.reason(), "IssuerMisconfigured");
        assert!(refusal.to_string().contains("is not the key of"), "{refusal}");
    }

    #[tokio::test]
    async fn more_organisations_than_it_can_write_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut asked = request("admin");
        asked.organizations = BTreeSet::from(["one".to_owned(), "two".to_owned()]);
        let refusal = authority_in(directory.path()).issue(&cluster(), &asked).await.unwrap_err();
        assert_eq!(refusal.reason(), "IssuerRefused");
    }

    #[test]
    fn every_difference_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let issued = authority_in(directory.path()).sign(&request("node")).unwrap();
        let leaf = check::leaf(&issued.certificate_chain).unwrap();
        let mut other = request("worker");
        other.organizations = BTreeSet::from(["system:masters".to_owned()]);
        other.ip_addresses.clear();
        assert_eq!(
            check::differences(&other, &leaf),
            [
                "common name [node.acme.example] instead of \"worker.acme.example\"",
                "organisations [system:nodes] instead of [system:masters]",
                "DNS names [node.acme.example] instead of [worker.acme.example]",
                "IP addresses [10.7.0.10] instead of none",
            ]
        );
    }
}
