//! One gRPC server behind mutual TLS.

use std::{net::SocketAddr, sync::Arc};

use goliath_proto::operator::v1::{
    event_service_server::EventServiceServer, fleet_service_server::FleetServiceServer,
    object_service_server::ObjectServiceServer,
};
use goliath_server::{
    WAITING_CONNECTIONS,
    tls::{ListenError, TcpConfig, TlsConnection, TlsListeners},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tonic_health::ServingStatus;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use super::{Parts, Roles, access::Guarded, context::Context, events::Events, fleet::Fleet, objects::Objects};
use crate::store::Store;

/// Of one message of a request, in bytes: the manifests of a directory come in one.
const LARGEST_REQUEST: usize = 32 << 20;

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport.
    #[error(transparent)]
    Transport(#[from] goliath_server::ServeError),
    /// The API's descriptors, compiled in.
    #[error("the API's descriptors are broken: this build cannot serve")]
    Descriptors(#[from] tonic_reflection::server::Error),
}

/// The operator's listeners, taken and not served yet.
#[derive(Debug)]
pub struct Server {
    listeners: TlsListeners,
    roles: Arc<Roles>,
}

impl Server {
    /// Takes the addresses.
    pub async fn bind(tcp: &TcpConfig, roles: Roles) -> Result<Self, ListenError> {
        Ok(Self { listeners: TlsListeners::bind(tcp).await?, roles: Arc::new(roles) })
    }

    /// The addresses as taken: a port of 0 was chosen by the kernel.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// Serves until the shutdown; then calls under way get a few seconds.
    pub async fn serve<S: Store>(self, parts: Parts<S>, shutdown: CancellationToken) -> Result<(), ServeError> {
        let (sender, connections) = mpsc::channel::<TlsConnection>(WAITING_CONNECTIONS);
        self.listeners.spawn(&sender);
        drop(sender);
        let routes = routes(parts, &self.roles, shutdown.clone()).await?;
        Ok(goliath_server::serve(connections, routes, shutdown).await?)
    }
}

/// All services, each behind its guard; health and reflection are for everyone with a good certificate.
pub(super) async fn routes<S: Store>(
    parts: Parts<S>,
    roles: &Arc<Roles>,
    shutdown: CancellationToken,
) -> Result<Routes, tonic_reflection::server::Error> {
    let context = Context::new(parts, shutdown);
    let objects = ObjectServiceServer::new(Objects(context.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let events = EventServiceServer::new(Events(context.clone()));
    let fleet = FleetServiceServer::new(Fleet(context));
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in ["", name_of(&objects), name_of(&events), name_of(&fleet)] {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(reflection()?)
        .add_service(Guarded::new(objects, roles))
        .add_service(Guarded::new(events, roles))
        .add_service(Guarded::new(fleet, roles));
    Ok(routes.routes())
}

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, tonic_reflection::server::Error> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(goliath_proto::operator::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
}
