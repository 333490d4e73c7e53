//! `goliath cordon` and `goliath uncordon`.

use goliath_proto::agent::v1::CordonHostRequest;

use super::Session;
use crate::{failure::Failure, output::print, refusal::Refusal};

pub(super) async fn run(session: &Session, cordoned: bool) -> Result<(), Failure> {
    let word = if cordoned { "cordon" } else { "uncordon" };
    let response = session
        .agent()
        .await?
        .host()
        .cordon_host(CordonHostRequest { cordoned })
        .await
        .map_err(|status| Refusal::new(format!("{word} the host"), &status))?;
    let name = response.into_inner().host.map(|host| host.name).unwrap_or_default();
    print(&format!("host {name} {word}ed\n"))
}
