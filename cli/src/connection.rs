//! The way to an agent, its Unix socket on the machine and mutual TLS from elsewhere, or to the operator of many hosts.

mod config;
mod probe;

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use goliath_proto::{
    agent::v1::{
        guest_service_client::GuestServiceClient, host_service_client::HostServiceClient,
        image_service_client::ImageServiceClient, inspect_service_client::InspectServiceClient,
        network_service_client::NetworkServiceClient,
    },
    operator::v1::{
        event_service_client::EventServiceClient, fleet_service_client::FleetServiceClient,
        object_service_client::ObjectServiceClient,
    },
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub(crate) use config::{ConfigError, Server};
use config::{Place, Target};

use crate::failure::ExitCode;

/// How to reach the agent, or the operator.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArguments {
    /// An agent: unix:/PATH or https://HOST:PORT; default unix:/run/goliath/agent.sock, or $GOLIATH_AGENT
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with = "operator")]
    agent: Option<String>,
    /// The operator of many hosts: https://HOST:PORT, or $GOLIATH_OPERATOR
    #[arg(long, global = true, value_name = "ADDRESS")]
    operator: Option<String>,
    /// The CA of the server's certificate, PEM, or $GOLIATH_CA
    #[arg(long, global = true, env = "GOLIATH_CA", value_name = "FILE", hide_env = true)]
    ca: Option<PathBuf>,
    /// Our certificate, PEM, or $GOLIATH_CERT
    #[arg(long, global = true, env = "GOLIATH_CERT", value_name = "FILE", hide_env = true)]
    cert: Option<PathBuf>,
    /// The key of our certificate, PEM, or $GOLIATH_KEY
    #[arg(long, global = true, env = "GOLIATH_KEY", value_name = "FILE", hide_env = true)]
    key: Option<PathBuf>,
    /// An agent or operator of ~/.config/goliath/config.toml, or $GOLIATH_CONTEXT
    #[arg(long, global = true, env = "GOLIATH_CONTEXT", value_name = "NAME", hide_env = true)]
    context: Option<String>,
    /// How long one request may take; default 30s
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", hide_default_value = true, value_parser = crate::manifest::parse_duration)]
    request_timeout: Duration,
}

impl ConnectionArguments {
    /// One request may take at least so long.
    pub(crate) fn with_patience(&self, patience: Duration) -> Self {
        Self { request_timeout: self.request_timeout.max(patience), ..self.clone() }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without a sign of life from the agent a stream is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A list carries the seeds of all guests.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Why the agent, or the operator, could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the {server} at {address}: {problem}")]
pub(crate) struct ConnectError {
    server: Server,
    address: String,
    problem: ConnectProblem,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum ConnectProblem {
    #[error("there is no such socket")]
    NoSocket,
    #[error("nobody listens on that socket")]
    DeadSocket,
    #[error("you may not open that socket")]
    SocketNotPermitted,
    #[error("it did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent,
    #[error("nothing listens there")]
    NothingListens,
    #[error("it did not accept our certificate: {0}")]
    OurCertificate(String),
    #[error("its certificate is not acceptable: {0}")]
    ItsCertificate(String),
    #[error("{0}")]
    Other(String),
}

impl ConnectError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.problem {
            ConnectProblem::SocketNotPermitted | ConnectProblem::OurCertificate(_) => ExitCode::NotPermitted,
            _ => ExitCode::Unreachable,
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self.problem {
            ConnectProblem::Silent | ConnectProblem::NothingListens if self.server == Server::Operator => {
                "is the operator running there? `systemctl status goliath-operator`; is no firewall between?"
            }
            ConnectProblem::OurCertificate(_) if self.server == Server::Operator => {
                "give a certificate that the operator's client_ca signed: --cert and --key, or a context"
            }
            ConnectProblem::NoSocket | ConnectProblem::DeadSocket => {
                "is the agent running? `systemctl status goliath-agent`; for another machine give --agent https://HOST:7443"
            }
            ConnectProblem::SocketNotPermitted => {
                "be root or in the group goliath: `sudo usermod -aG goliath $USER`, then log in again"
            }
            ConnectProblem::Silent | ConnectProblem::NothingListens => {
                "is the agent running there, with [api.tcp] in its agent.toml, and no firewall between?"
            }
            ConnectProblem::OurCertificate(_) => {
                "give a certificate that the agent's client_ca signed: --cert and --key, or a context"
            }
            ConnectProblem::ItsCertificate(_) => {
                "--ca must be the CA of the server's certificate, and HOST a name or address that stands in it"
            }
            ConnectProblem::Other(_) => "is the address right? unix:/PATH or https://HOST:PORT",
        }
        .to_owned()
    }
}

/// A connection to an agent. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    channel: Channel,
}

macro_rules! client {
    ($name:ident, $client:ident) => {
        pub(crate) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
        }
    };
}

