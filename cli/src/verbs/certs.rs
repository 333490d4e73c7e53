//! `goliath certs`.

use std::time::Duration;

use clap::Args;
use goliath_proto::agent::v1::{ListCertificatesRequest, RotateCertificatesRequest};

use super::Session;
use crate::{
    failure::Failure,
    guest_reference::{self, full_name, uid},
    manifest::{duration_to_proto, parse_duration},
    output::{
        Format, certificate, print,
        structured::{self, Notation},
    },
    refusal::Refusal,
};

/// Shows the certificates that a guest holds, or renews them now
///
/// Keys are never shown: they do not leave the agent's memory but for the guest.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath certs acme/worker-0
  goliath certs acme/worker-0 --rotate
  goliath certs acme/worker-0 --rotate --name kubelet
  goliath certs acme/worker-0 -o json | jq -r '.[].certificateChain'")]
pub(crate) struct CertsArguments {
    /// cluster/name, name or uid
    guest: String,
    /// Renew them now, before their time
    #[arg(long)]
    rotate: bool,
    /// Only this one; may be given several times
    #[arg(long = "name", value_name = "NAME", requires = "rotate")]
    names: Vec<String>,
    /// How long to wait for the issuer
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration, requires = "rotate")]
    timeout: Duration,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(session: &Session, arguments: &CertsArguments) -> Result<(), Failure> {
    // The agent gives up in time and says why; we do not cut it off.
    let agent = session.patient_agent(arguments.timeout + Duration::from_secs(10)).await?;
    let guest = guest_reference::find(&agent, &arguments.guest).await?;
    let name = full_name(&guest);
    let uid = uid(&guest).to_owned();
    let mut inspect = agent.inspect();
    let certificates = if arguments.rotate {
        let timeout = Some(duration_to_proto(arguments.timeout));
        let request = RotateCertificatesRequest { uid, names: arguments.names.clone(), timeout };
        let response = inspect.rotate_certificates(request).await;
        let response = response.map_err(|status| Refusal::new(format!("renew the certificates of {name}"), &status))?;
        response.into_inner().certificates
    } else {
        let response = inspect.list_certificates(ListCertificatesRequest { uid }).await;
        let response = response.map_err(|status| Refusal::new(format!("list the certificates of {name}"), &status))?;
        response.into_inner().certificates
    };
    let view = session.view();
    match arguments.output {
        Format::Table | Format::Wide if certificates.is_empty() => {
            eprintln!("{name} holds no certificates");
            Ok(())
        }
        Format::Table | Format::Wide => print(&certificate::table(&certificates, view.now).render(&view)),
        Format::Json => print(&Notation::Json.many(&structured::certificates(&certificates))),
        Format::Yaml => print(&Notation::Yaml.many(&structured::certificates(&certificates))),
    }
}
