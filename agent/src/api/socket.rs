//! The way in on the machine: a Unix socket for root and one group.

mod peer_groups;

use std::{
    io,
    os::unix::{fs::PermissionsExt as _, net::UnixStream as BlockingUnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::unistd::{Gid, Group};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time,
};

use super::{BindError, Caller, connection::Connection};
use crate::config::next_socket;
use peer_groups::peer_groups;

/// Open connections of all processes.
const CONNECTIONS: usize = 256;
/// After the kernel had no file descriptor or memory left for a connection.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Listens on the machine's socket.
#[derive(Debug)]
pub(super) struct SocketListener {
    listener: UnixListener,
    group: Gid,
}

impl SocketListener {
    /// Takes the path: at any moment it leads to the old socket or to the new one, with its owner and mode set.
    pub(super) fn bind(path: &Path, group: &str) -> Result<Self, BindError> {
        let failed = |source| BindError::Socket { path: path.to_owned(), source };
        let gid = match Group::from_name(group) {
            Ok(Some(group)) => group.gid,
            Ok(None) => return Err(BindError::NoGroup { group: group.to_owned() }),
            Err(errno) => return Err(failed(errno.into())),
        };
        // Only one that listens takes a connection: what a dead agent left refuses it.
        if BlockingUnixStream::connect(path).is_ok() {
            return Err(BindError::InUse { path: path.to_owned() });
        }
        let new = next_socket(path);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        remove_if_there(&new).map_err(failed)?;
        // The mode that bind gives lets nobody but its owner connect, under any usual umask.
        let listener = UnixListener::bind(&new).map_err(failed)?;
        nix::unistd::chown(&new, None, Some(gid)).map_err(|errno| failed(errno.into()))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)?;
        Ok(Self { listener, group: gid })
    }

    /// Hands over connections of those who may, until the receiver is gone.
    pub(super) fn spawn(self, connections: &mpsc::Sender<Connection>) {
        tokio::spawn(self.accept(connections.clone()));
    }

    async fn accept(self, connections: mpsc::Sender<Connection>) {
        let bound = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = connections.closed() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(reason = %error, "cannot accept connections on the socket");
                    time::sleep(ACCEPT_BACK_OFF).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&bound).try_acquire_owned() else {
                tracing::warn!("closed a connection on the socket at once: {CONNECTIONS} are open");
                continue;
            };
            match caller(&stream, self.group) {
                Ok(caller) => {
                    if connections.send(Connection::local(stream, caller, permit)).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(reason = %error, "refused a connection on the socket"),
            }
        }
    }
}

/// Who connected, if it is root or of the group. The socket's mode says the same, but it can be changed by hand.
fn caller(stream: &UnixStream, group: Gid) -> io::Result<Caller> {
    let peer = stream.peer_cred()?;
    let member = || io::Result::Ok(peer.gid() == group.as_raw() || peer_groups(stream)?.contains(&group));
    if peer.uid() == 0 || member()? {
        Ok(Caller::Local { uid: peer.uid(), pid: peer.pid() })
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("uid {} is neither root nor of the socket's group", peer.uid()),
        ))
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut told = peer_groups(ours.as_fd()).unwrap();
        let mut own = nix::unistd::getgroups().unwrap();
        told.sort_by_key(|gid| gid.as_raw());
        own.sort_by_key(|gid| gid.as_raw());
        assert_eq!(told, own);
    }

    fn own_group() -> String {
        Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name
    }

    #[tokio::test]
    async fn what_a_dead_agent_left_is_replaced_and_what_lives_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let dead = SocketListener::bind(&path, &own_group()).unwrap();
        drop(dead);
        assert!(path.exists(), "a killed agent leaves its socket");
        // Half of a bind that was killed.
        std::fs::write(next_socket(&path), "").unwrap();
        let living = SocketListener::bind(&path, &own_group()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = SocketListener::bind(&path, &own_group()).unwrap_err();
        assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
        UnixStream::connect(&path).await.unwrap();
        drop(living);
        assert!(!next_socket(&path).exists());
    }

    #[test]
    fn a_group_that_is_not_there_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let refused = SocketListener::bind(&directory.path().join("agent.sock"), "no-such-group").unwrap_err();
        assert!(refused.to_string().contains("no-such-group"), "{refused}");
    }
}
