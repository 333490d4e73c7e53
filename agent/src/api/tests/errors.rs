use goliath_proto::agent::v1 as pb;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use super::served::{Served, reason, soon};
use crate::{api::render, spec::test::guest};

#[tokio::test]
async fn every_bad_field_reaches_the_caller_and_nothing_is_written() {
    let served = Served::start().await;
    let mut spec = render::guest(&guest("worker-0"));
    spec.name = "n".repeat(200);
    spec.machine.as_mut().unwrap().memory_bytes = 0;
    let request = pb::ApplyGuestRequest { spec: Some(spec), dry_run: false };
    let refused = served.guests().apply_guest(request).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_FIELDS".to_owned()));
    let fields: Vec<String> =
        refused.get_details_bad_request().unwrap().field_violations.into_iter().map(|one| one.field).collect();
    assert_eq!(fields, ["spec.name", "spec.machine.memory_bytes"]);
    assert!(served.ledger.snapshot().guests.is_empty());
}

#[tokio::test]
async fn a_request_with_thousands_of_bad_fields_is_answered() {
    let served = Served::start().await;
    let mut spec = render::guest(&guest("worker-0"));
    spec.labels = (0..60).map(|number| (format!("{number}\n"), "\0".repeat(1000))).collect();
    spec.disks = vec![pb::Disk::default(); 10_000];
    let request = pb::ApplyGuestRequest { spec: Some(spec), dry_run: false };
    let refused = served.guests().apply_guest(request).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_FIELDS".to_owned()));
    assert!(refused.get_details_bad_request().unwrap().field_violations.len() > 10);
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused() {
    let served = Served::start().await;
    let mut spec = render::guest(&guest("worker-0"));
    spec.image = "x".repeat(5 << 20);
    let request = pb::ApplyGuestRequest { spec: Some(spec), dry_run: false };
    let refused = served.guests().apply_guest(request).await.unwrap_err();
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_so() {
    let served = Served::start().await;
    let request = pb::RemoveImageRequest { reference: "oci-layout:/nowhere:v1".to_owned() };
    let refused = served.images().remove_image(request).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::NotFound, "IMAGE_NOT_FOUND".to_owned()));
    assert_eq!(refused.get_details_resource_info().unwrap().resource_type, "goliath.agent.v1.Image");

    let request = pb::PullImageRequest { reference: "oci-layout:/nowhere:v1".to_owned() };
    let mut pull = served.images().pull_image(request).await.unwrap().into_inner();
    let ended = loop {
        match soon(pull.message()).await {
            Ok(Some(progress)) => assert_ne!(progress.phase(), pb::pull_image_response::Phase::Done),
            Ok(None) => panic!("the pull ended without a word"),
            Err(status) => break status,
        }
    };
    assert!(matches!(ended.code(), Code::NotFound | Code::Unavailable | Code::FailedPrecondition), "{ended:?}");
    assert!(!reason(&ended).1.is_empty());
}

#[tokio::test]
async fn the_doctor_says_what_was_tried() {
    let served = Served::start().await;
    let checks = served.hosts().doctor(pb::DoctorRequest {}).await.unwrap().into_inner().checks;
    assert_eq!(checks[0].verdict(), pb::doctor_check::Verdict::Pass);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let served = Served::start().await;
    for service in ["", "goliath.agent.v1.GuestService", "goliath.agent.v1.InspectService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(served.channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(served.channel.clone())
        .server_reflection_info(futures::stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        soon(answers.message()).await.unwrap().unwrap().message_response
    else {
        panic!("reflection lists services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["GuestService", "NetworkService", "HostService", "ImageService", "InspectService"] {
        assert!(names.contains(&format!("goliath.agent.v1.{name}")), "{names:?}");
    }
}
