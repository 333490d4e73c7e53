//! `goliath doctor`.

use std::time::Duration;

use clap::Args;
use goliath_proto::agent::v1::DoctorRequest;

use super::Session;
use crate::{
    failure::Failure,
    output::{
        Format, doctor, print,
        structured::{self, Notation},
    },
    refusal::Refusal,
};

/// Tries what guests will need on the host, and says what it found
///
/// KVM is tried by running a guest's first instructions under it: that /dev/kvm opens proves nothing.
#[derive(Debug, Args)]
#[command(after_help = "Ends with 0 when all is well, 8 when there are warnings, 1 when something fails.")]
pub(crate) struct DoctorArguments {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Trying KVM and QEMU takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) async fn run(session: &Session, arguments: &DoctorArguments) -> Result<(), Failure> {
    let response = session
        .patient_agent(PATIENCE)
        .await?
        .host()
        .doctor(DoctorRequest {})
        .await
        .map_err(|status| Refusal::new("examine the host", &status))?;
    let checks = response.into_inner().checks;
    print(&match arguments.output {
        Format::Table | Format::Wide => doctor::page(&checks, &session.view()),
        Format::Json => Notation::Json.many(&structured::checks(&checks)),
        Format::Yaml => Notation::Yaml.many(&structured::checks(&checks)),
    })?;
    match doctor::worst(&checks) {
        Some(code) => Err(Failure::Verdict(code)),
        None => Ok(()),
    }
}