impl Agent {
    client!(guests, GuestServiceClient);
    client!(networks, NetworkServiceClient);
    client!(host, HostServiceClient);
    client!(images, ImageServiceClient);
    client!(inspect, InspectServiceClient);

    pub(crate) async fn connect(arguments: &ConnectionArguments) -> Result<Self, crate::failure::Failure> {
        let target = Target::find(arguments)?.expecting(Server::Agent)?;
        Ok(Self { channel: connect(arguments, &target).await? })
    }
}

/// A connection to an operator. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    channel: Channel,
}

impl Operator {
    client!(objects, ObjectServiceClient);
    client!(events, EventServiceClient);
    client!(fleet, FleetServiceClient);

    pub(crate) async fn connect(arguments: &ConnectionArguments) -> Result<Self, crate::failure::Failure> {
        let target = Target::find(arguments)?.expecting(Server::Operator)?;
        Ok(Self { channel: connect(arguments, &target).await? })
    }
}

async fn connect(arguments: &ConnectionArguments, target: &Target) -> Result<Channel, crate::failure::Failure> {
    let endpoint = endpoint(target)?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(arguments.request_timeout)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    endpoint.connect().await.map_err(|error| {
        let problem = problem(&error, matches!(target.place, Place::Socket(_)));
        ConnectError { server: target.server, address: target.address(), problem }.into()
    })
}

/// Which of the two the arguments, the environment and the file mean.
pub(crate) fn server(arguments: &ConnectionArguments) -> Result<Server, ConfigError> {
    Target::find(arguments).map(|target| target.server)
}

/// Why a connection broke that was made, where that can be found out: with TLS 1.3 a client learns only after the
/// handshake that its certificate was not accepted, and HTTP/2 keeps the reason to itself.
pub(crate) async fn diagnose(arguments: &ConnectionArguments) -> Option<ConnectError> {
    let target = Target::find(arguments).ok()?;
    let alert = probe::alert(&target).await?;
    let problem = ConnectProblem::OurCertificate(alert);
    Some(ConnectError { server: target.server, address: target.address(), problem })
}

fn endpoint(target: &Target) -> Result<Endpoint, ConfigError> {
    match &target.place {
        Place::Socket(path) => Endpoint::from_shared(format!("unix:{}", path.display()))
            .map_err(|_| ConfigError::Address { server: target.server, address: target.address() }),
        Place::Tls { host, port, ca, cert, key } => {
            let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            let address = format!("https://{authority}");
            let tls = ClientTlsConfig::new()
                // An IPv6 address stands in brackets in the URL and without them in the certificate.
                .domain_name(host.clone())
                .ca_certificate(Certificate::from_pem(read(ca)?))
                .identity(Identity::from_pem(read(cert)?, read(key)?));
            Endpoint::from_shared(address.clone())
                .map_err(|_| ConfigError::Address { server: target.server, address })?
                .tls_config(tls)
                .map_err(ConfigError::Tls)
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(file).map_err(|reason| ConfigError::Unreadable { file: file.to_owned(), reason })
}

/// What lies below the layers of the transport.
fn problem(error: &(dyn Error + 'static), socket: bool) -> ConnectProblem {
    let mut deepest = error.to_string();
    let mut cause = Some(error);
    while let Some(error) = cause {
        deepest = error.to_string();
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return ConnectProblem::ItsCertificate(error.to_string());
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return ConnectProblem::ItsCertificate(tls.to_string());
            }
            match error.kind() {
                io::ErrorKind::NotFound if socket => return ConnectProblem::NoSocket,
                io::ErrorKind::ConnectionRefused if socket => return ConnectProblem::DeadSocket,
                io::ErrorKind::PermissionDenied if socket => return ConnectProblem::SocketNotPermitted,
                io::ErrorKind::ConnectionRefused => return ConnectProblem::NothingListens,
                io::ErrorKind::TimedOut => return ConnectProblem::Silent,
                _ => {}
            }
        }
        cause = error.source();
    }
    // The connector's own time limit has no public type.
    if deepest.contains("deadline has elapsed") { ConnectProblem::Silent } else { ConnectProblem::Other(deepest) }
}
