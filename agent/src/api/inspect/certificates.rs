//! What a guest holds: never a private key.

use std::time::Duration;

use goliath_proto::agent::v1 as pb;
use goliath_server::violations::Violation;
use tonic::{Code, Request, Status};

use super::known;
use crate::{
    api::{
        Context, caller,
        errors::{self, Precondition},
        parse, render,
    },
    certs::RotateError,
    spec::{CertificateName, GuestUid},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_TIMEOUT: Duration = Duration::from_mins(5);

pub(super) fn list(
    context: &Context,
    request: &pb::ListCertificatesRequest,
) -> Result<pb::ListCertificatesResponse, Status> {
    let uid = known(context, &request.uid)?;
    let infos = (context.questions.certificates)(uid).map(|keeper| keeper.list()).unwrap_or_default();
    Ok(pb::ListCertificatesResponse { certificates: infos.iter().map(render::certificate).collect() })
}

pub(super) async fn rotate(
    context: &Context,
    request: Request<pb::RotateCertificatesRequest>,
) -> Result<pb::RotateCertificatesResponse, Status> {
    let caller = caller(&request)?;
    let request = request.into_inner();
    let uid = known(context, &request.uid)?;
    let (names, timeout) = read(&request).map_err(|violations| errors::invalid(&violations))?;
    let keeper = (context.questions.certificates)(uid).ok_or_else(|| no_certificates(uid))?;
    tracing::info!(%caller, guest = %uid, "certificates are to be renewed now");
    let renewed = keeper.rotate(&names, timeout).await.map_err(|error| failed(&error, uid))?;
    Ok(pb::RotateCertificatesResponse { certificates: renewed.iter().map(render::certificate).collect() })
}

fn read(request: &pb::RotateCertificatesRequest) -> Result<(Vec<CertificateName>, Duration), Vec<Violation>> {
    let mut violations = Vec::new();
    let mut names = Vec::new();
    for (index, name) in request.names.iter().enumerate() {
        match name.parse() {
            Ok(name) => names.push(name),
            Err(reason) => violations.push(Violation::new(format!("names[{index}]"), format!("{reason}"))),
        }
    }
    let timeout = match &request.timeout {
        None => DEFAULT_TIMEOUT,
        Some(timeout) => parse::seconds(timeout, Duration::from_secs(1), LONGEST_TIMEOUT).unwrap_or_else(|reason| {
            violations.push(Violation::new("timeout", reason.to_string()));
            DEFAULT_TIMEOUT
        }),
    };
    if violations.is_empty() { Ok((names, timeout)) } else { Err(violations) }
}

fn no_certificates(uid: GuestUid) -> Status {
    errors::failed_precondition(&[Precondition {
        reason: "NO_CERTIFICATES",
        subject: format!("guest {uid}"),
        description: format!("guest {uid} has no certificates: its spec asks for none, or it is not being run"),
    }])
}

fn failed(error: &RotateError, uid: GuestUid) -> Status {
    match error {
        RotateError::UnknownName(_) => errors::invalid(&[Violation::new("names", error.to_string())]),
        RotateError::Failed { .. } => errors::unavailable("ISSUER_FAILED", error.to_string()),
        RotateError::TimedOut(_) => errors::other(Code::DeadlineExceeded, "ISSUER_SLOW", error.to_string()),
        RotateError::Stopped => no_certificates(uid),
    }
}
