//! A host with a Vault: what an agent has, without the rest of the agent.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use anyhow::Result;
use goliath_agent::{
    certs::{CertificateKeeper, IssuerHealth, Issuers, KeeperConfig, KeeperState},
    config::{IssuerConfig, VaultAuth, VaultIssuerConfig},
    spec::CertificateRequest,
};
use goliath_lab::vault::{AppRole, PkiRole, TokenLife, Vault, VaultOptions};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_mins(1);

/// What a node asks for.
pub(crate) fn request(name: &str) -> CertificateRequest {
    CertificateRequest {
        name: name.parse().unwrap(),
        issuer: "vault".parse().unwrap(),
        role: name.to_owned(),
        common_name: format!("system:node:{name}"),
        dns_names: [format!("{name}.acme.example"), "localhost".to_owned()].into(),
        ip_addresses: ["10.7.0.10".parse().unwrap(), "fd00::10".parse().unwrap()].into(),
        organizations: ["system:nodes".to_owned()].into(),
        ttl: Duration::from_mins(30),
    }
}

/// A host, `host-1`, that may have certificates for cluster `acme`.
pub(crate) struct Host {
    pub(crate) vault: Vault,
    pub(crate) role: AppRole,
    config: VaultIssuerConfig,
    issuers: Issuers,
    memory: TempDir,
    disk: TempDir,
}

impl Host {
    /// With a wrapped secret id delivered.
    pub(crate) async fn with_vault(life: TokenLife) -> Result<Self> {
        Self::new(Vault::start(VaultOptions::default()).await?, life).await
    }

    pub(crate) async fn new(vault: Vault, life: TokenLife) -> Result<Self> {
        let host = Self::prepare(vault, life).await?;
        host.deliver(&host.vault.wrapped_secret_id(&host.role).await?)?;
        Ok(host)
    }

    pub(crate) async fn without_secret_id(life: TokenLife) -> Result<Self> {
        Self::prepare(Vault::start(VaultOptions::default()).await?, life).await
    }

    async fn prepare(vault: Vault, life: TokenLife) -> Result<Self> {
        LazyLock::force(&LOG);
        vault.enable_pki("acme").await?;
        for role in ["node", "etcd"] {
            vault.write_role("acme", &PkiRole::new(role).organization("system:nodes")).await?;
        }
        let role = vault.enable_app_role("host-1", &["acme"], life).await?;
        let disk = tempfile::Builder::new().prefix("goliath-host-").tempdir()?;
        let memory = tempfile::Builder::new().prefix("goliath-host-").tempdir_in("/dev/shm")?;
        let config = VaultIssuerConfig {
            address: vault.address(),
            certificate_authorities: vault.authorities(),
            mount: "pki-{cluster}".to_owned(),
            auth: VaultAuth::AppRole {
                mount: "approle".to_owned(),
                role_id: role.role_id.clone(),
                wrapped_secret_id_file: disk.path().join("secret-id.wrapped"),
            },
            namespace: None,
            time_limit_seconds: 1,
            plain_http: false,
        };
        let mut host = Self { vault, role, config, issuers: Issuers::default(), memory, disk };
        host.restart_agent()?;
        Ok(host)
    }

    /// New issuers, as an agent makes them when it starts.
    pub(crate) fn restart_agent(&mut self) -> Result<()> {
        let configured = BTreeMap::from([("vault".parse().unwrap(), IssuerConfig::Vault(self.config.clone()))]);
        self.issuers = Issuers::from_config(&configured, self.runtime())?;
        Ok(())
    }

    /// Trusts another Vault's authority instead.
    pub(crate) fn trust(&mut self, other: &Vault) -> Result<()> {
        self.config.certificate_authorities = other.authorities();
        // What the first agent unwrapped is not this one's.
        self.memory = tempfile::tempdir_in("/dev/shm")?;
        self.restart_agent()
    }

    pub(crate) fn use_token_file(&mut self, token: &str) -> Result<()> {
        fs::write(self.token_file(), token)?;
        self.config.auth = VaultAuth::Token { file: self.token_file() };
        self.restart_agent()
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.memory.path().join("token")
    }

    pub(crate) fn deliver(&self, wrapping_token: &str) -> Result<()> {
        let part = self.disk.path().join("part");
        fs::write(&part, format!("{wrapping_token}\n"))?;
        Ok(fs::rename(part, self.wrapping_file())?)
    }

    pub(crate) fn wrapping_file(&self) -> PathBuf {
        self.disk.path().join("secret-id.wrapped")
    }

    pub(crate) fn runtime(&self) -> &Path {
        self.memory.path()
    }

    /// What the host has on its disk.
    pub(crate) fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// The certificate directory of the guest that [`Host::keeper`] keeps.
    pub(crate) fn volume(&self) -> PathBuf {
        self.memory.path().join("guests/guest/certificates")
    }

    pub(crate) fn keeper(&self, cluster: &str, requests: Vec<CertificateRequest>) -> CertificateKeeper {
        self.keeper_at("guest", cluster, requests)
    }

    pub(crate) fn keeper_at(&self, guest: &str, cluster: &str, requests: Vec<CertificateRequest>) -> CertificateKeeper {
        CertificateKeeper::start(KeeperConfig {
            uid: uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, guest.as_bytes()).to_string().parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            directory: self.memory.path().join("guests").join(guest).join("certificates"),
            images: self.memory.path().join("guests").join(guest).join("certificate-disks"),
            on_disk: false,
            requests,
            issuers: self.issuers.clone(),
        })
    }

    pub(crate) async fn health(&self) -> IssuerHealth {
        self.issuers.get(&"vault".parse().unwrap()).unwrap().health().await
    }

    pub(crate) async fn all_present(&self, keeper: &CertificateKeeper) {
        self.seen(keeper, "all certificates", KeeperState::all_present).await;
    }

    /// Waits for a reason and gives its message.
    pub(crate) async fn condition(&self, keeper: &CertificateKeeper, reason: &str) -> String {
        self.seen(keeper, reason, |state| state.condition().1 == reason).await.condition().2
    }

    pub(crate) async fn seen(
        &self,
        keeper: &CertificateKeeper,
        what: &str,
        seen: impl Fn(&KeeperState) -> bool,
    ) -> KeeperState {
        let mut state = keeper.state();
        let found = tokio::time::timeout(LIMIT, state.wait_for(|state| seen(state))).await;
        let Ok(found) = found else {
            panic!("{what} was not seen, but {:?}", keeper.state().borrow().condition());
        };
        found.unwrap().clone()
    }

    /// Waits for what only Vault or a directory can tell.
    pub(crate) async fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool>) {
        let wait = async {
            while !done().unwrap() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "{what} was not seen");
    }
}

/// Everything that is logged in this process, down to the finest grain.
static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(|| {
    let log = Arc::new(Mutex::new(Vec::new()));
    let writer = Log(Arc::clone(&log));
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    log
});

#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn log() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

pub(crate) fn files_below(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(found)
}

pub(crate) fn contains(content: &[u8], secret: &[u8]) -> bool {
    content.windows(secret.len()).any(|window| window == secret)
}
