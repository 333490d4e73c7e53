//! Our certificate and key, and who may vouch for clients: read from files, again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::TcpConfig;
use crate::{errors::with_causes, file_watch::FileWatch};

/// Why the files do not make a server.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One of them.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not PEM, or a broken one.
    #[error("{} is not well-formed PEM", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// PEM, but of other things.
    #[error("{} holds no {what}: it must hold at least one in PEM", path.display())]
    Nothing {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The certificate's public key is another's.
    #[error("{} and {} do not make a pair that can serve", certificate.display(), key.display())]
    Pair {
        /// The chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate in it cannot be one of an authority.
    #[error("{} cannot vouch for clients", path.display())]
    Authority {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This build cannot do TLS 1.3: never seen.
    #[error("TLS 1.3 is not to be had")]
    Protocol(#[source] rustls::Error),
}

/// What new connections are served with; none until the files were good once.
pub(super) type CurrentConfig = watch::Receiver<Option<Arc<ServerConfig>>>;

/// Starts to keep the configuration like the files. Connections keep what they were opened with, so none is dropped. It
/// ends when nobody holds a receiver.
pub(super) fn follow(files: TcpConfig) -> io::Result<CurrentConfig> {
    let mut changes = FileWatch::new([files.certificate.clone(), files.key.clone(), files.client_ca.clone()])?;
    let (sender, receiver) = watch::channel(None);
    let mut last = Loader { files, seen: None };
    last.load(&sender);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = changes.changed() => last.load(&sender),
            }
        }
    });
    Ok(receiver)
}

struct Loader {
    files: TcpConfig,
    /// Of the files when they were last tried, so that each state of them is tried and told once.
    seen: Option<[u8; 32]>,
}

impl Loader {
    /// Three small local files: read in place.
    fn load(&mut self, sender: &watch::Sender<Option<Arc<ServerConfig>>>) {
        let contents = Contents::read(&self.files);
        let fingerprint =
            contents.as_ref().map_or_else(|error| fingerprint(&[with_causes(error)]), Contents::fingerprint);
        if self.seen.replace(fingerprint) == Some(fingerprint) {
            return;
        }
        match contents.and_then(|contents| contents.server_config(&self.files)) {
            Ok(config) => {
                tracing::info!(certificate = %self.files.certificate.display(), "serves with these TLS files now");
                sender.send_replace(Some(Arc::new(config)));
            }
            Err(error) if sender.borrow().is_some() => tracing::error!(
                reason = with_causes(&error),
                "the new TLS files are no good: those from before stay in use"
            ),
            Err(error) => tracing::error!(
                reason = with_causes(&error),
                "no TLS connections are taken until these files are mended"
            ),
        }
    }
}

struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Vec<u8>,
}

impl Contents {
    fn read(files: &TcpConfig) -> Result<Self, CredentialsError> {
        let read =
            |path: &Path| fs::read(path).map_err(|source| CredentialsError::Read { path: path.to_owned(), source });
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: Zeroizing::new(read(&files.key)?),
            client_ca: read(&files.client_ca)?,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&[&self.certificate[..], &self.key, &self.client_ca])
    }

    fn server_config(&self, files: &TcpConfig) -> Result<ServerConfig, CredentialsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let no_authority = |source| CredentialsError::Authority { path: files.client_ca.clone(), source };
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.client_ca, &self.client_ca)? {
            roots.add(authority).map_err(|source| no_authority(source.into()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|source| no_authority(source.into()))?;
        let chain = certificates(&files.certificate, &self.certificate)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(CredentialsError::Protocol)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private_key(&files.key, &self.key)?)
            .map_err(|source| CredentialsError::Pair {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                source,
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would not have its client's certificate looked at again: each connection shows it anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

fn fingerprint<T: AsRef<[u8]>>(parts: &[T]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let found = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CredentialsError::Pem { path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(CredentialsError::Nothing { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|source| match source {
        pem::Error::NoItemsFound => CredentialsError::Nothing { path: path.to_owned(), what: "private key" },
        source => CredentialsError::Pem { path: path.to_owned(), source },
    })
}
