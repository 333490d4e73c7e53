//! The guest's status over HTTP and HTTPS, to anyone: this image exists to be looked at.

use std::{
    io,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{ServerConnection, StreamOwned, server::Acceptor};

use crate::{certificates, certificates::Description, say, status::Status};

/// A silent client holds a thread no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Threads of each service, and so its connections at a time.
const THREADS: usize = 4;
/// No request that matters here has a longer head.
const LONGEST_HEAD: usize = 8 * 1024;

/// A port that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("port {port} cannot be served: {reason}")]
pub(crate) struct ServeError {
    port: u16,
    reason: io::Error,
}

/// Serves the status in the clear.
pub(crate) fn http(port: u16) -> Result<String, ServeError> {
    serve(port, |stream| answer(stream, None))?;
    Ok(format!("http on {port}"))
}

/// Serves the status by TLS 1.3; each handshake uses the certificate that the volume holds then.
pub(crate) fn https(port: u16, volume: &Path) -> Result<String, ServeError> {
    let volume: PathBuf = volume.to_owned();
    serve(port, move |mut stream| {
        let identity = certificates::read(&volume).map_err(io::Error::other)?;
        let mut acceptor = Acceptor::default();
        let accepted = loop {
            acceptor.read_tls(&mut stream)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let _ = alert.write_all(&mut stream);
                    return Err(io::Error::other(error));
                }
            }
        };
        let connection: ServerConnection =
            accepted.into_connection(identity.config).map_err(|(error, _)| io::Error::other(error))?;
        let mut stream = StreamOwned::new(connection, stream);
        answer(&mut stream, Some(identity.description))?;
        stream.conn.send_close_notify();
        stream.flush()
    })?;
    Ok(format!("https on {port}"))
}

fn serve<F>(port: u16, handle: F) -> Result<(), ServeError>
where
    F: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    let failed = |reason| ServeError { port, reason };
    let listener = Arc::new(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(failed)?);
    let handle = Arc::new(handle);
    for _ in 0..THREADS {
        let (listener, handle) = (Arc::clone(&listener), Arc::clone(&handle));
        let work = move || {
            for stream in listener.incoming().flatten() {
                let bounded =
                    stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                if let Err(error) = bounded.and_then(|()| handle(stream)) {
                    say!("a client of port {port} was not served: {error}");
                }
            }
        };
        thread::Builder::new().spawn(work).map_err(failed)?;
    }
    Ok(())
}

/// Whatever is asked for, the status is the answer.
fn answer(mut stream: impl Read + Write, certificate: Option<Description>) -> io::Result<()> {
    let mut head: Vec<u8> = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        head.extend(chunk.iter().take(length));
        if head.len() > LONGEST_HEAD {
            return Err(io::Error::other("the request's head is too long"));
        }
    }
    let body = Status::read(certificate).to_json();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}
