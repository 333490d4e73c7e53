//! What cannot work is refused when it is asked for, with the field and the reason, and changes nothing.

use anyhow::Result;
use goliath_lab::{Cluster, Host, Lab, run};
use goliath_proto::agent::v1::{
    ApplyGuestRequest, ApplyNetworkRequest, CertificateRequest, GuestSpec, ListGuestsRequest, ListNetworksRequest,
    NetworkInterface, NetworkSpec,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Paths of the bad fields that a refusal names.
fn fields(refusal: &Status) -> Vec<String> {
    let details = refusal.get_details_bad_request();
    details.into_iter().flat_map(|bad| bad.field_violations).map(|violation| violation.field).collect()
}

async fn good_spec(cluster: &Cluster, host: &Host) -> Result<GuestSpec> {
    cluster.guest("worker-0").on(host).spec().await
}

type Change<T> = fn(&mut T);

struct Bad {
    what: &'static str,
    change: Change<GuestSpec>,
    field: &'static str,
}

const BAD_GUESTS: &[Bad] = &[
    Bad { what: "an empty uid", change: |spec| spec.uid.clear(), field: "spec.uid" },
    Bad { what: "a generation of 0", change: |spec| spec.generation = 0, field: "spec.generation" },
    Bad { what: "a name of 200 characters", change: |spec| spec.name = "a".repeat(200), field: "spec.name" },
    Bad { what: "a name that climbs", change: |spec| spec.name = String::from("../worker"), field: "spec.name" },
    Bad { what: "a cluster without a name", change: |spec| spec.cluster.clear(), field: "spec.cluster" },
    Bad { what: "no machine", change: |spec| spec.machine = None, field: "spec.machine" },
    Bad {
        what: "memory 0",
        change: |spec| spec.machine.as_mut().unwrap().memory_bytes = 0,
        field: "spec.machine.memory_bytes",
    },
    Bad { what: "no way to boot", change: |spec| spec.boot = None, field: "spec.boot" },
    Bad { what: "no image", change: |spec| spec.image.clear(), field: "spec.image" },
    Bad {
        what: "an address that is none",
        change: |spec| spec.network.as_mut().unwrap().ipv4_address = String::from("10.7.0.300"),
        field: "spec.network.ipv4_address",
    },
    Bad {
        what: "a certificate whose name climbs",
        change: |spec| {
            let climbing = CertificateRequest {
                name: "../../etc".to_owned(),
                issuer: "local".to_owned(),
                common_name: "x".to_owned(),
                ..Default::default()
            };
            spec.certificates.push(climbing);
        },
        field: "spec.certificates[0].name",
    },
    Bad {
        what: "an issuer that nobody configured",
        change: |spec| {
            let unknown = CertificateRequest {
                name: "node".to_owned(),
                issuer: "nobody".to_owned(),
                common_name: "x".to_owned(),
                ..Default::default()
            };
            spec.certificates.push(unknown);
        },
        field: "spec.certificates[0].issuer",
    },
];

#[test]
fn a_bad_guest_is_refused_by_the_paths_of_its_fields_and_leaves_nothing() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let operator = host.operator().await?;
        let good = good_spec(&cluster, &host).await?;
        for Bad { what, change, field } in BAD_GUESTS {
            let mut spec = good.clone();
            change(&mut spec);
            let request = ApplyGuestRequest { spec: Some(spec), dry_run: false };
            let refusal = operator.guests().apply_guest(request).await.expect_err(what);
            assert_eq!(refusal.code(), Code::InvalidArgument, "{what}: {refusal:?}");
            assert!(fields(&refusal).iter().any(|named| named.starts_with(field)), "{what}: {:?}", fields(&refusal));
        }

        let refusal = operator.guests().apply_guest(ApplyGuestRequest::default()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "nothing at all: {refusal:?}");

        let mut all_wrong = good.clone();
        for Bad { change, .. } in &BAD_GUESTS[..4] {
            change(&mut all_wrong);
        }
        all_wrong.image.clear();
        let request = ApplyGuestRequest { spec: Some(all_wrong), dry_run: false };
        let refusal = operator.guests().apply_guest(request).await.unwrap_err();
        assert_eq!(fields(&refusal).len(), 4, "not all that is wrong is told: {:?}", fields(&refusal));

        let listed = operator.guests().list_guests(ListGuestsRequest::default()).await?.into_inner();
        assert_eq!(listed.guests, []);
        assert_eq!(host.traces_of(&good.uid).await?, Vec::<String>::new());
        Ok(())
    });
}

#[test]
fn what_does_not_fit_the_host_is_refused_with_the_number_that_was_short() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let operator = host.operator().await?;
        let good = good_spec(&cluster, &host).await?;
        let mut huge = good.clone();
        huge.machine.as_mut().unwrap().memory_bytes = 4 << 40;
        let request = ApplyGuestRequest { spec: Some(huge), dry_run: false };
        let refusal = operator.guests().apply_guest(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        assert!(refusal.message().contains("memory"), "{}", refusal.message());

        let mut wide = good.clone();
        wide.machine.as_mut().unwrap().vcpus = 255;
        let request = ApplyGuestRequest { spec: Some(wide), dry_run: false };
        let refusal = operator.guests().apply_guest(request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
        assert!(refusal.message().contains("vCPU"), "{}", refusal.message());
        Ok(())
    });
}

