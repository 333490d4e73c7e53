//! Vault's process.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;
use tokio::{
    process::{Child, Command},
    sync::{OnceCell, oneshot},
};

const START_LIMIT: Duration = Duration::from_mins(1);

/// A running Vault; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Port 0: the kernel's choice.
    pub(super) async fn start(directory: &Path, address: IpAddr, port: u16, tls: bool) -> Result<Self> {
        let mut listener = json!({"address": SocketAddr::new(address, port).to_string(), "tls_disable": !tls});
        if tls {
            listener["tls_cert_file"] = json!(directory.join("vault.crt"));
            listener["tls_key_file"] = json!(directory.join("vault.key"));
        }
        let scheme = if tls { "https" } else { "http" };
        let config = json!({
            "storage": {"file": {"path": directory.join("storage")}},
            "listener": {"tcp": listener},
            "api_addr": format!("{scheme}://{}", SocketAddr::new(address, port)),
            "disable_mlock": true,
        });
        let config_file = directory.join("vault.json");
        fs::write(&config_file, config.to_string())?;

        let log = File::options().create(true).append(true).open(directory.join("vault.log"))?;
        let mut child = Command::new(program().await?)
            .arg("server")
            .arg(format!("-config={}", config_file.display()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .kill_on_drop(true)
            .spawn()
            .context("start Vault")?;
        let output = child.stdout.take().context("Vault has no output")?.into_owned_fd()?;
        let (found, address) = oneshot::channel();
        // Its output is read to the end: a program whose output nobody takes stands still.
        std::thread::spawn(move || follow(output.into(), log, found));
        match tokio::time::timeout(START_LIMIT, address).await {
            Ok(Ok(address)) => Ok(Self { child, address }),
            _ => bail!("Vault did not start: {}", fs::read_to_string(directory.join("vault.log"))?),
        }
    }

    pub(super) fn listens_on(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().context("Vault has ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal).context("signal Vault")
    }

    pub(super) async fn stop(&mut self) -> Result<()> {
        self.child.kill().await.context("end Vault")
    }
}

/// Copies Vault's output to its log and tells the address in it.
fn follow(output: File, mut log: File, found: oneshot::Sender<SocketAddr>) {
    let mut found = Some(found);
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let _ = writeln!(log, "{line}");
        let address = line.split_once("tcp (addr: \"").and_then(|(_, rest)| rest.split_once('"')?.0.parse().ok());
        if let Some(address) = address
            && let Some(found) = found.take()
        {
            let _ = found.send(address);
        }
    }
}

/// The vault on the PATH, or the one that the script builds once.
pub(super) async fn program() -> Result<&'static Path> {
    static PROGRAM_FILE: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM_FILE
        .get_or_try_init(|| async {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/build-vault.sh");
            let built = Command::new(script).stderr(Stdio::inherit()).output().await.context("run build-vault.sh")?;
            if !built.status.success() {
                bail!(
                    "there is no Vault to test with: install it, or Go 1.21 or newer, and run scripts/build-vault.sh"
                );
            }
            Ok(PathBuf::from(String::from_utf8(built.stdout)?.trim()))
        })
        .await
        .map(PathBuf::as_path)
}

/// Writes the server's certificate and key and its authority, whose PEM is returned.
pub(super) fn write_certificates(directory: &Path, address: IpAddr) -> Result<String> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "lab CA");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;

    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["localhost".to_owned()])?;
    server.subject_alt_names.push(SanType::IpAddress(address));
    fs::write(directory.join("vault.crt"), server.signed_by(&key, &authority)?.pem())?;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(directory.join("vault.key"))?
        .write_all(key.serialize_pem().as_bytes())?;
    fs::write(directory.join("ca.crt"), authority.pem())?;
    Ok(authority.pem())
}
