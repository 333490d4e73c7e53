//! Against real TLS, with certificates made here.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SerialNumber,
    date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs, pki_types::ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const SOON: Duration = Duration::from_secs(10);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[derive(Clone)]
struct Leaf {
    certificate: String,
    key: String,
}

fn leaf(authority: &Authority, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
    let mut params = CertificateParams::new(vec!["host.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Leaf { certificate: certificate.pem(), key: key.serialize_pem() }
}

/// A listener with its files, without a gRPC server.
struct Listening {
    directory: TempDir,
    files: TcpConfig,
    address: SocketAddr,
    connections: mpsc::Receiver<TlsConnection>,
    config: CurrentConfig,
}

impl Listening {
    async fn with(host: &Leaf, clients: &Authority) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = TcpConfig {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            certificate: at("tls.crt"),
            key: at("tls.key"),
            client_ca: at("ca.crt"),
        };
        replace(&files.certificate, &host.certificate);
        replace(&files.key, &host.key);
        replace(&files.client_ca, &clients.pem());
        Self::on(directory, files).await
    }

    async fn on(directory: TempDir, files: TcpConfig) -> Self {
        let listeners = TlsListeners::bind(&files).await.unwrap();
        let address = listeners.addresses()[0];
        let config = listeners.config.clone();
        let (sender, connections) = mpsc::channel(4);
        listeners.spawn(&sender);
        Self { directory, files, address, connections, config }
    }

    /// The client's end and ours.
    async fn connect(&mut self, client: &Client) -> io::Result<(TlsStream<TcpStream>, TlsConnection)> {
        let stream = client.open(self.address).await?;
        let connection = time::timeout(SOON, self.connections.recv()).await.expect("accepted").unwrap();
        Ok((stream, connection))
    }

    /// Waits until other files are in use.
    async fn reloaded(&mut self) {
        time::timeout(SOON, self.config.changed()).await.expect("the files are read again").unwrap();
    }

    fn mark_seen(&mut self) {
        self.config.mark_unchanged();
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

struct Client {
    trusts: String,
    shows: Option<Leaf>,
    versions: &'static [&'static SupportedProtocolVersion],
}

impl Client {
    fn trusting(authority: &Authority, shows: Option<Leaf>) -> Self {
        Self { trusts: authority.pem(), shows, versions: TLS13 }
    }

    /// Under TLS 1.3 a client that is refused hears of it with its first read.
    async fn open(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.trusts.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.shows {
            None => builder.with_no_client_auth(),
            Some(leaf) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("host.example").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Nothing of this client comes through.
    async fn assert_refused(&self, listening: &mut Listening) -> String {
        let reason = match self.open(listening.address).await {
            Err(error) => error,
            Ok(mut stream) => {
                let read = time::timeout(SOON, stream.read_u8()).await.expect("the server answers");
                read.expect_err("the server refuses")
            }
        };
        assert!(listening.connections.try_recv().is_err());
        reason.to_string()
    }
}

#[tokio::test]
async fn who_calls_is_read_from_the_certificate() {
    let ours = authority("ours");
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let operator = leaf(&ours, "operator", |params| {
        params.serial_number = Some(SerialNumber::from(0x0a0b_u64));
        params.distinguished_name.push(DnType::OrganizationName, "goliath:operators");
    });
    let (_stream, connection) = listening.connect(&Client::trusting(&ours, Some(operator))).await.unwrap();
    let expected = Peer {
        common_name: "operator".to_owned(),
        organizations: vec!["goliath:operators".to_owned()],
        serial_number: "0a:0b".to_owned(),
        address: Ipv4Addr::LOCALHOST.into(),
    };
    assert_eq!(*connection.peer(), expected);
}

#[tokio::test]
async fn without_a_certificate_nobody_comes_in() {
    let ours = authority("ours");
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let reason = Client::trusting(&ours, None).assert_refused(&mut listening).await;
    assert!(reason.contains("CertificateRequired"), "{reason}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (ours, others) = (authority("ours"), authority("others"));
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let reason = Client::trusting(&ours, Some(leaf(&others, "operator", |_| ()))).assert_refused(&mut listening).await;
    assert!(reason.contains("UnknownCA"), "{reason}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ours = authority("ours");
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let expired = leaf(&ours, "operator", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
    });
    let reason = Client::trusting(&ours, Some(expired)).assert_refused(&mut listening).await;
    assert!(reason.contains("CertificateExpired"), "{reason}");
}

#[tokio::test]
async fn a_hosts_certificate_that_is_not_for_clients_is_refused() {
    let ours = authority("ours");
    let host = leaf(&ours, "host", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let mut listening = Listening::with(&host, &ours).await;
    Client::trusting(&ours, Some(host)).assert_refused(&mut listening).await;
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let ours = authority("ours");
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let mut client = Client::trusting(&ours, Some(leaf(&ours, "operator", |_| ())));
    client.versions = TLS12;
    let reason = client.assert_refused(&mut listening).await;
    assert!(reason.contains("ProtocolVersion"), "{reason}");
}

#[tokio::test]
async fn all_three_files_are_read_again_and_an_open_connection_stays() {
    let (old, new) = (authority("old"), authority("new"));
    let mut listening = Listening::with(&leaf(&old, "host", |_| ()), &old).await;
    let of_old = Client::trusting(&old, Some(leaf(&old, "operator", |_| ())));
    let (mut client, mut served) = listening.connect(&of_old).await.unwrap();

    listening.mark_seen();
    let host = leaf(&new, "host", |_| ());
    replace(&listening.files.certificate, &host.certificate);
    replace(&listening.files.key, &host.key);
    replace(&listening.files.client_ca, &new.pem());
    listening.reloaded().await;

    // Another authority for the host and for clients.
    listening.connect(&Client::trusting(&new, Some(leaf(&new, "operator", |_| ())))).await.unwrap();
    of_old.assert_refused(&mut listening).await;
    // What was open goes on.
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 5];
    served.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn a_swapped_data_link_is_followed() {
    let (old, new) = (authority("old"), authority("new"));
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    let lay = |generation: &str, of: &Authority| {
        let host = leaf(of, "host", |_| ());
        let at = root.join(generation);
        fs::create_dir(&at).unwrap();
        for (name, text) in [("tls.crt", &host.certificate), ("tls.key", &host.key), ("ca.crt", &of.pem())] {
            fs::write(at.join(name), text).unwrap();
        }
        symlink(generation, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    lay("..1", &old);
    let linked = |name: &str| -> PathBuf {
        symlink(Path::new("..data").join(name), root.join(name)).unwrap();
        root.join(name)
    };
    let files = TcpConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        certificate: linked("tls.crt"),
        key: linked("tls.key"),
        client_ca: linked("ca.crt"),
    };
    let mut listening = Listening::on(directory, files).await;
    listening.mark_seen();
    lay("..2", &new);
    listening.reloaded().await;
    listening.connect(&Client::trusting(&new, Some(leaf(&new, "operator", |_| ())))).await.unwrap();
}

#[tokio::test]
async fn broken_files_change_nothing_and_mended_ones_do() {
    let ours = authority("ours");
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let client = Client::trusting(&ours, Some(leaf(&ours, "operator", |_| ())));
    listening.mark_seen();
    // A certificate without its key, then no PEM at all, then nothing.
    replace(&listening.files.certificate, &leaf(&ours, "host", |_| ()).certificate);
    replace(&listening.files.client_ca, "-----BEGIN CERTIFICATE-----\nhalf");
    fs::remove_file(&listening.files.key).unwrap();
    assert!(time::timeout(Duration::from_millis(500), listening.config.changed()).await.is_err());
    listening.connect(&client).await.unwrap();

    let mended = leaf(&ours, "host", |_| ());
    replace(&listening.files.certificate, &mended.certificate);
    replace(&listening.files.key, &mended.key);
    replace(&listening.files.client_ca, &ours.pem());
    listening.reloaded().await;
    listening.connect(&client).await.unwrap();
}

#[tokio::test]
async fn files_that_come_later_are_waited_for() {
    let ours = authority("ours");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join("pki").join(name);
    let files = TcpConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        certificate: at("tls.crt"),
        key: at("tls.key"),
        client_ca: at("ca.crt"),
    };
    let mut listening = Listening::on(directory, files).await;
    let client = Client::trusting(&ours, Some(leaf(&ours, "operator", |_| ())));
    client.assert_refused(&mut listening).await;

    let host = leaf(&ours, "host", |_| ());
    fs::create_dir(listening.directory.path().join("pki")).unwrap();
    replace(&listening.files.certificate, &host.certificate);
    replace(&listening.files.key, &host.key);
    replace(&listening.files.client_ca, &ours.pem());
    listening.reloaded().await;
    listening.connect(&client).await.unwrap();
}

#[tokio::test]
async fn slow_handshakes_are_bounded_in_number_and_in_time() {
    let ours = authority("ours");
    let mut listening = Listening::with(&leaf(&ours, "host", |_| ()), &ours).await;
    let mut slow = Vec::new();
    for _ in 0..=HANDSHAKES_OF_ONE_ADDRESS {
        slow.push(TcpStream::connect(listening.address).await.unwrap());
    }
    // One too many: closed at once, while the others still have their time.
    let mut last = slow.pop().unwrap();
    assert_eq!(time::timeout(HANDSHAKE_TIME / 2, last.read(&mut [0]).await_or_closed()).await.expect("closed"), 0);
    let mut first = slow.remove(0);
    let closed = time::timeout(HANDSHAKE_TIME * 2, first.read(&mut [0]).await_or_closed()).await;
    assert_eq!(closed.expect("closed when its time is over"), 0);
    // And the room is free again.
    drop(slow);
    let client = Client::trusting(&ours, Some(leaf(&ours, "operator", |_| ())));
    listening.connect(&client).await.unwrap();
}

/// A connection that is closed hard ends a read with an error: for these tests it is an end like the other.
trait AwaitOrClosed {
    async fn await_or_closed(self) -> usize;
}

impl<F: Future<Output = io::Result<usize>>> AwaitOrClosed for F {
    async fn await_or_closed(self) -> usize {
        self.await.unwrap_or(0)
    }
}
