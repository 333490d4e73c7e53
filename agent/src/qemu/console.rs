//! The serial console, both ways, for any number of people at once.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{broadcast, mpsc},
};
use tokio_util::bytes::Bytes;

/// Chunks that a slow reader may be behind before it misses some.
const BACKLOG: usize = 256;
/// Chunks of input on their way.
const INPUT_BACKLOG: usize = 16;
const CHUNK: usize = 4096;

/// A guest's console. QEMU takes one connection at a time; it is made for the first session and closed after the last.
#[derive(Debug, Clone)]
pub struct Console {
    socket: Arc<PathBuf>,
    line: Arc<Mutex<Weak<Line>>>,
}

/// The connection, as sessions share it.
#[derive(Debug)]
struct Line {
    input: mpsc::Sender<Bytes>,
    output: broadcast::WeakSender<Bytes>,
}

/// Someone at the console.
#[derive(Debug)]
pub struct ConsoleSession {
    line: Arc<Line>,
    output: broadcast::Receiver<Bytes>,
}

impl Console {
    /// Of the guest with this socket; connects when someone attaches.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket: Arc::new(socket), line: Arc::default() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Joins those who are there.
    pub async fn attach(&self) -> std::io::Result<ConsoleSession> {
        if let Some(session) = self.join() {
            return Ok(session);
        }
        let stream = UnixStream::connect(&*self.socket).await?;
        let mut present = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone may have come first; then our connection closes unused.
        if let Some(session) = present.upgrade().and_then(joined) {
            return Ok(session);
        }
        let (sender, output) = broadcast::channel(BACKLOG);
        let (input, typed) = mpsc::channel(INPUT_BACKLOG);
        let line = Arc::new(Line { input, output: sender.downgrade() });
        *present = Arc::downgrade(&line);
        drop(present);
        tokio::spawn(carry(stream, sender, typed));
        Ok(ConsoleSession { line, output })
    }

    fn join(&self) -> Option<ConsoleSession> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).upgrade().and_then(joined)
    }
}

fn joined(line: Arc<Line>) -> Option<ConsoleSession> {
    // A line without its sender lost its QEMU.
    let output = line.output.upgrade()?.subscribe();
    Some(ConsoleSession { line, output })
}

impl ConsoleSession {
    /// What the guest wrote next; none when QEMU is gone. A reader that is too slow misses the oldest.
    pub async fn read(&mut self) -> Option<Bytes> {
        loop {
            match self.output.recv().await {
                Ok(chunk) => return Some(chunk),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Types; waits while the guest reads nothing. False when QEMU is gone.
    pub async fn write(&self, input: Bytes) -> bool {
        self.line.input.send(input).await.is_ok()
    }
}

/// Until QEMU or the last session goes.
async fn carry(stream: UnixStream, output: broadcast::Sender<Bytes>, mut typed: mpsc::Receiver<Bytes>) {
    let (mut from_guest, mut to_guest) = stream.into_split();
    let reading = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from_guest.read(&mut buffer).await {
            // Nobody reads at this moment: nobody wants it.
            let _ = output.send(Bytes::copy_from_slice(&buffer[..length]));
        }
    };
    let writing = async {
        while let Some(input) = typed.recv().await {
            if to_guest.write_all(&input).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn people_share_one_connection_and_the_last_closes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let console = Console::new(path);
        let (mut one, mut two) = (console.attach().await.unwrap(), console.attach().await.unwrap());
        let (mut guest, _) = listener.accept().await.unwrap();

        guest.write_all(b"login: ").await.unwrap();
        assert_eq!(one.read().await.unwrap(), "login: ");
        assert_eq!(two.read().await.unwrap(), "login: ");
        assert!(two.write("root\n".into()).await);
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"root\n");

        drop(one);
        drop(two);
        assert_eq!(guest.read(&mut typed).await.unwrap(), 0, "closed");

        let mut again = console.attach().await.unwrap();
        let (guest, _) = listener.accept().await.unwrap();
        drop(guest);
        assert_eq!(again.read().await, None, "QEMU is gone");
        let afresh = console.attach().await.unwrap();
        listener.accept().await.unwrap();
        drop(afresh);
    }
}
