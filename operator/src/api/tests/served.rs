//! A server of one test.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use goliath_proto::operator::v1::{
    self as pb, event_service_client::EventServiceClient, fleet_service_client::FleetServiceClient,
    object_service_client::ObjectServiceClient,
};
use goliath_server::tls::Peer;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint, server::Connected},
};
use tonic_types::StatusExt as _;

use crate::{
    api::{Credentials, Issued, Parts, Questions, Role, Roles, server},
    context::Caches,
    controllers::placement::Explained,
    runtime::{
        Tasks,
        events::{EventSubject, Events},
    },
    store::{AnyObject, EmbeddedStore, FieldProblem, Options, Store as _},
};

pub(super) const SOON: Duration = Duration::from_secs(10);

/// A server, and what is behind it.
pub(super) struct Served {
    pub(super) store: Arc<EmbeddedStore>,
    pub(super) caches: Caches,
    pub(super) events: Events,
    /// What is said of the next objects.
    pub(super) problems: Arc<Mutex<Vec<(usize, FieldProblem)>>>,
    /// What placement says of any guest.
    pub(super) explained: Arc<Mutex<Option<Explained>>>,
    /// What issuers were asked.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    pub(super) tasks: Tasks,
    connections: mpsc::Sender<Connection>,
    _directory: TempDir,
}

impl Served {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(&directory.path().join("store"), &Options::default()).unwrap());
        let tasks = Tasks::new();
        let caches = Caches::start(&store, &tasks);
        caches.synced().await;
        let events = Events::default();
        let problems: Arc<Mutex<Vec<(usize, FieldProblem)>>> = Arc::default();
        let explained: Arc<Mutex<Option<Explained>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let questions = Questions {
            judge: Box::new({
                let problems = Arc::clone(&problems);
                move |_: &[AnyObject]| problems.lock().unwrap().clone()
            }),
            explain: Box::new({
                let explained = Arc::clone(&explained);
                move |_: &str| explained.lock().unwrap().clone()
            }),
            issue: Box::new({
                let asked = Arc::clone(&asked);
                move |host, _, which: Credentials| {
                    asked.lock().unwrap().push(format!("issue {host} {which:?}"));
                    let credential = pb::HostCredential {
                        issuer: "vault".to_owned(),
                        role_id: "role".to_owned(),
                        wrapped_secret_id: "wrapped".to_owned(),
                        ..pb::HostCredential::default()
                    };
                    Box::pin(async { Issued { credentials: vec![credential], failures: Vec::new() } })
                }
            }),
        };
        let parts = Parts { store: Arc::clone(&store), caches: caches.clone(), events: events.clone(), questions };
        let routes = server::routes(parts, &Arc::new(Roles::default()), tasks.stop()).await.unwrap();
        let (connections, accepted) = mpsc::channel(4);
        let stop = tasks.stop();
        tasks.spawn("serve", async move { goliath_server::serve(accepted, routes, stop).await.unwrap() });
        Self { store, caches, events, problems, explained, asked, tasks, connections, _directory: directory }
    }

    /// As the holder of a certificate with these organisations.
    pub(super) fn client(&self, organizations: &[&str]) -> Client {
        let peer = Peer {
            common_name: "somebody".to_owned(),
            organizations: organizations.iter().map(ToString::to_string).collect(),
            serial_number: "01".to_owned(),
            address: [192, 0, 2, 1].into(),
        };
        let connections = self.connections.clone();
        let connect = tower::service_fn(move |_| {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let (connections, peer) = (connections.clone(), peer.clone());
            async move {
                let gone = |_| io::Error::other("the server is gone");
                connections.send(Connection { io: theirs, peer }).await.map_err(gone)?;
                io::Result::Ok(TokioIo::new(ours))
            }
        });
        Client(Endpoint::from_static("http://operator").connect_with_connector_lazy(connect))
    }

    pub(super) fn of(&self, role: Role) -> Client {
        self.client(&[&format!("goliath:{role}s")])
    }

    /// Writes an object as a controller would.
    pub(super) async fn write(&self, manifest: Value) -> AnyObject {
        let object = AnyObject::from_json(manifest).unwrap();
        let status = object.status().is_some().then(|| object.clone());
        let mut written = self.store.create_any(object).await.unwrap();
        if let Some(status) = status {
            let status = status.with_metadata(written.metadata().clone());
            written = self.store.replace_status_any(status).await.unwrap();
        }
        written
    }

    /// Waits until the guests are as they shall be.
    pub(super) async fn until(&self, holds: impl Fn(&Caches) -> bool) {
        let mut changes = (self.caches.guests.changes(), self.caches.hosts.changes());
        let wait = async {
            while !holds(&self.caches) {
                tokio::select! {
                    _ = changes.0.next() => {}
                    _ = changes.1.next() => {}
                }
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("it comes to be");
    }
}

/// A connection of one caller.
#[derive(Clone)]
pub(super) struct Client(Channel);

impl Client {
    pub(super) fn objects(&self) -> ObjectServiceClient<Channel> {
        ObjectServiceClient::new(self.0.clone())
    }

    pub(super) fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.0.clone())
    }

    pub(super) fn fleet(&self) -> FleetServiceClient<Channel> {
        FleetServiceClient::new(self.0.clone())
    }

    pub(super) async fn apply(&self, manifests: &[Value]) -> Result<Vec<pb::AppliedObject>, Status> {
        self.apply_with(manifests, |_| ()).await
    }

    pub(super) async fn apply_with(
        &self,
        manifests: &[Value],
        change: impl FnOnce(&mut pb::ApplyObjectsRequest),
    ) -> Result<Vec<pb::AppliedObject>, Status> {
        let manifests = manifests.iter().map(ToString::to_string).collect();
        let mut request = pb::ApplyObjectsRequest { manifests, ..pb::ApplyObjectsRequest::default() };
        change(&mut request);
        Ok(self.objects().apply_objects(request).await?.into_inner().objects)
    }

    pub(super) async fn get(&self, kind: &str, name: &str) -> Result<Value, Status> {
        let request = pb::GetObjectRequest { kind: kind.to_owned(), name: name.to_owned() };
        let object = self.objects().get_object(request).await?.into_inner().object;
        Ok(serde_json::from_str(&object).unwrap())
    }
}

