//! `agent.toml`, validated whole: every error at once, each with its line.

mod api;
mod capacity;
mod image;
mod issuer;
mod network;
mod qemu;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use goliath_server::config::ConfigErrors;
use goliath_server::config::{self, Reader, Section};
use serde::Deserialize;

pub use api::{ApiConfig, TcpConfig, next_socket};
pub use capacity::CapacityConfig;
pub use image::ImageConfig;
pub use issuer::{IssuerConfig, LocalIssuerConfig, VaultAuth, VaultIssuerConfig};
pub use network::NetworkConfig;
pub use qemu::QemuConfig;

use crate::spec::IssuerName;

/// The agent's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The host's name, for people and for the operator; the machine's hostname where none is given.
    pub name: Option<String>,
    /// Where things are kept.
    pub directories: Directories,
    /// Who may call, and where.
    pub api: ApiConfig,
    /// How much of the machine guests may have.
    pub capacity: CapacityConfig,
    /// How QEMU is run.
    pub qemu: QemuConfig,
    /// Where images come from and what is refused.
    pub images: ImageConfig,
    /// The underlay.
    pub network: NetworkConfig,
    /// Who issues certificates, by name.
    pub issuers: BTreeMap<IssuerName, IssuerConfig>,
}

/// Where things are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Directories {
    /// Survives a restart of the machine: ledger, images, disks.
    pub state: PathBuf,
    /// Does not: sockets, process records, certificates. On a tmpfs.
    pub runtime: PathBuf,
}

impl Default for Directories {
    fn default() -> Self {
        Self { state: "/var/lib/goliath".into(), runtime: "/run/goliath".into() }
    }
}

impl Section for Directories {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        let relative = |path: &Path| (!path.is_absolute()).then(|| format!("{} must be absolute", path.display()));
        [("state", relative(&self.state)), ("runtime", relative(&self.runtime))]
            .into_iter()
            .filter_map(|(key, complaint)| complaint.map(|complaint| (key, complaint)))
            .collect()
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
        let good_name = |name: &str| !name.is_empty() && name.len() <= 253;
        let config = Self {
            name: reader.string("name", good_name, "must be a host's name of 1 to 253 characters"),
            directories: reader.section("directories"),
            api: reader.section("api"),
            capacity: reader.section("capacity"),
            qemu: reader.section("qemu"),
            images: reader.section("images"),
            network: reader.section("network"),
            issuers: reader.tables("issuers", IssuerConfig::complaints),
        };
        reader.finish(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let file = Path::new("agent.toml");
        Config::parse(file, text)
            .map_or_else(|errors| errors.to_string().lines().map(str::to_owned).collect(), |_| Vec::new())
    }

    const NEEDED: &str = "[network]\nunderlay_address = \"192.0.2.1\"\n";

    #[test]
    fn a_file_with_only_what_is_needed_is_enough() {
        assert_eq!(errors(NEEDED), Vec::<String>::new());
    }

    #[test]
    fn the_example_is_valid_and_its_comments_tell_the_defaults() {
        let example = include_str!("../../systemd/agent.toml");
        assert_eq!(errors(example), Vec::<String>::new());
        // A commented key, taken in, must change nothing.
        let spelled_out: String = example
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") && !setting.starts_with("name") => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let parse = |text: &str| format!("{:?}", Config::parse(Path::new("agent.toml"), text).unwrap());
        assert!(spelled_out.contains("\nvcpu_ratio = 4.0"));
        assert_eq!(parse(&spelled_out), parse(example));
    }

    #[test]
    fn every_error_is_told_at_once_each_with_its_line() {
        let text = "nmae = \"a\"\n\n[directories]\nstate = \"relative\"\n\n[qemu]\nbinarry = \"/usr/bin/qemu\"\n\n[network]\nunderlay_address = \"192.0.2.300\"\n";
        let found = errors(text);
        assert_eq!(found.len(), 4, "{found:#?}");
        for (error, line) in found.iter().zip([1, 4, 7, 10]) {
            assert!(error.starts_with(&format!("agent.toml:{line}: ")), "{error}");
        }
    }

    #[test]
    fn what_is_not_toml_is_refused_with_its_line() {
        let found = errors("[network\nunderlay_address = \"192.0.2.1\"\n");
        assert!(found.iter().any(|error| error.starts_with("agent.toml:1: ")), "{found:#?}");
    }
}
