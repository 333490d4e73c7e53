//! A bad line to a registry: it breaks, stalls, and counts what goes over it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

pub(crate) struct Proxy {
    pub(crate) address: String,
    line: Arc<Line>,
    _connections: JoinSet<()>,
}

struct Line {
    upstream: String,
    /// Heads of the requests for blobs that went over it.
    requests: Mutex<Vec<String>>,
    /// Bytes towards the client.
    delivered: watch::Sender<u64>,
    /// A connection breaks after so many bytes.
    breaks_after: AtomicU64,
    /// Nothing more is delivered after so many bytes in all.
    stalls_after: AtomicU64,
}

impl Proxy {
    pub(crate) async fn to(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let line = Arc::new(Line {
            upstream: upstream.to_owned(),
            requests: Mutex::default(),
            delivered: watch::Sender::new(0),
            breaks_after: AtomicU64::new(u64::MAX),
            stalls_after: AtomicU64::new(u64::MAX),
        });
        let mut connections = JoinSet::new();
        let shared = Arc::clone(&line);
        connections.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                served.spawn(serve(Arc::clone(&shared), client));
            }
        });
        Self { address, line, _connections: connections }
    }

    pub(crate) fn break_each_connection_after(&self, bytes: u64) {
        self.line.breaks_after.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn stall_after(&self, bytes: u64) {
        self.line.stalls_after.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn delivered(&self) -> u64 {
        *self.line.delivered.borrow()
    }

    pub(crate) async fn until_delivered(&self, bytes: u64) {
        self.line.delivered.subscribe().wait_for(|delivered| *delivered >= bytes).await.unwrap();
    }

    /// Requests for a blob.
    pub(crate) fn requests_for(&self, digest: &str) -> Vec<String> {
        let wanted = format!("/blobs/{digest}");
        self.line.requests.lock().unwrap().iter().filter(|head| head.contains(&wanted)).cloned().collect()
    }
}

async fn serve(line: Arc<Line>, client: TcpStream) {
    let Ok(upstream) = TcpStream::connect(&line.upstream).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_upstream, mut to_upstream) = upstream.into_split();
    let up = async {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            // A request is small: one read has its head.
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            line.requests.lock().unwrap().push(text);
            if to_upstream.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut left = line.breaks_after.load(Ordering::SeqCst);
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let Ok(count @ 1..) = from_upstream.read(&mut buffer).await else { break };
            let stall = line.stalls_after.load(Ordering::SeqCst);
            if *line.delivered.borrow() >= stall {
                std::future::pending::<()>().await;
            }
            let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
            if to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            left -= count as u64;
            line.delivered.send_modify(|delivered| *delivered += count as u64);
        }
    };
    // Both halves end when one does: the connection breaks.
    tokio::select! { () = up => {}, () = down => {} }
}
