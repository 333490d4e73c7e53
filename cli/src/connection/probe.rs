//! Asks an agent's TLS what it thinks of our certificate.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::config::{Place, Target};

/// An alert comes right after the handshake, or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// In words, the alert with which our certificate is rejected; none where it is not, or where nobody can tell.
pub(super) async fn alert(target: &Target) -> Option<String> {
    let Place::Tls { host, port, ca, cert, key } = &target.place else { return None };
    let config = config(ca, cert, key)?;
    let name = ServerName::try_from(host.clone()).ok()?;
    let ask = async {
        let stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        stream.read_u8().await.err()
    };
    let error = tokio::time::timeout(PATIENCE, ask).await.ok()??;
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(format!("{alert:?}")),
        _ => None,
    }
}

fn config(ca: &Path, cert: &Path, key: &Path) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(ca).ok()?.flatten());
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert).ok()?.flatten().collect();
    let key = PrivateKeyDer::from_pem_file(key).ok()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).ok()?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some(config)
}
