//! Which agent or operator, with which certificates: from the command line and its environment, else from a file.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::ConnectionArguments;

const DEFAULT_SOCKET: &str = "/run/goliath/agent.sock";
const AGENT_PORT: u16 = 7443;
const OPERATOR_PORT: u16 = 7444;

/// What is wrong with how we were told to connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("`{address}` is not an {server}'s address: write {}", forms(*.server))]
    Address { server: Server, address: String },
    #[error("an {server} at https:// needs {options}: it answers only those whom its CA vouches for")]
    Lacking { server: Server, options: String },
    #[error("{0}: an agent or an operator can be meant, not both")]
    Both(String),
    #[error("this needs an {wanted}, and {address} is {}", other(*.wanted))]
    Other { wanted: Server, address: String },
    #[error("cannot read {}", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        reason: io::Error,
    },
    #[error("{} is not a configuration", file.display())]
    Malformed {
        file: PathBuf,
        #[source]
        reason: Box<toml::de::Error>,
    },
    #[error("there is no context `{name}` in {}: known are {known}", file.display())]
    NoContext { name: String, file: PathBuf, known: String },
    #[error("the certificates cannot be used")]
    Tls(#[source] tonic::transport::Error),
}

fn forms(server: Server) -> &'static str {
    match server {
        Server::Agent => "unix:/PATH or https://HOST:PORT",
        Server::Operator => "https://HOST:PORT",
    }
}

fn other(wanted: Server) -> &'static str {
    match wanted {
        Server::Agent => "an operator: name a host's agent with --agent",
        Server::Operator => "an agent: name the operator with --operator, GOLIATH_OPERATOR or a context",
    }
}

/// Who answers at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// Of one host.
    Agent,
    /// Of many.
    Operator,
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Agent => "agent",
            Self::Operator => "operator",
        })
    }
}

/// `~/.config/goliath/config.toml`: agents and operators by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    /// The context to use where none is asked for.
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// One agent or operator. Files are sought beside the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    agent: Option<String>,
    operator: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Whom to connect to, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) server: Server,
    pub(super) place: Place,
}

/// Where to connect to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Socket(PathBuf),
    Tls { host: String, port: u16, ca: PathBuf, cert: PathBuf, key: PathBuf },
}

impl Target {
    pub(super) fn find(arguments: &ConnectionArguments) -> Result<Self, ConfigError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // What stands on the command line is meant, whatever the environment says.
        let (agent, operator) = match (&arguments.agent, &arguments.operator) {
            (None, None) => (variable("GOLIATH_AGENT"), variable("GOLIATH_OPERATOR")),
            (agent, operator) => (agent.clone(), operator.clone()),
        };
        if agent.is_some() && operator.is_some() {
            return Err(ConfigError::Both("GOLIATH_AGENT and GOLIATH_OPERATOR are set".to_owned()));
        }
        // An address that is given owes nothing to a file.
        let context = match (agent.is_some() || operator.is_some(), &arguments.context, config_file()) {
            (true, None, _) | (false, None, None) => Context::default(),
            (_, name, Some(file)) => Context::read(&file, name.as_deref())?,
            (_, Some(name), None) => {
                return Err(ConfigError::NoContext {
                    name: name.clone(),
                    file: "~/.config/goliath/config.toml".into(),
                    known: "none: set HOME".to_owned(),
                });
            }
        };
        let (agent, operator) =
            if agent.is_some() || operator.is_some() { (agent, operator) } else { (context.agent, context.operator) };
        Self::new(Context {
            agent,
            operator,
            ca: arguments.ca.clone().or(context.ca),
            cert: arguments.cert.clone().or(context.cert),
            key: arguments.key.clone().or(context.key),
        })
    }

    fn new(Context { agent, operator, ca, cert, key }: Context) -> Result<Self, ConfigError> {
        let (server, address) = match (agent, operator) {
            (Some(_), Some(_)) => return Err(ConfigError::Both("the context has both".to_owned())),
            (None, None) => return Ok(Self { server: Server::Agent, place: Place::Socket(DEFAULT_SOCKET.into()) }),
            (Some(agent), None) => (Server::Agent, agent),
            (None, Some(operator)) => (Server::Operator, operator),
        };
        let socket = address.strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path));
        if let Some(path) = socket.or_else(|| address.starts_with('/').then_some(address.as_str())) {
            return match server {
                Server::Agent if path.starts_with('/') => Ok(Self { server, place: Place::Socket(path.into()) }),
                server => Err(ConfigError::Address { server, address }),
            };
        }
        let malformed = || ConfigError::Address { server, address: address.clone() };
        let uri: tonic::transport::Uri = address.parse().map_err(|_| malformed())?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.scheme_str() != Some("https") || host.is_empty() || !matches!(uri.path(), "" | "/") {
            return Err(malformed());
        }
        let default_port = match server {
            Server::Agent => AGENT_PORT,
            Server::Operator => OPERATOR_PORT,
        };
        match (ca, cert, key) {
            (Some(ca), Some(cert), Some(key)) => {
                let port = uri.port_u16().unwrap_or(default_port);
                Ok(Self { server, place: Place::Tls { host, port, ca, cert, key } })
            }
            (ca, cert, key) => {
                let lacking: Vec<&str> = [("--ca", ca), ("--cert", cert), ("--key", key)]
                    .into_iter()
                    .filter_map(|(option, file)| file.is_none().then_some(option))
                    .collect();
                Err(ConfigError::Lacking { server, options: lacking.join(", ") })
            }
        }
    }

    /// The same, if it is such a server.
    pub(super) fn expecting(self, server: Server) -> Result<Self, ConfigError> {
        if self.server == server {
            Ok(self)
        } else {
            Err(ConfigError::Other { wanted: server, address: self.address() })
        }
    }

    /// For messages.
    pub(super) fn address(&self) -> String {
        match &self.place {
            Place::Socket(path) => format!("unix:{}", path.display()),
            Place::Tls { host, port, .. } if host.contains(':') => format!("https://[{host}]:{port}"),
            Place::Tls { host, port, .. } => format!("https://{host}:{port}"),
        }
    }
}

