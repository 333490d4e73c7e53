use std::{convert::Infallible, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::server::Connected};

/// Accepted connections that wait for the server to take them.
pub const WAITING_CONNECTIONS: usize = 16;
/// Of one message of a request, in bytes.
pub const LARGEST_REQUEST: usize = 4 << 20;
/// Calls at one time on one connection: streams are calls too.
const CALLS_OF_ONE_CONNECTION: u32 = 256;
/// A client that is silent for this long is asked whether it is there...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// ...and has this long to say so.
const KEEPALIVE_TIME: Duration = Duration::from_secs(20);
/// Calls that are under way at a shutdown get this long to end.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Of a request's metadata.
const MAX_HEADERS: u32 = 16 << 10;

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves until the shutdown; then calls under way get a few seconds.
pub async fn serve<C>(
    connections: mpsc::Receiver<C>,
    routes: Routes,
    shutdown: CancellationToken,
) -> Result<(), ServeError>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS_OF_ONE_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIME))
        .http2_max_header_list_size(MAX_HEADERS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(connections).map(Ok::<_, Infallible>),
            shutdown.clone().cancelled_owned(),
        );
    let drained = async {
        shutdown.cancelled().await;
        time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = drained => {
            tracing::info!(limit = ?DRAIN_TIME, "calls under way were cut off by the shutdown");
            Ok(())
        }
    }
}
