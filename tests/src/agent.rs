//! The ways to call a real agent.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use goliath_proto::agent::v1::{
    guest_service_client::GuestServiceClient, host_service_client::HostServiceClient,
    image_service_client::ImageServiceClient, inspect_service_client::InspectServiceClient,
    network_service_client::NetworkServiceClient,
};
use hyper_util::rt::TokioIo;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity, Uri};

use crate::{pki::Identity, underlay};

/// The agent's services over one connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Over the Unix socket, as root on the machine.
    pub async fn over_socket(path: PathBuf) -> Result<Self> {
        let shown = path.display().to_string();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is not looked up: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://agent.goliath");
        let channel = endpoint.connect_with_connector(connector).await;
        Ok(Self { channel: channel.with_context(|| format!("cannot reach the agent at {shown}"))? })
    }

    /// By mutual TLS from inside a namespace, as an operator elsewhere would; without an identity where none is given.
    pub async fn over_tls(
        namespace: &Path,
        address: SocketAddr,
        authority: &str,
        identity: Option<&Identity>,
    ) -> Result<Self> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
        if let Some(identity) = identity {
            tls = tls.identity(TlsIdentity::from_pem(&identity.certificate, &identity.key));
        }
        let namespace = namespace.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let namespace = namespace.clone();
            async move { underlay::connect(&namespace, address).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
        let channel = endpoint.connect_with_connector(connector).await;
        Ok(Self { channel: channel.with_context(|| format!("cannot reach the agent at {address}"))? })
    }

    /// Guests.
    pub fn guests(&self) -> GuestServiceClient<Channel> {
        GuestServiceClient::new(self.channel.clone())
    }

    /// Networks.
    pub fn networks(&self) -> NetworkServiceClient<Channel> {
        NetworkServiceClient::new(self.channel.clone())
    }

    /// The host itself.
    pub fn host(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    /// Images.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Looks into guests.
    pub fn inspect(&self) -> InspectServiceClient<Channel> {
        InspectServiceClient::new(self.channel.clone())
    }

    /// The connection, for services that are not the agent's own.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}
