//! The operator, built from its configuration: the store, the caches, the controllers, the API.

use std::{
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use goliath_proto::operator::v1 as pb;
use goliath_server::{errors::with_causes, tls::ListenError};
use uuid::Uuid;

use crate::{
    agents::{AgentConnector, Connections},
    api::{self, Credentials, Issued, Questions, Rules},
    config::Config,
    context::Context,
    controllers::{self, Outside, host, network, placement::Placement},
    objects::{HostName, IssuerName},
    pki::{Authorities, HostCredentials, IssuersError, PkiError},
    render::{Templates, TemplatesError},
    runtime::{StillRunning, Tasks},
    store::{EmbeddedStore, OpenError, Options},
};

/// So long a host's wrapped secret id can be unwrapped: an administrator carries it to the machine.
const WRAPPED_FOR: Duration = Duration::from_hours(1);

/// Why the operator does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A directory of its own.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Objects.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Seeds.
    #[error("the templates of seeds cannot be used")]
    Templates(#[from] TemplatesError),
    /// The clusters' networks.
    #[error("[network] {0}: {1}")]
    Network(&'static str, String),
    /// Certificates.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// The API.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A part of it failed, as its log says: this is a defect.
    #[error("a part of the operator fell over: the log says which")]
    Fell,
}

/// How controllers go about their work, where that is not for people to choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of hosts' agents.
    pub hosts: host::Settings,
    /// How long changes of peers are gathered before hosts that have the network already are told.
    pub gather_peers: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { hosts: host::Settings::default(), gather_peers: Duration::from_millis(200) }
    }
}

/// An operator that runs.
#[derive(Debug)]
pub struct Operator {
    tasks: Tasks,
    addresses: Vec<SocketAddr>,
}

impl Operator {
    /// Starts everything. When this returns, the API is served; controllers go on where the last operator left.
    pub async fn start<C: AgentConnector>(
        config: Config,
        connector: Arc<C>,
        settings: Settings,
    ) -> Result<Self, OperatorError> {
        make_directory(&config.directories.state)?;
        make_directory(&config.directories.runtime)?;
        let file = config.store();
        let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&file, &Options::default())).await;
        let store = Arc::new(opened.map_err(|_| OperatorError::Fell)??);
        let templates = Arc::new(Templates::load(config.directories.templates.as_deref())?);
        let authorities = Arc::new(Authorities::start(&config.issuers, &config.directories.runtime)?);
        let server = api::Server::bind(&config.api.0, config.roles.clone()).await?;
        let addresses = server.addresses();

        let tasks = Tasks::new();
        let context = Context::start(store, Connections::<C::Agent>::default(), &tasks);
        context.caches.synced().await;
        let vnis = config.network.vnis().map_err(|(key, complaint)| OperatorError::Network(key, complaint))?;

        let outside = Outside {
            connector,
            hosts: settings.hosts,
            network: network::Settings { vnis, gather: settings.gather_peers },
            templates: Arc::clone(&templates),
            authorities: Arc::clone(&authorities),
        };
        let placement = controllers::start(&context, outside, &tasks);

        let rules = Rules { issuers: authorities.issuers().cloned().collect(), templates };
        let parts = api::Parts {
            store: Arc::clone(&context.store),
            caches: context.caches.clone(),
            events: context.events.clone(),
            questions: questions(&context, rules, placement, authorities),
        };
        let stop = tasks.stop();
        tasks.spawn("api", async move {
            if let Err(error) = server.serve(parts, stop.clone()).await {
                tracing::error!(reason = with_causes(&error), "the API is not served any more, so all is stopped");
                stop.cancel();
            }
        });
        Ok(Self { tasks, addresses })
    }

    /// Where the API is served: a port of 0 was chosen by the kernel.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns when a part of it failed.
    pub async fn failed(&self) -> OperatorError {
        self.tasks.stop().cancelled().await;
        OperatorError::Fell
    }

    /// Ends everything: what is under way gets this long.
    pub async fn drain(self, limit: Duration) -> Result<(), StillRunning> {
        self.tasks.shut_down(limit).await
    }
}

/// For its owner alone: seeds may hold secrets.
fn make_directory(path: &Path) -> Result<(), OperatorError> {
    let failed = |source| OperatorError::Directory { path: path.to_owned(), source };
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(failed),
    }
}

fn questions<S, C>(
    context: &Context<S, C>,
    rules: Rules,
    placement: Placement,
    authorities: Arc<Authorities>,
) -> Questions {
    let caches = context.caches.clone();
    Questions {
        judge: Box::new(move |objects| rules.judge(&caches, objects)),
        explain: Box::new(move |guest| placement.explain(guest)),
        issue: Box::new(move |host, uid, which| Box::pin(issue(Arc::clone(&authorities), host, uid, which))),
    }
}

/// Asks every issuer; what one gave is told, also where another failed.
async fn issue(authorities: Arc<Authorities>, host: HostName, uid: Uuid, which: Credentials) -> Issued {
    let answers = match which {
        Credentials::First => authorities.issue_host_credentials(&host, uid, WRAPPED_FOR).await,
        Credentials::New => authorities.rotate_host_credentials(&host, uid, WRAPPED_FOR).await,
    };
    let mut issued = Issued::default();
    for (issuer, answer) in answers {
        match answer {
            Ok(credentials) => issued.credentials.push(credential(&issuer, &credentials)),
            Err(error) => issued.failures.push(failure(&issuer, &error)),
        }
    }
    issued
}

fn credential(issuer: &IssuerName, credentials: &HostCredentials) -> pb::HostCredential {
    let HostCredentials { auth_mount, role_id, wrapping_token, ttl } = credentials;
    pb::HostCredential {
        issuer: issuer.to_string(),
        auth_mount: auth_mount.clone(),
        role_id: role_id.clone(),
        wrapped_secret_id: wrapping_token.reveal().to_owned(),
        ttl: prost_types::Duration::try_from(*ttl).ok(),
    }
}

fn failure(issuer: &IssuerName, error: &PkiError) -> pb::IssuerFailure {
    pb::IssuerFailure { issuer: issuer.to_string(), message: with_causes(error) }
}
