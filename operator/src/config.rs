//! `operator.toml`, validated whole: every error at once, each with its line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use goliath_server::config::ConfigErrors;
use goliath_server::{
    config::{self, Complaint, Reader, Section},
    tls::TcpConfig,
};
use serde::Deserialize;

use crate::{api::Roles, network::VniRange, objects::IssuerName, pki::IssuerConfig};

/// The operator's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where things are kept.
    pub directories: Directories,
    /// Where people and programs call.
    pub api: ApiConfig,
    /// What they may.
    pub roles: Roles,
    /// The way to the hosts' agents.
    pub agents: AgentsConfig,
    /// The clusters' networks.
    pub network: NetworkConfig,
    /// Who issues certificates, by name.
    pub issuers: BTreeMap<IssuerName, IssuerConfig>,
}

/// Where things are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Directories {
    /// Survives a restart of the machine: the store.
    pub state: PathBuf,
    /// Does not: secret ids. On a tmpfs.
    pub runtime: PathBuf,
    /// Templates of seeds beside the operator's own, and in their place.
    pub templates: Option<PathBuf>,
}

impl Default for Directories {
    fn default() -> Self {
        Self { state: "/var/lib/goliath-operator".into(), runtime: "/run/goliath-operator".into(), templates: None }
    }
}

impl Section for Directories {
    fn complaints(&self) -> Vec<Complaint> {
        let Self { state, runtime, templates } = self;
        absolute([("state", Some(state)), ("runtime", Some(runtime)), ("templates", templates.as_ref())])
    }
}

/// Where people and programs call, by mutual TLS. The three files are read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct ApiConfig(pub TcpConfig);

impl Section for ApiConfig {
    fn complaints(&self) -> Vec<Complaint> {
        let TcpConfig { listen, certificate, key, client_ca } = &self.0;
        let mut complaints =
            absolute([("certificate", Some(certificate)), ("key", Some(key)), ("client_ca", Some(client_ca))]);
        if listen.is_empty() {
            complaints.push(("listen", "must have an address".to_owned()));
        }
        complaints
    }
}

impl Section for Roles {
    fn complaints(&self) -> Vec<Complaint> {
        let Self { viewer, operator, administrator } = self;
        let mut complaints = Vec::new();
        for (key, organizations) in [("viewer", viewer), ("operator", operator), ("administrator", administrator)] {
            if organizations.iter().any(String::is_empty) {
                complaints.push((key, "has an organisation without a name".to_owned()));
            }
        }
        complaints.extend(self.twice().into_iter().map(|name| ("viewer", format!("{name:?} has more than one role"))));
        if administrator.is_empty() {
            complaints.push(("administrator", "is empty: nobody could add a host".to_owned()));
        }
        complaints
    }
}

/// The way to the hosts' agents, by mutual TLS. The files are read again for each connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentsConfig {
    /// The operator's certificate and chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who may vouch for agents, PEM.
    pub ca: PathBuf,
}

impl Section for AgentsConfig {
    fn complaints(&self) -> Vec<Complaint> {
        let Self { certificate, key, ca } = self;
        absolute([("certificate", Some(certificate)), ("key", Some(key)), ("ca", Some(ca))])
    }
}

/// The clusters' networks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The first VNI that clusters are given.
    pub first_vni: u32,
    /// The last one.
    pub last_vni: u32,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { first_vni: 4096, last_vni: 0x00ff_ffff }
    }
}

impl NetworkConfig {
    /// The VNIs that clusters are given.
    pub fn vnis(&self) -> Result<VniRange, Complaint> {
        let vni =
            |key, number: u32| goliath_proto::values::Vni::try_from(number).map_err(|reason| (key, reason.to_string()));
        let (first, last) = (vni("first_vni", self.first_vni)?, vni("last_vni", self.last_vni)?);
        VniRange::new(first, last).map_err(|reason| ("first_vni", reason.to_string()))
    }
}

impl Section for NetworkConfig {
    fn complaints(&self) -> Vec<Complaint> {
        self.vnis().err().into_iter().collect()
    }
}

impl Config {
    /// Reads and validates a file.
    pub fn read(file: &Path) -> Result<Self, ConfigErrors> {
        Self::parse(file, &config::text(file)?)
    }

    /// Validates a file's text; `file` is for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(file, text);
        let directories = reader.section("directories");
        let api = reader.required("api");
        let roles = reader.section("roles");
        let agents = reader.required("agents");
        let network = reader.section("network");
        let issuers = reader.tables("issuers", IssuerConfig::complaints);
        let config = api.zip(agents);
        reader.finish(config.map(|(api, agents)| Self { directories, api, roles, agents, network, issuers }))
    }

    /// The file of the store.
    pub fn store(&self) -> PathBuf {
        self.directories.state.join("store.redb")
    }
}

fn absolute<'a>(paths: impl IntoIterator<Item = (&'static str, Option<&'a PathBuf>)>) -> Vec<Complaint> {
    let relative = |path: &PathBuf| (!path.is_absolute()).then(|| format!("{} must be absolute", path.display()));
    paths.into_iter().filter_map(|(key, path)| path.and_then(relative).map(|complaint| (key, complaint))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let file = Path::new("operator.toml");
        Config::parse(file, text)
            .map_or_else(|errors| errors.to_string().lines().map(str::to_owned).collect(), |_| Vec::new())
    }

    const NEEDED: &str = "\
[api]
listen = [\"192.0.2.1:7444\"]
certificate = \"/pki/tls.crt\"
key = \"/pki/tls.key\"
client_ca = \"/pki/ca.crt\"

[agents]
certificate = \"/pki/operator.crt\"
key = \"/pki/operator.key\"
ca = \"/pki/agents.crt\"
";

    #[test]
    fn a_file_with_only_what_is_needed_is_enough() {
        assert_eq!(errors(NEEDED), Vec::<String>::new());
        let config = Config::parse(Path::new("operator.toml"), NEEDED).unwrap();
        assert_eq!(config.store(), Path::new("/var/lib/goliath-operator/store.redb"));
    }

    #[test]
    fn the_example_is_valid_and_its_comments_tell_the_defaults() {
        let example = include_str!("../../systemd/operator.toml");
        assert_eq!(errors(example), Vec::<String>::new());
        // A commented key, taken in, must change nothing; what stands for issuers is no default.
        let (before, _) = example.split_once("# [issuers").unwrap();
        let spelled_out: String = before
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") && !setting.starts_with("templates") => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let parse = |text: &str| format!("{:?}", Config::parse(Path::new("operator.toml"), text).unwrap());
        assert!(spelled_out.contains("\nfirst_vni = 4096"), "{spelled_out}");
        assert_eq!(parse(&spelled_out), parse(example));
    }

    #[test]
    fn every_error_is_told_at_once_each_with_its_line() {
        let text = format!(
            "surprise = 1\n{NEEDED}[roles]\nviewer = [\"\"]\nadministrator = []\n[network]\nfirst_vni = 9\nlast_vni = 8\n[directories]\nsate = \"/a\"\n"
        );
        let found = errors(&text);
        let lines: Vec<_> = found.iter().map(|error| error.split(':').nth(1).unwrap().to_owned()).collect();
        assert_eq!(lines, ["1", "13", "14", "16", "19"], "{found:#?}");
        let found = errors("");
        assert_eq!(found, ["operator.toml:1: [api] must be there", "operator.toml:1: [agents] must be there"]);
    }
}
