use goliath_proto::agent::v1::{
    ApplyNetworkRequest, ApplyNetworkResponse, CollectGarbageRequest, CollectGarbageResponse, Condition,
    ConditionStatus, CordonHostRequest, CordonHostResponse, DeleteNetworkRequest, DeleteNetworkResponse, DoctorRequest,
    DoctorResponse, GetHostRequest, GetHostResponse, GetNetworkRequest, GetNetworkResponse, Host, Image,
    ListImagesRequest, ListImagesResponse, ListNetworksRequest, ListNetworksResponse, Network, NetworkStatus,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, host_service_server::HostService,
    image_service_server::ImageService, network_service_server::NetworkService, pull_image_response::Phase,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::Services;

#[tonic::async_trait]
impl NetworkService for Services {
    async fn apply_network(
        &self,
        request: Request<ApplyNetworkRequest>,
    ) -> Result<Response<ApplyNetworkResponse>, Status> {
        let ApplyNetworkRequest { spec, peers, dry_run, .. } = request.into_inner();
        let spec = spec.unwrap();
        let mut state = self.state();
        if let Some(status) = &state.refusal {
            return Err(status.clone());
        }
        let mut network = state.networks.get(&spec.cluster).cloned().unwrap_or_default();
        let before = network.clone();
        let refused = || Status::failed_precondition("that generation is held with another content");
        if network.spec.as_ref().is_some_and(|held| *held != spec && held.generation >= spec.generation) {
            return Err(refused());
        }
        if let Some(peers) = peers {
            if network.peers.as_ref().is_some_and(|held| *held != peers && held.generation >= peers.generation) {
                return Err(refused());
            }
            network.peers = Some(peers);
        }
        network.status = Some(NetworkStatus {
            conditions: vec![Condition {
                r#type: "Ready".to_owned(),
                status: i32::from(ConditionStatus::True),
                ..Condition::default()
            }],
            observed_generation: spec.generation,
            observed_peers_generation: network.peers.as_ref().map_or(0, |peers| peers.generation),
            ..NetworkStatus::default()
        });
        network.spec = Some(spec.clone());
        let changed = network != before;
        if !dry_run {
            state.networks.insert(spec.cluster, network.clone());
        }
        Ok(Response::new(ApplyNetworkResponse { network: Some(network), changed }))
    }

    async fn delete_network(
        &self,
        request: Request<DeleteNetworkRequest>,
    ) -> Result<Response<DeleteNetworkResponse>, Status> {
        self.state().networks.remove(&request.into_inner().cluster);
        Ok(Response::new(DeleteNetworkResponse {}))
    }

    async fn get_network(&self, request: Request<GetNetworkRequest>) -> Result<Response<GetNetworkResponse>, Status> {
        let network: Option<Network> = self.state().networks.get(&request.into_inner().cluster).cloned();
        Ok(Response::new(GetNetworkResponse { network: Some(network.ok_or_else(|| Status::not_found("no network"))?) }))
    }

    async fn list_networks(&self, _: Request<ListNetworksRequest>) -> Result<Response<ListNetworksResponse>, Status> {
        Ok(Response::new(ListNetworksResponse { networks: self.state().networks.values().cloned().collect() }))
    }
}

#[tonic::async_trait]
impl HostService for Services {
    async fn get_host(&self, _: Request<GetHostRequest>) -> Result<Response<GetHostResponse>, Status> {
        let host = Host { name: "host-a".to_owned(), cordoned: self.state().cordoned, ..Host::default() };
        Ok(Response::new(GetHostResponse { host: Some(host) }))
    }

    async fn cordon_host(&self, request: Request<CordonHostRequest>) -> Result<Response<CordonHostResponse>, Status> {
        let cordoned = request.into_inner().cordoned;
        self.state().cordoned = cordoned;
        let host = Host { name: "host-a".to_owned(), cordoned, ..Host::default() };
        Ok(Response::new(CordonHostResponse { host: Some(host) }))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Result<Response<DoctorResponse>, Status> {
        Ok(Response::new(DoctorResponse { checks: self.state().checks.clone() }))
    }
}

fn image() -> Image {
    Image {
        digest: format!("sha256:{}", "ab".repeat(32)),
        references: vec!["registry.example/tiny:1".to_owned()],
        ..Image::default()
    }
}

#[tonic::async_trait]
impl ImageService for Services {
    type PullImageStream = std::pin::Pin<Box<dyn Stream<Item = Result<PullImageResponse, Status>> + Send>>;

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<Self::PullImageStream>, Status> {
        if request.into_inner().reference != "registry.example/tiny:1" {
            return Err(Status::not_found("the registry has no such image"));
        }
        let step = |phase: Phase, downloaded_bytes, image| {
            Ok(PullImageResponse { phase: i32::from(phase), downloaded_bytes, total_bytes: 2048, image })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([
            step(Phase::Resolving, 0, None),
            step(Phase::Downloading, 1024, None),
            step(Phase::Downloading, 2048, None),
            step(Phase::Done, 2048, Some(image())),
        ]))))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Result<Response<ListImagesResponse>, Status> {
        Ok(Response::new(ListImagesResponse { images: vec![image()] }))
    }

    async fn remove_image(&self, _: Request<RemoveImageRequest>) -> Result<Response<RemoveImageResponse>, Status> {
        Ok(Response::new(RemoveImageResponse { freed_bytes: 4096 }))
    }

    async fn collect_garbage(
        &self,
        _: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        Ok(Response::new(CollectGarbageResponse { removed: vec![image()], freed_bytes: 4096 }))
    }
}
