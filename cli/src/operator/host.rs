//! `goliath host`.

use clap::{Args, Subcommand};
use goliath_proto::operator::v1::{
    AddHostRequest, ForgetHostRequest, HostCredential, IssueHostCredentialsRequest, IssuerFailure,
};
use serde_json::{Map, Value, json};

use crate::{
    failure::{ExitCode, Failure},
    manifest::API_VERSION,
    output::{print, text::span},
    refusal::Refusal,
    style::Tone,
    verbs::Session,
};

/// Adds hosts to an operator's fleet, and forgets those that are lost
#[derive(Debug, Args)]
pub(crate) struct HostArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Add(AddArguments),
    Credentials(CredentialsArguments),
    Forget(ForgetArguments),
}

/// Makes a host known and prints what its agent needs to log in at the issuers of certificates
///
/// The credentials are shown once. A host may as well be applied as a manifest, and get its credentials by
/// `goliath host credentials`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  goliath host add host-a --address host-a.example:7443 --zone room-1 --label rack=7")]
struct AddArguments {
    /// Its name, as its agent calls itself
    name: String,
    /// Where its agent's API answers
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// The name in the agent's certificate, where it is not the address's
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Where it fails together with others: a room, a rack
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// What it is for; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Take no guests yet
    #[arg(long)]
    cordoned: bool,
    /// Let the operator check it, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Gives a host's agent new credentials; the earlier ones end
#[derive(Debug, Args)]
struct CredentialsArguments {
    /// The host's name
    name: String,
}

/// Gives up a host that is lost for good: its guests are started elsewhere
///
/// This is your word that nothing runs on the machine any more. If it only cannot be reached, the same guests would run
/// twice. A host that answers is refused: drain it, then delete it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath host forget host-a           says what would be done
  goliath host forget host-a --yes     does it")]
struct ForgetArguments {
    /// The host's name
    name: String,
    /// The machine is off, and stays off
    #[arg(long)]
    yes: bool,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(session: &Session, arguments: &HostArguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::Add(arguments) => add(session, arguments).await,
        Action::Credentials(arguments) => credentials(session, arguments).await,
        Action::Forget(arguments) => forget(session, arguments).await,
    }
}

async fn add(session: &Session, arguments: &AddArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let (name, dry_run) = (&arguments.name, arguments.dry_run);
    let request = AddHostRequest { manifest: manifest(arguments).to_string(), dry_run };
    let response = operator.fleet().add_host(request).await;
    let response = response.map_err(|status| Refusal::by_operator(format!("add host {name}"), &status))?.into_inner();
    if dry_run {
        return print(&format!("host {name} can be added (dry run: nothing was changed)\n"));
    }
    print(&format!("host {name} added\n"))?;
    tell(session, name, &response.credentials, &response.failures)
}

fn manifest(arguments: &AddArguments) -> Value {
    let mut spec = Map::from_iter([("address".to_owned(), Value::from(arguments.address.as_str()))]);
    let texts = [("serverName", &arguments.server_name), ("zone", &arguments.zone)];
    spec.extend(texts.into_iter().filter_map(|(field, text)| Some((field.to_owned(), text.as_deref()?.into()))));
    if !arguments.roles.is_empty() {
        spec.insert("roles".to_owned(), arguments.roles.clone().into());
    }
    if arguments.cordoned {
        spec.insert("cordoned".to_owned(), true.into());
    }
    let labels: Map<String, Value> =
        arguments.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    let metadata = if labels.is_empty() {
        json!({ "name": arguments.name })
    } else {
        json!({ "name": arguments.name, "labels": labels })
    };
    json!({ "apiVersion": API_VERSION, "kind": "Host", "metadata": metadata, "spec": spec })
}

async fn credentials(session: &Session, CredentialsArguments { name }: &CredentialsArguments) -> Result<(), Failure> {
    let operator = session.operator().await?;
    let request = IssueHostCredentialsRequest { name: name.clone() };
    let response = operator.fleet().issue_host_credentials(request).await;
    let response = response
        .map_err(|status| Refusal::by_operator(format!("get credentials for host {name}"), &status))?
        .into_inner();
    tell(session, name, &response.credentials, &response.failures)
}

/// What is to be done on the host; an issuer that failed is an error after what the others gave was shown.
fn tell(
    session: &Session,
    host: &str,
    credentials: &[HostCredential],
    failures: &[IssuerFailure],
) -> Result<(), Failure> {
    for credential in credentials {
        print(&instructions(credential))?;
    }
    for IssuerFailure { issuer, message } in failures {
        eprintln!("{} issuer {issuer} gave no credentials: {message}", session.terminal.err.paint(Tone::Bad, "error:"));
    }
    if failures.is_empty() {
        return Ok(());
    }
    eprintln!("{} goliath host credentials {host}", session.terminal.err.paint(Tone::Note, "again:"));
    Err(Failure::Verdict(ExitCode::Unreachable))
}

fn instructions(credential: &HostCredential) -> String {
    let HostCredential { issuer, auth_mount, role_id, wrapped_secret_id, ttl } = credential;
    let good_for = ttl.map(|ttl| format!(" (good once, within {})", span(ttl.seconds))).unwrap_or_default();
    format!(
        "
For issuer {issuer}, in the host's /etc/goliath/agent.toml:

  [issuers.{issuer}.auth]
  method = \"approle\"
  mount = \"{auth_mount}\"
  role_id = \"{role_id}\"
  wrapped_secret_id_file = \"/etc/goliath/{issuer}.wrapped\"

and in that file, readable by root alone{good_for}:

  {wrapped_secret_id}
"
    )
}

async fn forget(session: &Session, arguments: &ForgetArguments) -> Result<(), Failure> {
    let ForgetArguments { name, yes } = arguments;
    let operator = session.operator().await?;
    let request = ForgetHostRequest { name: name.clone(), dry_run: !yes };
    let response = operator.fleet().forget_host(request).await;
    let response = response.map_err(|status| Refusal::by_operator(format!("forget host {name}"), &status))?;
    let guests = response.into_inner().guests;
    if *yes {
        print(&format!("host {name} forgotten\n"))?;
        return guests.iter().try_for_each(|guest| print(&format!("guest {guest} is started elsewhere\n")));
    }
    print(&format!("host {name} would be forgotten, and these guests started elsewhere: {}\n", listed(&guests)))?;
    eprintln!(
        "{} if the machine still runs them, they would run twice. Is it off for good? Then say --yes",
        session.terminal.err.paint(Tone::Warn, "nothing was done:")
    );
    Err(Failure::Verdict(ExitCode::Usage))
}

fn listed(guests: &[String]) -> String {
    if guests.is_empty() { "none".to_owned() } else { guests.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_a_manifest() {
        let arguments = AddArguments {
            name: "host-a".to_owned(),
            address: "192.0.2.1:7443".to_owned(),
            server_name: None,
            zone: Some("room-1".to_owned()),
            roles: vec!["master".to_owned()],
            labels: vec![("rack".to_owned(), "7".to_owned())],
            cordoned: true,
            dry_run: false,
        };
        assert_eq!(
            manifest(&arguments),
            json!({
                "apiVersion": "goliath.dev/v1alpha1", "kind": "Host",
                "metadata": { "name": "host-a", "labels": { "rack": "7" } },
                "spec": { "address": "192.0.2.1:7443", "zone": "room-1", "roles": ["master"], "cordoned": true },
            })
        );
    }

    #[test]
    fn what_to_write_on_the_host_is_told() {
        let credential = HostCredential {
            issuer: "vault".to_owned(),
            auth_mount: "approle".to_owned(),
            role_id: "0f1e".to_owned(),
            wrapped_secret_id: "hvs.token".to_owned(),
            ttl: Some(prost_types::Duration { seconds: 1800, nanos: 0 }),
        };
        insta::assert_snapshot!(instructions(&credential));
    }
}
