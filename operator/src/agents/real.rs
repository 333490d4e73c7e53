//! Real agents: gRPC over mutual TLS.

mod credentials;

use std::{
    future::{Future, ready},
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use goliath_proto::{
    agent::v1::{
        self as pb, guest_service_client::GuestServiceClient, host_service_client::HostServiceClient,
        image_service_client::ImageServiceClient, network_service_client::NetworkServiceClient,
    },
    values::{ClusterName, GuestUid},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint, Uri},
};

use credentials::Credentials;
pub use credentials::{CredentialsError, TlsFiles};

use super::{Agent, AgentConnector, AgentError, GuestWatch, Limits, Target};

/// A list carries all guests of a host.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Reaches agents by TLS 1.3; both sides show certificates.
#[derive(Debug)]
pub struct Tls {
    credentials: Credentials,
    limits: Limits,
}

impl Tls {
    /// With the operator's certificate and who may vouch for agents. The files are read when they are first needed, and
    /// again when they changed; connections that stand keep what they were opened with.
    pub fn new(files: TlsFiles, limits: Limits) -> Self {
        Self { credentials: Credentials::new(files), limits }
    }

    async fn stream(&self, target: &Target) -> Result<TlsStream<TcpStream>, AgentError> {
        let config = self.credentials.current().await.map_err(AgentError::Credentials)?;
        let (host, port) = (target.address.host(), target.address.port());
        let name = target.server_name.as_ref().map_or(host, |name| name.as_str());
        let name = ServerName::try_from(name.to_owned()).map_err(AgentError::lost)?;
        let shake_hands = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            // What was not delivered when the connection is closed is never delivered: an agent that was cut off must not
            // hear, when it is back, what was asked before.
            stream.set_zero_linger()?;
            TlsConnector::from(config).connect(name, stream).await
        };
        match timeout(self.limits.connect, shake_hands).await {
            Ok(stream) => stream.map_err(|error| AgentError::lost(format!("{}: {error}", target.address))),
            Err(_) => Err(AgentError::NoAnswer(self.limits.connect)),
        }
    }
}

impl AgentConnector for Tls {
    type Agent = Connection;

    async fn connect(&self, target: &Target) -> Result<Connection, AgentError> {
        let stream = Mutex::new(Some(TokioIo::new(self.stream(target).await?)));
        // Given once: tonic would connect anew by itself, to whoever listens there then.
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            ready(stream.ok_or_else(|| io::Error::other("the connection was closed")))
        });
        let endpoint = Endpoint::from_static("http://agent")
            .http2_keep_alive_interval(self.limits.keep_alive)
            .keep_alive_timeout(self.limits.keep_alive)
            .keep_alive_while_idle(true);
        let connected = timeout(self.limits.connect, endpoint.connect_with_connector(once)).await;
        let channel = match connected {
            Ok(channel) => channel.map_err(|error| AgentError::from(Status::from_error(error.into())))?,
            Err(_) => return Err(AgentError::NoAnswer(self.limits.connect)),
        };
        Ok(Connection { channel, limits: self.limits })
    }
}

/// A connection to a real agent.
#[derive(Debug, Clone)]
pub struct Connection {
    channel: Channel,
    limits: Limits,
}

macro_rules! client {
    ($name:ident, $client:ident) => {
        fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
        }
    };
}

impl Connection {
    client!(host_service, HostServiceClient);
    client!(guest_service, GuestServiceClient);
    client!(network_service, NetworkServiceClient);
    client!(image_service, ImageServiceClient);

    async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>> + Send) -> Result<T, AgentError> {
        within(self.limits.call, call).await
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>> + Send,
) -> Result<T, AgentError> {
    match timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(AgentError::NoAnswer(limit)),
    }
}

/// A part of an answer that the API promises.
fn promised<T>(part: Option<T>, what: &str) -> Result<T, AgentError> {
    part.ok_or_else(|| AgentError::Failed(format!("its answer has no {what}")))
}

impl Agent for Connection {
    async fn host(&self) -> Result<pb::Host, AgentError> {
        let answer = self.answer(self.host_service().get_host(pb::GetHostRequest {})).await?;
        promised(answer.host, "host")
    }

    async fn doctor(&self) -> Result<Vec<pb::DoctorCheck>, AgentError> {
        let mut service = self.host_service();
        Ok(within(self.limits.doctor, service.doctor(pb::DoctorRequest {})).await?.checks)
    }

    async fn cordon(&self, cordoned: bool) -> Result<pb::Host, AgentError> {
        let answer = self.answer(self.host_service().cordon_host(pb::CordonHostRequest { cordoned })).await?;
        promised(answer.host, "host")
    }

    async fn images(&self) -> Result<Vec<pb::Image>, AgentError> {
        Ok(self.answer(self.image_service().list_images(pb::ListImagesRequest {})).await?.images)
    }

    async fn apply_guest(&self, spec: pb::GuestSpec) -> Result<pb::ApplyGuestResponse, AgentError> {
        let request = pb::ApplyGuestRequest { spec: Some(spec), dry_run: false };
        self.answer(self.guest_service().apply_guest(request)).await
    }

    async fn delete_guest(&self, uid: GuestUid) -> Result<(), AgentError> {
        let request = pb::DeleteGuestRequest { uid: uid.to_string() };
        self.answer(self.guest_service().delete_guest(request)).await.map(|_| ())
    }

    async fn guest(&self, uid: GuestUid) -> Result<pb::Guest, AgentError> {
        let request = pb::GetGuestRequest { uid: uid.to_string() };
        promised(self.answer(self.guest_service().get_guest(request)).await?.guest, "guest")
    }

    async fn guests(&self) -> Result<pb::ListGuestsResponse, AgentError> {
        self.answer(self.guest_service().list_guests(pb::ListGuestsRequest::default())).await
    }

    async fn watch_guests(&self, revision: u64) -> Result<GuestWatch, AgentError> {
        let request = pb::WatchGuestsRequest { revision, cluster: String::new() };
        let events = self.answer(self.guest_service().watch_guests(request)).await?;
        Ok(GuestWatch::new(events.map(|event| event.map_err(AgentError::from))))
    }

    async fn apply_network(&self, request: pb::ApplyNetworkRequest) -> Result<pb::ApplyNetworkResponse, AgentError> {
        self.answer(self.network_service().apply_network(request)).await
    }

    async fn delete_network(&self, cluster: &ClusterName) -> Result<(), AgentError> {
        let request = pb::DeleteNetworkRequest { cluster: cluster.to_string() };
        self.answer(self.network_service().delete_network(request)).await.map(|_| ())
    }

    async fn network(&self, cluster: &ClusterName) -> Result<pb::Network, AgentError> {
        let request = pb::GetNetworkRequest { cluster: cluster.to_string() };
        promised(self.answer(self.network_service().get_network(request)).await?.network, "network")
    }

    async fn networks(&self) -> Result<Vec<pb::Network>, AgentError> {
        Ok(self.answer(self.network_service().list_networks(pb::ListNetworksRequest {})).await?.networks)
    }
}
