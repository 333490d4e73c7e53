use goliath_proto::agent::v1::{
    Certificate, ConsoleLogRequest, ConsoleLogResponse, ConsoleRequest, ConsoleResponse, ListCertificatesRequest,
    ListCertificatesResponse, RotateCertificatesRequest, RotateCertificatesResponse, console_request::Message,
    inspect_service_server::InspectService,
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::Services;

type Pieces<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn certificate(generation: u64) -> Certificate {
    Certificate { name: "kubelet".to_owned(), generation, ..Certificate::default() }
}

#[tonic::async_trait]
impl InspectService for Services {
    type ConsoleLogStream = Pieces<ConsoleLogResponse>;

    async fn console_log(
        &self,
        request: Request<ConsoleLogRequest>,
    ) -> Result<Response<Self::ConsoleLogStream>, Status> {
        let log = b"Linux version 6.1\nlogin: ";
        let tail = usize::try_from(request.into_inner().tail_bytes).unwrap();
        let start = if tail == 0 { 0 } else { log.len().saturating_sub(tail) };
        let data = log[start..].to_vec();
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(ConsoleLogResponse { data })))))
    }

    type ConsoleStream = Pieces<ConsoleResponse>;

    /// Says again what it hears, in capitals; it stays open when the input ends.
    async fn console(
        &self,
        request: Request<Streaming<ConsoleRequest>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let mut input = request.into_inner();
        match input.message().await?.and_then(|first| first.message) {
            Some(Message::Open(open)) if self.state().guests.contains_key(&open.uid) => {}
            _ => return Err(Status::not_found("no such guest")),
        }
        let echo = input.filter_map(|request| match request.ok()?.message? {
            Message::Input(input) => Some(Ok(ConsoleResponse { output: input.to_ascii_uppercase() })),
            Message::Open(_) => Some(Err(Status::invalid_argument("opened twice"))),
        });
        Ok(Response::new(Box::pin(echo.chain(tokio_stream::pending()))))
    }

    async fn list_certificates(
        &self,
        _: Request<ListCertificatesRequest>,
    ) -> Result<Response<ListCertificatesResponse>, Status> {
        Ok(Response::new(ListCertificatesResponse { certificates: vec![certificate(1)] }))
    }

    async fn rotate_certificates(
        &self,
        _: Request<RotateCertificatesRequest>,
    ) -> Result<Response<RotateCertificatesResponse>, Status> {
        Ok(Response::new(RotateCertificatesResponse { certificates: vec![certificate(2)] }))
    }
}
