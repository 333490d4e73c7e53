use std::path::{Path, PathBuf};

pub use goliath_server::tls::TcpConfig;
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

impl Default for ApiConfig {
    fn default() -> Self {
        Self { socket: "/run/goliath/agent.sock".into(), socket_group: "goliath".into(), tcp: None }
    }
}

impl super::Section for ApiConfig {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        let mut complaints = Vec::new();
        complaints.extend(against_socket(&self.socket).map(|complaint| ("socket", complaint)));
        if self.tcp.as_ref().is_some_and(|tcp| tcp.listen.is_empty()) {
            complaints.push(("listen", "must have an address, or leave [api.tcp] out".to_owned()));
        }
        complaints
    }
}

/// Bytes of the path of a Unix socket: `sun_path` without its closing zero.
const LONGEST_PATH: usize = 107;
/// Beside the socket that is there, the next one is made; then it takes its place.
const SUFFIX: &str = ".new";

/// Where a socket is made before it takes the place of one that is there.
pub fn next_socket(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// What keeps a socket from being bound there, as far as it can be told without doing it.
fn against_socket(path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Some(format!("{shown} must be absolute"));
    }
    let (length, longest) = (path.as_os_str().len(), LONGEST_PATH - SUFFIX.len());
    if length > longest {
        return Some(format!("{shown} has {length} bytes: a socket's path has {longest} at most here"));
    }
    if path.file_name().is_none() || path.is_dir() {
        return Some(format!("{shown} is a directory: it must be a file's name"));
    }
    // Directories that are not there are made.
    let above = path.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok())?;
    (!above.is_dir()).then(|| format!("{} is not a directory, so {shown} cannot be made in it", above.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cannot_be_bound_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", directory.path().join("dangling")).unwrap();
        let against = |path: &Path| against_socket(path).unwrap_or_default();
        assert_eq!(against(&directory.path().join("agent.sock")), "");
        assert_eq!(against(&directory.path().join("not/there/yet/agent.sock")), "");
        assert_eq!(against(&file), "", "what is there is replaced");
        assert!(against(Path::new("agent.sock")).contains("absolute"));
        assert!(against(directory.path()).contains("is a directory"));
        assert!(against(&file.join("agent.sock")).contains("not a directory"));
        assert!(against(&directory.path().join("dangling/agent.sock")).contains("not a directory"));
        let long = |length: usize| PathBuf::from(format!("/{}", "s".repeat(length - 1)));
        assert_eq!(against(&long(103)), "");
        assert!(against(&long(104)).contains("104 bytes"));
    }

    /// The kernel's own word for what the configuration promises.
    #[test]
    fn the_longest_socket_that_is_accepted_can_be_bound() {
        let directory = tempfile::tempdir().unwrap();
        let room = LONGEST_PATH - SUFFIX.len() - directory.path().as_os_str().len() - 1;
        let socket = directory.path().join("s".repeat(room));
        assert_eq!(against_socket(&socket), None);
        std::os::unix::net::UnixListener::bind(next_socket(&socket)).unwrap();
    }
}
