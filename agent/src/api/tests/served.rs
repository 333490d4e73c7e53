//! A server of one test.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use goliath_proto::agent::v1::{
    self as pb, guest_service_client::GuestServiceClient, host_service_client::HostServiceClient,
    image_service_client::ImageServiceClient, inspect_service_client::InspectServiceClient,
    network_service_client::NetworkServiceClient,
};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::UnixStream, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::{
    accelerator::Known,
    admission::{Conflict, Overheads},
    api::{Parts, Questions, ServeError, Server, render},
    config::Config,
    image::ImageStore,
    ledger::Ledger,
    network::{HostDevice, HostFacts},
    observed::{ChosenAccelerator, GuestStatus, Observed},
    qemu::GuestPaths,
    spec::{ByteSize, GuestSpec},
};

pub(super) const SOON: Duration = Duration::from_secs(10);

/// A host with an uplink, and a VXLAN of somebody's.
fn host_facts() -> HostFacts {
    let device = |name: &str, loopback, network: &str| HostDevice {
        name: name.to_owned(),
        mtu: 1500,
        loopback,
        networks: vec![network.parse().unwrap()],
    };
    HostFacts {
        devices: vec![device("lo", true, "127.0.0.1/8"), device("eth0", false, "192.0.2.11/24")],
        default_devices: ["eth0".to_owned()].into(),
        vnis: [7].into(),
    }
}

/// A server, and what is behind it.
pub(super) struct Served {
    pub(super) ledger: Ledger,
    pub(super) observed: Observed,
    /// What the host has against the next network.
    pub(super) against_network: Arc<Mutex<Vec<Conflict>>>,
    pub(super) shutdown: CancellationToken,
    pub(super) serving: JoinHandle<Result<(), ServeError>>,
    pub(super) channel: Channel,
    directory: TempDir,
}

impl Served {
    pub(super) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Arc::new(config(directory.path()));
        let (ledger, observed) = (Ledger::open(&directory.path().join("ledger")).unwrap(), Observed::new());
        let images =
            ImageStore::open(&config.images, &directory.path().join("images"), &config.qemu.image_tool).unwrap();
        let against_network: Arc<Mutex<Vec<Conflict>>> = Arc::default();
        let against = Arc::clone(&against_network);
        let parts = Parts {
            config: Arc::clone(&config),
            host_name: "host-a".to_owned(),
            ledger: ledger.clone(),
            observed: observed.clone(),
            images,
            questions: Questions {
                against_network: Box::new(move |_, _| against.lock().unwrap().clone()),
                certificates: Box::new(|_| None),
                accelerator: Box::new(|| Known {
                    tried: true,
                    automatic: Some(ChosenAccelerator::Tcg),
                    message: "KVM ran nothing".to_owned(),
                }),
                overheads: Box::new(|| Overheads::at_least(ByteSize::mib(96))),
                host_facts: Box::new(host_facts),
                doctor: Box::new(|| Box::pin(async { vec![crate::doctor::Check::pass("test", "tried")] })),
            },
        };
        let shutdown = CancellationToken::new();
        let server = Server::bind(&config.api).await.unwrap();
        let serving = tokio::spawn(server.serve(parts, shutdown.clone()));
        let channel = connect(config.api.socket.clone()).await;
        Self { ledger, observed, against_network, shutdown, serving, channel, directory }
    }

    pub(super) fn guests(&self) -> GuestServiceClient<Channel> {
        GuestServiceClient::new(self.channel.clone())
    }

    pub(super) fn networks(&self) -> NetworkServiceClient<Channel> {
        NetworkServiceClient::new(self.channel.clone())
    }

    pub(super) fn hosts(&self) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.channel.clone())
    }

    pub(super) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    pub(super) fn inspect(&self) -> InspectServiceClient<Channel> {
        InspectServiceClient::new(self.channel.clone())
    }

    pub(super) async fn apply(&self, spec: &GuestSpec) -> Result<pb::ApplyGuestResponse, Status> {
        let request = pb::ApplyGuestRequest { spec: Some(render::guest(spec)), dry_run: false };
        self.guests().apply_guest(request).await.map(tonic::Response::into_inner)
    }

    /// As a reconciler would.
    pub(super) fn publish(&self, spec: &GuestSpec, restart_count: u32) {
        self.observed.publish_guest(spec.uid, GuestStatus { restart_count, ..GuestStatus::default() });
    }

    pub(super) fn paths(&self, spec: &GuestSpec) -> GuestPaths {
        GuestPaths::new(self.directory.path(), self.directory.path(), spec.uid)
    }
}

fn config(directory: &Path) -> Config {
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name;
    let directory = directory.display();
    let text = format!(
        r#"
        [directories]
        state = "{directory}"
        runtime = "{directory}"
        [api]
        socket = "{directory}/agent.sock"
        socket_group = "{group}"
        [capacity]
        reserved_disk_mib = 0
        vcpu_ratio = 100.0
        [network]
        underlay_address = "192.0.2.1"
        "#
    );
    Config::parse(Path::new("agent.toml"), &text).unwrap()
}

pub(super) async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent").connect_with_connector(connector).await.unwrap()
}

/// The `ErrorInfo`'s reason.
pub(super) fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    time::timeout(SOON, future).await.expect("it comes soon")
}
