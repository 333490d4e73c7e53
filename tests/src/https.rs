//! What a tiny guest serves, asked from the cluster's network on its host.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::underlay;

const LIMIT: Duration = Duration::from_secs(10);

/// What a tiny guest says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct GuestReport {
    /// From the seed.
    pub hostname: String,
    /// Another one after each boot.
    pub boot_id: String,
    /// Since the kernel started.
    pub uptime_seconds: f64,
    /// Its devices.
    pub interfaces: Vec<InterfaceReport>,
}

/// A device of a tiny guest.
#[derive(Debug, Clone, Deserialize)]
pub struct InterfaceReport {
    /// Lower case, with colons.
    pub mac_address: String,
    /// Bytes.
    pub mtu: u32,
    /// With prefix lengths.
    pub addresses: Vec<String>,
}

/// A certificate that was served in a handshake that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Hex pairs with colons.
    pub serial_number: String,
    /// Of the subject.
    pub common_name: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// Asks over HTTP.
pub async fn get_http(namespace: &Path, address: Ipv4Addr) -> Result<GuestReport> {
    let stream = underlay::connect(namespace, SocketAddr::from((address, 8080)));
    within(address, async { ask(stream.await?).await }).await
}

/// Asks over TLS; the guest's certificate must be vouched for by `authority` (PEM) and good for `name`.
pub async fn get_https(
    namespace: &Path,
    address: Ipv4Addr,
    authority: &str,
    name: &str,
) -> Result<(GuestReport, Served)> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned())?;
    within(address, async {
        let stream = underlay::connect(namespace, SocketAddr::from((address, 8443))).await?;
        let mut stream = connector.connect(name, stream).await.context("the handshake failed")?;
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first).context("no certificate was served")?;
        let served = describe(leaf)?;
        Ok((ask(&mut stream).await?, served))
    })
    .await
}

/// Reads a certificate, DER.
pub fn describe(certificate: &[u8]) -> Result<Served> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).context("not a certificate")?;
    let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Served {
        serial_number: parsed.raw_serial_as_string(),
        common_name: common_name.unwrap_or_default().to_owned(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

async fn within<T>(address: Ipv4Addr, asked: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(outcome) => outcome.with_context(|| format!("the guest at {address} did not answer well")),
        Err(_) => bail!("the guest at {address} did not answer within {LIMIT:?}"),
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<GuestReport> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    serde_json::from_str(body).with_context(|| format!("not a report: {body}"))
}
