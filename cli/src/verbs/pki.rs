//! `goliath pki`.

mod authority;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};

use crate::{
    failure::{ExitCode, Failure},
    manifest::parse_duration,
    output::print,
};
use authority::Authority;

/// Makes certificates for a machine that has no PKI
#[derive(Debug, Args)]
pub(crate) struct PkiArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Init(InitArguments),
}

/// Makes a CA, a host's certificate and an operator's, and says where they go
///
/// All or nothing: the directory must not be there, or be empty. Keys can be read by you alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  goliath pki init /etc/goliath/pki --host-name host-a --address 192.0.2.10")]
struct InitArguments {
    /// The directory to make
    directory: PathBuf,
    /// The host's name; stands in its certificate
    #[arg(long, value_name = "NAME")]
    host_name: String,
    /// An address of the host; may be given several times
    #[arg(long = "address", value_name = "IP", required = true)]
    addresses: Vec<IpAddr>,
    /// How long the two certificates are good; the CA's is for ten years
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = parse_duration)]
    ttl: Duration,
}

/// Why there are no certificates now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("{} is there already and is not empty: nothing was changed", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        reason: io::Error,
    },
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("`{0}` is not a host's name: letters, digits, `-` and `.` may stand there")]
    HostName(String),
}

impl PkiError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Exists(_) => ExitCode::Refused,
            Self::HostName(_) => ExitCode::Usage,
            Self::Write { reason, .. } if reason.kind() == io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            Self::Write { .. } | Self::Certificate(_) => ExitCode::Error,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(_) => {
                Some("name another directory, or move that one away: others may rely on its keys".to_owned())
            }
            _ => None,
        }
    }
}

pub(super) fn run(arguments: &PkiArguments) -> Result<(), Failure> {
    let Action::Init(arguments) = &arguments.action;
    init(arguments)?;
    print(&next_steps(arguments))
}

fn init(arguments: &InitArguments) -> Result<(), PkiError> {
    let name = &arguments.host_name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || name.len() > 253 || !name.chars().all(allowed) {
        return Err(PkiError::HostName(name.clone()));
    }
    let directory = &arguments.directory;
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(PkiError::Exists(directory.clone()));
    }
    let authority = Authority::new(name)?;
    let host = authority.host(name, &arguments.addresses, arguments.ttl)?;
    let operator = authority.operator(arguments.ttl)?;
    let files = [
        ("ca.crt", authority.certificate(), 0o644),
        ("ca.key", authority.key(), 0o600),
        ("host.crt", host.certificate, 0o644),
        ("host.key", host.key, 0o600),
        ("operator.crt", operator.certificate, 0o644),
        ("operator.key", operator.key, 0o600),
    ];
    // Made beside its place and moved there whole: a directory with half of the files never is.
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = |path: &Path| {
        let path = path.to_owned();
        move |reason| PkiError::Write { path, reason }
    };
    fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(write(parent))?;
    let staging = tempfile::Builder::new().prefix(".goliath-pki-").tempdir_in(parent).map_err(write(parent))?;
    for (name, text, mode) in files {
        let path = staging.path().join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(write(&path))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(write(&path))?;
    }
    // Fails where another process has filled the directory meanwhile.
    fs::rename(staging.path(), directory).map_err(|reason| match reason.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => PkiError::Exists(directory.clone()),
        _ => PkiError::Write { path: directory.clone(), reason },
    })?;
    // It is where it belongs: nothing is left to clear up.
    let _ = staging.keep();
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(write(parent))
}

fn next_steps(arguments: &InitArguments) -> String {
    let directory = std::path::absolute(&arguments.directory).unwrap_or_else(|_| arguments.directory.clone());
    let directory = directory.display();
    let name = &arguments.host_name;
    let sockets: Vec<String> = arguments
        .addresses
        .iter()
        .map(|address| format!("\"{}\"", std::net::SocketAddr::new(*address, 7443)))
        .collect();
    let url = arguments
        .addresses
        .first()
        .map_or_else(String::new, |address| format!("https://{}", std::net::SocketAddr::new(*address, 7443)));
    format!(
        "\
Made in {directory}: a CA, a certificate for host {name}, one for its operator.

On the host, in /etc/goliath/agent.toml:

  [api.tcp]
  listen = [{}]
  certificate = \"{directory}/host.crt\"
  key = \"{directory}/host.key\"
  client_ca = \"{directory}/ca.crt\"

Where you work, with ca.crt, operator.crt and operator.key in ~/.config/goliath/{name}/,
in ~/.config/goliath/config.toml:

  current = \"{name}\"

  [contexts.{name:?}]
  agent = \"{url}\"
  ca = \"{name}/ca.crt\"
  cert = \"{name}/operator.crt\"
  key = \"{name}/operator.key\"

Then restart the agent, and try: goliath get hosts
Keep ca.key away from both machines: who has it can make himself an operator.
",
        sockets.join(", ")
    )
}

#[cfg(test)]
mod tests;
