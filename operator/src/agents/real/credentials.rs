//! The operator's certificate and key, and who may vouch for agents.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

/// Where the files are, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The operator's certificate and its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who may vouch for agents.
    pub agent_ca: PathBuf,
}

/// Why the files do not make a client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialsError {
    /// One of them cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// It is not what it should be.
    #[error("{} does not hold {what} in PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What was found.
        #[source]
        source: Arc<pem::Error>,
    },
    /// A certificate in it cannot be an authority's.
    #[error("{} cannot vouch for agents", path.display())]
    Authority {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The key is another certificate's.
    #[error("{} and {} are not a pair", certificate.display(), key.display())]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The program is ending.
    #[error("reading them was given up: the operator is ending")]
    Ending,
}

/// What connections are opened with: like the files, as they are when a connection is opened.
#[derive(Debug)]
pub(super) struct Credentials(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    files: TlsFiles,
    loaded: Mutex<Option<(Fingerprint, Arc<ClientConfig>)>>,
}

/// By which a file is known to be another, or to have been written: device, inode, size, and the times of the last
/// change of content and of anything.
type Fingerprint = [(u64, u64, u64, i64, i64, i64, i64); 3];

impl Credentials {
    pub(super) fn new(files: TlsFiles) -> Self {
        Self(Arc::new(Shared { files, loaded: Mutex::default() }))
    }

    pub(super) async fn current(&self) -> Result<Arc<ClientConfig>, CredentialsError> {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || shared.current()).await.map_err(|_| CredentialsError::Ending)?
    }
}

impl Shared {
    fn current(&self) -> Result<Arc<ClientConfig>, CredentialsError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before they are read: what changes meanwhile is read again next time.
        let fingerprint = self.fingerprint()?;
        match &*loaded {
            Some((known, config)) if *known == fingerprint => Ok(Arc::clone(config)),
            _ => {
                let config = Arc::new(load(&self.files)?);
                *loaded = Some((fingerprint, Arc::clone(&config)));
                Ok(config)
            }
        }
    }

    fn fingerprint(&self) -> Result<Fingerprint, CredentialsError> {
        let TlsFiles { certificate, key, agent_ca } = &self.files;
        let of = |path: &Path| {
            let of = fs::metadata(path).map_err(|source| unreadable(path, source))?;
            Ok((of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()))
        };
        Ok([of(certificate)?, of(key)?, of(agent_ca)?])
    }
}

fn unreadable(path: &Path, source: io::Error) -> CredentialsError {
    CredentialsError::Read { path: path.to_owned(), source: Arc::new(source) }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let text = fs::read(path).map_err(|source| unreadable(path, source))?;
    let malformed =
        |source| CredentialsError::Pem { path: path.to_owned(), what: "a certificate", source: Arc::new(source) };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(malformed)?;
    if found.is_empty() { Err(malformed(pem::Error::NoItemsFound)) } else { Ok(found) }
}

fn load(files: &TlsFiles) -> Result<ClientConfig, CredentialsError> {
    let TlsFiles { certificate, key, agent_ca } = files;
    let mut roots = RootCertStore::empty();
    for authority in certificates(agent_ca)? {
        let refused = |source| CredentialsError::Authority { path: agent_ca.clone(), source };
        roots.add(authority).map_err(refused)?;
    }
    let chain = certificates(certificate)?;
    let text = fs::read(key).map_err(|source| unreadable(key, source))?;
    let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|source| CredentialsError::Pem {
        path: key.clone(),
        what: "a private key",
        source: Arc::new(source),
    })?;
    let no_pair = |source| CredentialsError::Pair { certificate: certificate.clone(), key: key.clone(), source };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(no_pair)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, secret)
        .map_err(no_pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
