use goliath_proto::agent::v1 as pb;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::served::{Served, reason};
use crate::{
    admission::{Conflict, ConflictKind},
    spec::{GuestSpec, NetworkInterface, test::guest},
};

fn acme() -> pb::NetworkSpec {
    pb::NetworkSpec {
        cluster: "acme".to_owned(),
        generation: 1,
        vni: 7,
        cidr: "10.7.0.0/24".to_owned(),
        gateway_address: "10.7.0.1".to_owned(),
        host_address: "10.7.0.2".to_owned(),
        mtu: 0,
        egress: true,
        dns_servers: Vec::new(),
    }
}

fn peers(generation: u64) -> pb::PeerList {
    let endpoint = pb::PeerEndpoint { ipv4_address: "10.7.0.3".to_owned(), mac_address: String::new() };
    let peer = pb::Peer {
        host: "b".to_owned(),
        underlay_address: "192.0.2.2".to_owned(),
        host_endpoint: Some(endpoint),
        guests: Vec::new(),
    };
    pb::PeerList { generation, peers: vec![peer] }
}

async fn apply(served: &Served, request: pb::ApplyNetworkRequest) -> Result<pb::ApplyNetworkResponse, Status> {
    served.networks().apply_network(request).await.map(tonic::Response::into_inner)
}

fn of_peers(generation: u64) -> pb::ApplyNetworkRequest {
    pb::ApplyNetworkRequest {
        peers: Some(peers(generation)),
        cluster: "acme".to_owned(),
        ..pb::ApplyNetworkRequest::default()
    }
}

fn of_spec(spec: pb::NetworkSpec) -> pb::ApplyNetworkRequest {
    pb::ApplyNetworkRequest { spec: Some(spec), ..pb::ApplyNetworkRequest::default() }
}

#[tokio::test]
async fn a_network_and_its_peers_are_written_down_apart_or_together() {
    let served = Served::start().await;
    assert_eq!(reason(&apply(&served, of_peers(1)).await.unwrap_err()).1, "NETWORK_NOT_FOUND");
    assert!(apply(&served, of_spec(acme())).await.unwrap().changed);
    assert!(!apply(&served, of_spec(acme())).await.unwrap().changed);
    let applied = apply(&served, of_peers(5)).await.unwrap().network.unwrap();
    // The host's MAC was derived.
    assert!(!applied.peers.unwrap().peers[0].host_endpoint.clone().unwrap().mac_address.is_empty());
    assert!(!apply(&served, of_peers(5)).await.unwrap().changed);
    assert_eq!(reason(&apply(&served, of_peers(4)).await.unwrap_err()).1, "STALE_GENERATION");

    let request = pb::GetNetworkRequest { cluster: "acme".to_owned() };
    let network = served.networks().get_network(request).await.unwrap().into_inner().network.unwrap();
    assert_eq!(network.spec, Some(acme()));
    assert_eq!(network.peers.unwrap().generation, 5);
}

#[tokio::test]
async fn all_that_is_wrong_with_a_request_is_told_of_both_its_parts() {
    let served = Served::start().await;
    let mut request = of_spec(pb::NetworkSpec { vni: 0, cidr: "10.7.0.0/30".to_owned(), ..acme() });
    request.peers = Some(pb::PeerList { generation: 0, peers: Vec::new() });
    request.cluster = "Other".to_owned();
    let refused = apply(&served, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields: Vec<String> =
        refused.get_details_bad_request().unwrap().field_violations.into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["spec.vni", "spec.cidr", "peers.generation", "cluster"]);

    let refused = apply(&served, pb::ApplyNetworkRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut request = of_spec(acme());
    request.cluster = "other".to_owned();
    assert_eq!(apply(&served, request).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(served.ledger.snapshot().networks.is_empty());
}

#[tokio::test]
async fn what_the_host_has_against_a_network_refuses_it() {
    let served = Served::start().await;
    *served.against_network.lock().unwrap() =
        vec![Conflict::new(ConflictKind::Host, "spec.cidr", "10.7.0.0/24 overlaps eth0's network")];
    let refused = apply(&served, of_spec(acme())).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "HOST_CONFLICT".to_owned()));
    assert_eq!(refused.get_details_precondition_failure().unwrap().violations[0].subject, "spec.cidr");
    assert!(served.ledger.snapshot().networks.is_empty());
}

#[tokio::test]
async fn a_network_stays_while_guests_are_in_it() {
    let served = Served::start().await;
    apply(&served, of_spec(acme())).await.unwrap();
    let interface = NetworkInterface { address: [10, 7, 0, 10].into(), mac_address: None };
    let spec = GuestSpec { network: Some(interface), ..guest("worker-0") };
    served.apply(&spec).await.unwrap();
    let delete = async || {
        let request = pb::DeleteNetworkRequest { cluster: "acme".to_owned() };
        served.networks().delete_network(request).await
    };
    let refused = delete().await.unwrap_err();
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "NETWORK_IN_USE".to_owned()));
    let expected = format!("cluster acme has guests on this host: {}; delete them first", spec.uid);
    assert_eq!(refused.message(), expected);
    served.ledger.forget_guest(spec.uid).await.unwrap();
    delete().await.unwrap();
    delete().await.unwrap();
    assert!(served.ledger.snapshot().networks.values().all(|record| record.deleting));
}
