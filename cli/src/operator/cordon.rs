//! `goliath cordon` and `goliath uncordon` of an operator.

use goliath_proto::operator::v1::CordonHostRequest;

use crate::{failure::Failure, output::print, refusal::Refusal, verbs::Session};

pub(crate) async fn run(session: &Session, host: &str, cordoned: bool) -> Result<(), Failure> {
    let word = if cordoned { "cordon" } else { "uncordon" };
    let operator = session.operator().await?;
    let request = CordonHostRequest { name: host.to_owned(), cordoned };
    let response = operator.fleet().cordon_host(request).await;
    let response = response.map_err(|status| Refusal::by_operator(format!("{word} host {host}"), &status))?;
    let already = if response.into_inner().unchanged { " already" } else { "" };
    print(&format!("host {host} {word}ed{already}\n"))
}