#[test]
fn a_second_guest_with_an_address_that_is_taken_is_refused() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let first = cluster.guest("worker-0").on(&host).apply().await?;
        let taken = first.spec().network.clone().unwrap();
        let mut same_address = cluster.guest("worker-1").on(&host).spec().await?;
        same_address.network.as_mut().unwrap().ipv4_address = taken.ipv4_address;
        let mut same_mac = cluster.guest("worker-1").on(&host).spec().await?;
        same_mac.network.as_mut().unwrap().mac_address = taken.mac_address;
        let mut same_name = cluster.guest("worker-1").on(&host).spec().await?;
        same_name.name = "worker-0".to_owned();
        let mut outside = cluster.guest("worker-1").on(&host).spec().await?;
        outside.network = Some(NetworkInterface { ipv4_address: "10.8.0.9".to_owned(), ..Default::default() });
        let mut gateway = cluster.guest("worker-1").on(&host).spec().await?;
        gateway.network.as_mut().unwrap().ipv4_address = cluster.gateway().to_string();
        for (what, spec) in [
            ("address", same_address),
            ("MAC", same_mac),
            ("name", same_name),
            ("address outside of the network", outside),
            ("the gateway's address", gateway),
        ] {
            let uid = spec.uid.clone();
            let request = ApplyGuestRequest { spec: Some(spec), dry_run: false };
            let refusal = host.operator().await?.guests().apply_guest(request).await.expect_err(what);
            let expected = [Code::InvalidArgument, Code::AlreadyExists, Code::FailedPrecondition];
            assert!(expected.contains(&refusal.code()), "{what}: {refusal:?}");
            assert_eq!(host.traces_of(&uid).await?, Vec::<String>::new(), "{what}");
        }
        first.until_booted().await?;
        Ok(())
    });
}

#[test]
fn a_bad_network_is_refused_and_leaves_nothing() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let good = NetworkSpec {
            cluster: "blue".to_owned(),
            generation: 1,
            vni: 100,
            cidr: "10.7.0.0/24".to_owned(),
            gateway_address: "10.7.0.1".to_owned(),
            host_address: "10.7.0.201".to_owned(),
            ..Default::default()
        };
        let bad: [(&str, Change<NetworkSpec>); 9] = [
            ("a VNI of 0", |spec| spec.vni = 0),
            ("a VNI of 2^24", |spec| spec.vni = 1 << 24),
            ("a network without room", |spec| spec.cidr = "10.7.0.0/31".to_owned()),
            ("host bits", |spec| spec.cidr = "10.7.0.9/24".to_owned()),
            ("a gateway outside", |spec| spec.gateway_address = "10.8.0.1".to_owned()),
            ("the gateway's address twice", |spec| spec.host_address = spec.gateway_address.clone()),
            ("an MTU that the underlay cannot carry", |spec| spec.mtu = 1500),
            ("the host's own network", |spec| {
                spec.cidr = "192.0.2.0/24".to_owned();
                spec.gateway_address = "192.0.2.1".to_owned();
                spec.host_address = "192.0.2.201".to_owned();
            }),
            ("no cluster", |spec| spec.cluster.clear()),
        ];
        let operator = host.operator().await?;
        for (what, change) in bad {
            let mut spec = good.clone();
            change(&mut spec);
            let request = ApplyNetworkRequest { spec: Some(spec), ..Default::default() };
            let refusal = operator.networks().apply_network(request).await.expect_err(what);
            let expected = [Code::InvalidArgument, Code::FailedPrecondition];
            assert!(expected.contains(&refusal.code()), "{what}: {refusal:?}");
        }
        let listed = operator.networks().list_networks(ListNetworksRequest {}).await?.into_inner();
        assert_eq!(listed.networks, []);
        assert_eq!(std::fs::read_dir(host.cluster_namespaces())?.count(), 0);

        // Two clusters cannot share a VNI, and may share everything else.
        let apply = |spec: NetworkSpec| ApplyNetworkRequest { spec: Some(spec), ..Default::default() };
        operator.networks().apply_network(apply(good.clone())).await?;
        let same_vni = NetworkSpec { cluster: "green".to_owned(), ..good.clone() };
        let refusal = operator.networks().apply_network(apply(same_vni)).await.unwrap_err();
        assert!(refusal.message().contains("100"), "{}", refusal.message());
        let equal_cidr = NetworkSpec { cluster: "green".to_owned(), vni: 101, ..good };
        operator.networks().apply_network(apply(equal_cidr)).await?;
        Ok(())
    });
}

#[test]
fn an_image_that_is_not_there_keeps_a_guest_waiting_and_says_why() {
    run(async |lab: &Lab| {
        let host = lab.host("a").start().await?;
        let cluster = lab.cluster("blue").over(&[&host]).await?;
        let nowhere = lab.directory().join("nowhere");
        let guest = cluster.guest("worker-0").image(format!("oci-layout:{}", nowhere.display()));
        let guest = guest.on(&host).apply().await?;
        let status = guest
            .until("waiting for its image", |status| {
                goliath_lab::guest::condition(status, "ImageReady").is_some_and(|condition| {
                    condition.status() == goliath_proto::agent::v1::ConditionStatus::False
                        && condition.message.contains("nowhere")
                })
            })
            .await?;
        assert!(status.process.is_none());
        guest.delete().await?;
        assert_eq!(host.traces_of(guest.uid()).await?, Vec::<String>::new());
        Ok(())
    });
}
