//! The other end of the wire: answers as an agent would, from memory, so that what the command makes of the answers can
//! be seen. It runs no guest.

mod guests;
mod inspect;
mod others;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex, MutexGuard},
};

use goliath_proto::agent::v1::{
    Condition, ConditionStatus, DoctorCheck, Guest, GuestStatus, Network, WatchGuestsResponse,
    guest_service_server::GuestServiceServer, host_service_server::HostServiceServer,
    image_service_server::ImageServiceServer, inspect_service_server::InspectServiceServer,
    network_service_server::NetworkServiceServer, watch_guests_response::Kind,
};
use tokio::{net::UnixListener, runtime::Runtime, sync::broadcast};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig, server::Router},
};

/// What the agent holds and how it is to answer.
pub(crate) struct State {
    pub(crate) guests: BTreeMap<String, Guest>,
    pub(crate) networks: BTreeMap<String, Network>,
    pub(crate) checks: Vec<DoctorCheck>,
    /// The next applies are answered so.
    pub(crate) refusal: Option<Status>,
    /// How many watches end right after they began, as when an agent restarts.
    pub(crate) broken_watches: u32,
    pub(crate) cordoned: bool,
    revision: u64,
    changes: broadcast::Sender<WatchGuestsResponse>,
}

impl State {
    /// A guest, as the agent will list and watch it.
    pub(crate) fn put(&mut self, mut guest: Guest) {
        self.revision += 1;
        guest.revision = self.revision;
        let uid = guest.spec.as_ref().unwrap().uid.clone();
        self.guests.insert(uid, guest.clone());
        self.tell(Kind::Modified, guest);
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Guest> {
        let guest = self.guests.remove(uid)?;
        self.revision += 1;
        self.tell(Kind::Deleted, guest.clone());
        Some(guest)
    }

    /// As if the guest was seen so.
    pub(crate) fn see(&mut self, name: &str, conditions: &[(&str, ConditionStatus, &str)]) {
        let mut guest = self
            .guests
            .values()
            .find(|guest| guest.spec.as_ref().is_some_and(|spec| spec.name == name))
            .unwrap()
            .clone();
        let generation = guest.spec.as_ref().unwrap().generation;
        let conditions = conditions
            .iter()
            .map(|(kind, status, message)| Condition {
                r#type: (*kind).to_owned(),
                status: i32::from(*status),
                message: (*message).to_owned(),
                ..Condition::default()
            })
            .collect();
        guest.status = Some(GuestStatus { conditions, observed_generation: generation, ..GuestStatus::default() });
        self.put(guest);
    }

    fn tell(&self, kind: Kind, guest: Guest) {
        let change = WatchGuestsResponse { kind: i32::from(kind), guest: Some(guest), revision: self.revision };
        // Nobody may be listening.
        let _ = self.changes.send(change);
    }
}

#[derive(Clone)]
struct Services(Arc<Mutex<State>>);

impl Services {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// A server that ends when it is dropped.
pub(crate) struct Agent {
    // Fields are dropped in order: the server first, then its directory.
    _runtime: Runtime,
    services: Services,
    address: String,
    directory: tempfile::TempDir,
}

impl Agent {
    /// On a Unix socket.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let runtime = runtime();
        let services = Services::new();
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let server = services.router(Server::builder()).serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Self { _runtime: runtime, services, address: format!("unix:{}", socket.display()), directory }
    }

    /// By mutual TLS on a port of this machine, with the certificates of a directory that `pki init` made.
    pub(crate) fn start_tls(pki: &Path, address: &str) -> Self {
        let read = |name: &str| std::fs::read(pki.join(name)).unwrap();
        let runtime = runtime();
        let services = Services::new();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(read("host.crt"), read("host.key")))
            .client_ca_root(Certificate::from_pem(read("ca.crt")));
        let address: SocketAddr = address.parse().unwrap();
        let incoming = {
            let _entered = runtime.enter();
            tonic::transport::server::TcpIncoming::bind(address).unwrap()
        };
        let address = incoming.local_addr().unwrap();
        let server = services.router(Server::builder().tls_config(tls).unwrap()).serve_with_incoming(incoming);
        runtime.spawn(server);
        Self {
            _runtime: runtime,
            services,
            address: format!("https://{address}"),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.services.0.lock().unwrap()
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A file that lives as long as the agent.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command, with this agent.
    pub(crate) fn goliath(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = goliath(arguments);
        command.env("GOLIATH_AGENT", &self.address);
        command
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

impl Services {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            guests: BTreeMap::new(),
            networks: BTreeMap::new(),
            checks: Vec::new(),
            refusal: None,
            broken_watches: 0,
            cordoned: false,
            revision: 1,
            changes: broadcast::channel(64).0,
        })))
    }

    fn router(&self, mut server: Server) -> Router {
        server
            .add_service(GuestServiceServer::new(self.clone()))
            .add_service(NetworkServiceServer::new(self.clone()))
            .add_service(HostServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self.clone()))
            .add_service(InspectServiceServer::new(self.clone()))
    }
}

/// The command in an environment of its own.
pub(crate) fn goliath(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_goliath"));
    command.env_clear().args(arguments);
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }
}