/// By the XDG base directory specification; none without a home.
fn config_file() -> Option<PathBuf> {
    let directory = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|directory| !directory.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(directory.join("goliath/config.toml"))
}

impl Context {
    /// The one of that name, or the current one; a file that is not there has none.
    fn read(file: &Path, name: Option<&str>) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(reason) if reason.kind() == io::ErrorKind::NotFound && name.is_none() => return Ok(Self::default()),
            Err(reason) => return Err(ConfigError::Unreadable { file: file.to_owned(), reason }),
        };
        Self::parse(file, &text, name)
    }

    fn parse(file: &Path, text: &str, name: Option<&str>) -> Result<Self, ConfigError> {
        let config: ConfigFile = toml::from_str(text)
            .map_err(|reason| ConfigError::Malformed { file: file.to_owned(), reason: Box::new(reason) })?;
        let Some(name) = name.or(config.current.as_deref()) else { return Ok(Self::default()) };
        let Some(context) = config.contexts.get(name) else {
            let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(ConfigError::NoContext { name: name.to_owned(), file: file.to_owned(), known });
        };
        let beside = |path: &PathBuf| file.parent().map_or_else(|| path.clone(), |directory| directory.join(path));
        Ok(Self {
            agent: context.agent.clone(),
            operator: context.operator.clone(),
            ca: context.ca.as_ref().map(beside),
            cert: context.cert.as_ref().map(beside),
            key: context.key.as_ref().map(beside),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(agent: &str) -> Result<Target, ConfigError> {
        let file = |name: &str| Some(PathBuf::from(name));
        let agent = Some(agent.to_owned());
        Target::new(Context { agent, operator: None, ca: file("ca"), cert: file("cert"), key: file("key") })
    }

    #[test]
    fn an_address_is_a_socket_or_a_host_with_a_port() {
        for text in ["unix:/run/a.sock", "unix:///run/a.sock", "/run/a.sock"] {
            assert_eq!(target(text).unwrap().place, Place::Socket("/run/a.sock".into()), "{text}");
        }
        for (text, address) in [
            ("https://host-a", "https://host-a:7443"),
            ("https://192.0.2.1:1", "https://192.0.2.1:1"),
            ("https://[2001:db8::1]:7443/", "https://[2001:db8::1]:7443"),
        ] {
            assert_eq!(target(text).unwrap().address(), address);
        }
        for text in ["", "host-a:7443", "http://host-a:7443", "unix:relative", "https://", "https://a:1/b"] {
            assert!(matches!(target(text), Err(ConfigError::Address { .. })), "{text}");
        }
    }

    #[test]
    fn tls_without_certificates_says_which_are_lacking() {
        let context = Context { agent: Some("https://a".to_owned()), ca: Some("ca.crt".into()), ..Context::default() };
        let error = Target::new(context).unwrap_err().to_string();
        assert!(error.contains("--cert, --key"), "{error}");
    }

    #[test]
    fn an_operator_is_reached_over_tls_alone() {
        let file = |name: &str| Some(PathBuf::from(name));
        let target = |operator: &str| {
            let operator = Some(operator.to_owned());
            Target::new(Context { agent: None, operator, ca: file("ca"), cert: file("cert"), key: file("key") })
        };
        let found = target("https://operator.example").unwrap();
        assert_eq!((found.server, found.address().as_str()), (Server::Operator, "https://operator.example:7444"));
        let refused = found.expecting(Server::Agent).unwrap_err().to_string();
        assert!(refused.contains("--agent"), "{refused}");
        for text in ["unix:/run/operator.sock", "/run/operator.sock", "operator.example"] {
            assert!(matches!(target(text), Err(ConfigError::Address { .. })), "{text}");
        }
        let both = Context {
            agent: Some("https://a".to_owned()),
            operator: Some("https://b".to_owned()),
            ..Context::default()
        };
        assert!(matches!(Target::new(both), Err(ConfigError::Both(_))));
    }

    #[test]
    fn a_context_names_an_agent_and_files_beside_the_configuration() {
        let file = Path::new("/home/me/.config/goliath/config.toml");
        let text = "current = \"a\"\n[contexts.a]\nagent = \"https://a\"\nca = \"a/ca.crt\"\n[contexts.b]\n";
        let context = Context::parse(file, text, None).unwrap();
        assert_eq!(context.agent.as_deref(), Some("https://a"));
        assert_eq!(context.ca, Some("/home/me/.config/goliath/a/ca.crt".into()));
        let error = Context::parse(file, text, Some("c")).unwrap_err().to_string();
        assert!(error.contains("known are a, b"), "{error}");
        assert!(matches!(Context::parse(file, "agnet = 1\n", None), Err(ConfigError::Malformed { .. })));
    }
}
