//! The certificate volume: `..data` points to the present generation, which holds `<name>/tls.crt` and `<name>/tls.key`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde::Serialize;

/// Why the volume gives no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("there is no certificate at {0}")]
    None(PathBuf),
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: PathBuf, reason: io::Error },
    #[error("{path} is not usable: {reason}")]
    Unusable { path: PathBuf, reason: String },
}

/// What a client is told about the certificate that it was just served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Description {
    pub(crate) name: String,
    /// As Vault writes it: pairs of hexadecimal digits with colons.
    pub(crate) serial: String,
    /// Seconds since 1970.
    pub(crate) not_after: i64,
}

/// A certificate with its key, ready to serve.
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) description: Description,
}

/// Reads the first certificate by name. Called for each handshake: virtiofs tells of no change, and reading is cheap.
pub(crate) fn read(volume: &Path) -> Result<Identity, CertificateError> {
    // A generation may be swapped out and removed while it is being read; its successor is then in place.
    let read = || read_generation(&present_generation(volume)?);
    read().or_else(|_| read())
}

/// The link is followed once, so that certificate and key are of one generation.
fn present_generation(volume: &Path) -> Result<PathBuf, CertificateError> {
    let link = volume.join("..data");
    match fs::read_link(&link) {
        Ok(target) => Ok(volume.join(target)),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Err(CertificateError::None(volume.into())),
        Err(reason) => Err(CertificateError::Unreadable { path: link, reason }),
    }
}

/// The first certificate by name of one generation; an error also if its key is another's.
pub(crate) fn read_generation(generation: &Path) -> Result<Identity, CertificateError> {
    let name = first_name(generation)?;
    let directory = generation.join(&name);
    let chain_file = directory.join("tls.crt");
    let unusable = |reason: String| CertificateError::Unusable { path: chain_file.clone(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&content(&chain_file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    let leaf = chain.first().ok_or_else(|| unusable("it holds no certificate".to_owned()))?;
    let description = describe(name, leaf).map_err(unusable)?;
    let key_file = directory.join("tls.key");
    let key = PrivateKeyDer::from_pem_slice(&content(&key_file)?)
        .map_err(|error| CertificateError::Unusable { path: key_file, reason: error.to_string() })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| unusable(error.to_string()))?;
    Ok(Identity { config: Arc::new(config), description })
}

fn first_name(generation: &Path) -> Result<String, CertificateError> {
    let unreadable = |reason| CertificateError::Unreadable { path: generation.to_owned(), reason };
    let mut names = Vec::new();
    for entry in fs::read_dir(generation).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().join("tls.crt").is_file()
        {
            names.push(name);
        }
    }
    names.into_iter().min().ok_or_else(|| CertificateError::None(generation.to_owned()))
}

fn content(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|reason| CertificateError::Unreadable { path: path.to_owned(), reason })
}

fn describe(name: String, leaf: &CertificateDer<'_>) -> Result<Description, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let serial = certificate.tbs_certificate.raw_serial_as_string();
    Ok(Description { name, serial, not_after: certificate.validity().not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use super::*;

    fn write_generation(volume: &Path, generation: &str, name: &str, serial: u64) {
        let directory = volume.join(generation).join(name);
        fs::create_dir_all(&directory).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["guest.test".to_owned()]).unwrap();
        parameters.serial_number = Some(SerialNumber::from(serial));
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(directory.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(directory.join("tls.key"), key.serialize_pem()).unwrap();
        symlink(generation, volume.join("..next")).unwrap();
        fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
    }

    #[test]
    fn each_reading_gives_the_generation_that_is_in_place() {
        let volume = tempfile::tempdir().unwrap();
        for (generation, serial, text) in [("..1", 0x1a2b, "1a:2b"), ("..2", 0x1a2c, "1a:2c")] {
            write_generation(volume.path(), generation, "node", serial);
            let identity = read(volume.path()).unwrap();
            assert_eq!((identity.description.name.as_str(), identity.description.serial.as_str()), ("node", text));
        }
    }

    #[test]
    fn the_first_certificate_by_name_is_served() {
        let volume = tempfile::tempdir().unwrap();
        for name in ["worker", "api", "node"] {
            write_generation(volume.path(), "..1", name, 7);
        }
        assert_eq!(read(volume.path()).unwrap().description.name, "api");
    }

    #[test]
    fn a_volume_without_a_certificate_says_so() {
        let volume = tempfile::tempdir().unwrap();
        assert!(matches!(read(volume.path()), Err(CertificateError::None(_))));
        fs::create_dir(volume.path().join("..1")).unwrap();
        symlink("..1", volume.path().join("..data")).unwrap();
        assert!(matches!(read(volume.path()), Err(CertificateError::None(_))));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let volume = tempfile::tempdir().unwrap();
        write_generation(volume.path(), "..1", "node", 7);
        fs::write(volume.path().join("..1/node/tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(read(volume.path()), Err(CertificateError::Unusable { .. })));
    }
}
