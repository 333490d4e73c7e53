//! Which agent, with which certificates: from the command line and its environment, else from a file.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::ConnectionArguments;

const DEFAULT_SOCKET: &str = "/run/goliath/agent.sock";
const DEFAULT_PORT: u16 = 7443;

/// What is wrong with how we were told to connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("`{0}` is not an agent's address: write unix:/PATH or https://HOST:PORT")]
    Address(String),
    #[error("an agent at https:// needs {0}: it answers only those whom its CA vouches for")]
    Lacking(String),
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

/// `~/.config/goliath/config.toml`: agents by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    /// The context to use where none is asked for.
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// One agent. Files are sought beside the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    agent: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Where to connect to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Socket(PathBuf),
    Tls { host: String, port: u16, ca: PathBuf, cert: PathBuf, key: PathBuf },
}

impl Target {
    pub(super) fn find(arguments: &ConnectionArguments) -> Result<Self, ConfigError> {
        // An agent that is named on the command line owes nothing to a file.
        let context = match (&arguments.agent, &arguments.context, config_file()) {
            (Some(_), None, _) | (None, None, None) => Context::default(),
            (_, name, Some(file)) => Context::read(&file, name.as_deref())?,
            (_, Some(name), None) => {
                return Err(ConfigError::NoContext {
                    name: name.clone(),
                    file: "~/.config/goliath/config.toml".into(),
                    known: "none: set HOME".to_owned(),
                });
            }
        };
        Self::new(Context {
            agent: arguments.agent.clone().or(context.agent),
            ca: arguments.ca.clone().or(context.ca),
            cert: arguments.cert.clone().or(context.cert),
            key: arguments.key.clone().or(context.key),
        })
    }

    fn new(Context { agent, ca, cert, key }: Context) -> Result<Self, ConfigError> {
        let Some(agent) = agent else { return Ok(Self::Socket(DEFAULT_SOCKET.into())) };
        if let Some(path) = agent.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Self::Socket(path.into()))
            } else {
                Err(ConfigError::Address(agent))
            };
        }
        if agent.starts_with('/') {
            return Ok(Self::Socket(agent.into()));
        }
        let uri: tonic::transport::Uri = agent.parse().map_err(|_| ConfigError::Address(agent.clone()))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.scheme_str() != Some("https") || host.is_empty() || !matches!(uri.path(), "" | "/") {
            return Err(ConfigError::Address(agent));
        }
        match (ca, cert, key) {
            (Some(ca), Some(cert), Some(key)) => {
                Ok(Self::Tls { host, port: uri.port_u16().unwrap_or(DEFAULT_PORT), ca, cert, key })
            }
            (ca, cert, key) => {
                let lacking: Vec<&str> = [("--ca", ca), ("--cert", cert), ("--key", key)]
                    .into_iter()
                    .filter_map(|(option, file)| file.is_none().then_some(option))
                    .collect();
                Err(ConfigError::Lacking(lacking.join(", ")))
            }
        }
    }

    /// For messages.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Socket(path) => format!("unix:{}", path.display()),
            Self::Tls { host, port, .. } if host.contains(':') => format!("https://[{host}]:{port}"),
            Self::Tls { host, port, .. } => format!("https://{host}:{port}"),
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
        Target::new(Context { agent: Some(agent.to_owned()), ca: file("ca"), cert: file("cert"), key: file("key") })
    }

    #[test]
    fn an_address_is_a_socket_or_a_host_with_a_port() {
        for text in ["unix:/run/a.sock", "unix:///run/a.sock", "/run/a.sock"] {
            assert_eq!(target(text).unwrap(), Target::Socket("/run/a.sock".into()), "{text}");
        }
        for (text, address) in [
            ("https://host-a", "https://host-a:7443"),
            ("https://192.0.2.1:1", "https://192.0.2.1:1"),
            ("https://[2001:db8::1]:7443/", "https://[2001:db8::1]:7443"),
        ] {
            assert_eq!(target(text).unwrap().address(), address);
        }
        for text in ["", "host-a:7443", "http://host-a:7443", "unix:relative", "https://", "https://a:1/b"] {
            assert!(matches!(target(text), Err(ConfigError::Address(_))), "{text}");
        }
    }

    #[test]
    fn tls_without_certificates_says_which_are_lacking() {
        let context = Context { agent: Some("https://a".to_owned()), ca: Some("ca.crt".into()), ..Context::default() };
        let error = Target::new(context).unwrap_err().to_string();
        assert!(error.contains("--cert, --key"), "{error}");
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
