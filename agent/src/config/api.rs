use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;

/// Who may call, and where.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// For root and the group, on this machine.
    pub socket: PathBuf,
    /// May use the socket beside root.
    pub socket_group: String,
    /// For the operator, by mutual TLS; without it the agent listens on its socket alone.
    pub tcp: Option<TcpConfig>,
}

/// Mutual TLS. The three files are read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpConfig {
    /// Addresses of the machine's own network.
    pub listen: Vec<SocketAddr>,
    /// The host's certificate and chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who may vouch for a client, PEM.
    pub client_ca: PathBuf,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { socket: "/run/goliath/agent.sock".into(), socket_group: "goliath".into(), tcp: None }
    }
}

impl super::Section for ApiConfig {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        match &self.tcp {
            Some(tcp) if tcp.listen.is_empty() => {
                vec![("listen", "must have an address, or leave [api.tcp] out".to_owned())]
            }
            _ => Vec::new(),
        }
    }
}