/// The server's end of a connection.
struct Connection {
    io: DuplexStream,
    peer: Peer,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The reason of a refusal.
pub(super) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The fields that a refusal names.
pub(super) fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details.bad_request().map(|bad| &bad.field_violations).into_iter().flatten();
    let against = details.precondition_failure().map(|failure| &failure.violations).into_iter().flatten();
    bad.map(|one| one.field.clone()).chain(against.map(|one| one.subject.clone())).collect()
}

pub(super) fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name },
        "spec": {
            "kubernetes": { "version": "1.31.0", "serviceCidr": "10.96.0.0/16", "podCidr": "10.244.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": { "replicas": 1, "machine": { "vcpus": 1, "memory": "512MiB" }, "image": "registry.example/node:1" },
            "workers": [{
                "name": "small", "replicas": 2, "machine": { "vcpus": 1, "memory": "512MiB" },
                "image": "registry.example/node:1",
            }],
        },
    })
}

pub(super) fn host(name: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Host",
        "metadata": { "name": name },
        "spec": { "address": format!("{name}.example:7443") },
    })
}

/// The first worker of a cluster, bound and ready.
pub(super) fn guest(cluster: &str, index: u16, host: &str) -> Value {
    json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Guest",
        "metadata": { "name": format!("{cluster}.small-{index}") },
        "spec": {
            "cluster": cluster, "role": "worker", "pool": "small", "index": index, "hostname": format!("small-{index}"),
            "machine": { "vcpus": 1, "memory": "512MiB" }, "image": "registry.example/node:1",
            "seed": { "cloudInit": { "userData": "#cloud-config\npassword: secret\n" } },
            "binding": { "host": host, "reason": "it was there", "time": "2026-01-01T00:00:00Z" },
        },
        "status": {
            "phase": "Running",
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Running", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    })
}

pub(super) fn subject(kind: crate::objects::Kind, name: &str) -> EventSubject {
    EventSubject { kind, name: name.to_owned(), uid: String::new() }
}
