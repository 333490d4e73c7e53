//! One gRPC server behind all listeners.

use std::net::SocketAddr;

use goliath_proto::agent::v1::{
    guest_service_server::GuestServiceServer, host_service_server::HostServiceServer,
    image_service_server::ImageServiceServer, inspect_service_server::InspectServiceServer,
    network_service_server::NetworkServiceServer,
};
use goliath_server::{LARGEST_REQUEST, WAITING_CONNECTIONS, tls::TlsListeners};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tonic_health::ServingStatus;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use super::{
    BindError, Context, Parts, connection::Connection, guests::Guests, host::Hosts, images::Images, inspect::Inspect,
    networks::Networks, socket::SocketListener,
};
use crate::config::ApiConfig;

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

/// The agent's listeners, taken and not served yet.
#[derive(Debug)]
pub struct Server {
    socket: SocketListener,
    tls: Option<TlsListeners>,
}

impl Server {
    /// Takes the socket and the addresses.
    pub async fn bind(config: &ApiConfig) -> Result<Self, BindError> {
        let socket = SocketListener::bind(&config.socket, &config.socket_group)?;
        let tls = match &config.tcp {
            Some(tcp) => Some(TlsListeners::bind(tcp).await?),
            None => None,
        };
        Ok(Self { socket, tls })
    }

    /// The TCP addresses as taken: a port of 0 was chosen by the kernel.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tls.as_ref().map(TlsListeners::addresses).unwrap_or_default()
    }

    /// Serves until the shutdown; then calls under way get a few seconds.
    pub async fn serve(self, parts: Parts, shutdown: CancellationToken) -> Result<(), ServeError> {
        let context = Context::new(parts, shutdown.clone());
        let guests = GuestServiceServer::new(Guests(context.clone()));
        let networks = NetworkServiceServer::new(Networks(context.clone()));
        let hosts = HostServiceServer::new(Hosts::new(context.clone()));
        let images = ImageServiceServer::new(Images(context.clone()));
        let inspect = InspectServiceServer::new(Inspect::new(context));
        let (health, health_service) = tonic_health::server::health_reporter();
        for name in ["", name_of(&guests), name_of(&networks), name_of(&hosts), name_of(&images), name_of(&inspect)] {
            health.set_service_status(name, ServingStatus::Serving).await;
        }
        let mut routes = Routes::builder();
        routes
            .add_service(health_service)
            .add_service(reflection()?)
            .add_service(guests.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(networks.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(hosts.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(images.max_decoding_message_size(LARGEST_REQUEST))
            .add_service(inspect.max_decoding_message_size(LARGEST_REQUEST));
        self.serve_routes(routes.routes(), shutdown).await
    }

    async fn serve_routes(self, routes: Routes, shutdown: CancellationToken) -> Result<(), ServeError> {
        let (sender, connections) = mpsc::channel::<Connection>(WAITING_CONNECTIONS);
        self.socket.spawn(&sender);
        if let Some(tls) = self.tls {
            tls.spawn(&sender);
        }
        drop(sender);
        Ok(goliath_server::serve(connections, routes, shutdown).await?)
    }
}

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, tonic_reflection::server::Error> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(goliath_proto::agent::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
}
