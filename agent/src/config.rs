//! `agent.toml`, validated whole: every error at once, each with its line.

mod api;
mod capacity;
mod image;
mod issuer;
mod network;
mod qemu;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use toml::de::{DeTable, DeValue};

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

/// What is wrong with a configuration file: all of it.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    file: PathBuf,
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    line: usize,
    message: String,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for Problem { line, message } in &self.problems {
            if !first {
                formatter.write_str("\n")?;
            }
            first = false;
            write!(formatter, "{}:{line}: {message}", self.file.display())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What a section says of itself beyond its types.
trait Section: DeserializeOwned + Default {
    /// Each complaint names the key it is about.
    fn complaints(&self) -> Vec<(&'static str, String)> {
        Vec::new()
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
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(file, &text),
            Err(reason) => Err(ConfigErrors {
                file: file.to_owned(),
                problems: vec![Problem { line: 0, message: format!("cannot be read: {reason}") }],
            }),
        }
    }

    /// Validates a file's text; `file` is for messages.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let mut reader = Reader { text, problems: Vec::new() };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            reader.problem(error.span().unwrap_or(0..0), error.message());
        }
        let mut sections: BTreeMap<String, (Range<usize>, DeValue<'_>)> = document
            .into_inner()
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (key.span(), value.into_inner())))
            .collect();
        let config = Self {
            name: reader.host_name(sections.remove("name")),
            directories: reader.section("directories", sections.remove("directories")),
            api: reader.section("api", sections.remove("api")),
            capacity: reader.section("capacity", sections.remove("capacity")),
            qemu: reader.section("qemu", sections.remove("qemu")),
            images: reader.section("images", sections.remove("images")),
            network: reader.section("network", sections.remove("network")),
            issuers: reader.issuers(sections.remove("issuers")),
        };
        for (name, (span, _)) in sections {
            reader.problem(
                span,
                &format!(
                    "`{name}` is not known here: name, directories, api, capacity, qemu, images, network, issuers"
                ),
            );
        }
        if reader.problems.is_empty() {
            return Ok(config);
        }
        reader.problems.sort_by_key(|problem| problem.line);
        Err(ConfigErrors { file: file.to_owned(), problems: reader.problems })
    }
}

/// Reads section by section and collects what is wrong.
struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, span: Range<usize>, message: &str) {
        let line = self.text.get(..span.start).map_or(0, |before| before.matches('\n').count()) + 1;
        // A parser's message may have several lines; ours is one.
        self.problems.push(Problem { line, message: message.trim().replace('\n', ": ") });
    }

    fn host_name(&mut self, value: Option<(Range<usize>, DeValue<'_>)>) -> Option<String> {
        match value? {
            (_, DeValue::String(name)) if !name.is_empty() && name.len() <= 253 => Some(name.into_owned()),
            (span, _) => {
                self.problem(span, "name must be a host's name of 1 to 253 characters");
                None
            }
        }
    }

    fn section<T: Section>(&mut self, name: &str, value: Option<(Range<usize>, DeValue<'_>)>) -> T {
        let Some((span, value)) = value else {
            let section = T::default();
            self.complain(name, 0..0, &section);
            return section;
        };
        match T::deserialize(toml::de::ValueDeserializer::from(serde_spanned(span.clone(), value))) {
            Ok(section) => {
                self.complain(name, span, &section);
                section
            }
            Err(error) => {
                self.problem(error.span().unwrap_or(span), &format!("[{name}] {}", error.message()));
                T::default()
            }
        }
    }

    fn complain<T: Section>(&mut self, name: &str, span: Range<usize>, section: &T) {
        for (key, complaint) in section.complaints() {
            let line_start = self.line_of_key(span.start, key).unwrap_or(span.start);
            self.problem(line_start..line_start, &format!("[{name}] {key}: {complaint}"));
        }
    }

    /// Where `key = …` stands at or after the section's start.
    fn line_of_key(&self, from: usize, key: &str) -> Option<usize> {
        let section = self.text.get(from..)?;
        let mut offset = from;
        for line in section.split_inclusive('\n') {
            if line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')) {
                return Some(offset);
            }
            offset += line.len();
        }
        None
    }

    fn issuers(&mut self, value: Option<(Range<usize>, DeValue<'_>)>) -> BTreeMap<IssuerName, IssuerConfig> {
        let mut issuers = BTreeMap::new();
        let table = match value {
            None => return issuers,
            Some((_, DeValue::Table(table))) => table,
            Some((span, _)) => {
                self.problem(span, "issuers must be tables: [issuers.<name>]");
                return issuers;
            }
        };
        for (key, value) in table {
            let span = key.span();
            let name = match key.get_ref().parse::<IssuerName>() {
                Ok(name) => name,
                Err(reason) => {
                    self.problem(span, &format!("[issuers.{}] the name {reason}", key.get_ref()));
                    continue;
                }
            };
            match IssuerConfig::deserialize(toml::de::ValueDeserializer::from(serde_spanned(
                span.clone(),
                value.into_inner(),
            ))) {
                Ok(issuer) => {
                    for (key, complaint) in issuer.complaints() {
                        let line_start = self.line_of_key(span.start, key).unwrap_or(span.start);
                        self.problem(line_start..line_start, &format!("[issuers.{name}] {key}: {complaint}"));
                    }
                    issuers.insert(name, issuer);
                }
                Err(error) => {
                    self.problem(error.span().unwrap_or(span), &format!("[issuers.{name}] {}", error.message()));
                }
            }
        }
        issuers
    }
}

fn serde_spanned(span: Range<usize>, value: DeValue<'_>) -> toml::Spanned<DeValue<'_>> {
    toml::Spanned::new(span, value)
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
