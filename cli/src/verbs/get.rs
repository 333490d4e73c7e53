//! `goliath get`.

use clap::{Args, ValueEnum, error::ErrorKind};
use goliath_proto::agent::v1::{
    GetHostRequest, GetNetworkRequest, Guest, Host, Image, ListImagesRequest, ListNetworksRequest, Network,
};
use serde::Serialize;
use tonic::Code;

use super::{Session, wrong_command_line};
use crate::{
    connection::{Agent, Server},
    failure::Failure,
    guest_reference::{self, ReferenceError, full_name, uid},
    guest_watch::{Change, GuestWatch},
    manifest::render::GuestForm,
    operator,
    output::{
        Format, guest, host, image, network, print,
        structured::{self, Notation},
        table::Table,
    },
    refusal::Refusal,
};

/// Shows what there is
///
/// An agent has hosts, guests, networks and images; guests and networks come in YAML as `goliath apply` takes them. An
/// operator has clusters, hosts, guests, certificateauthorities and certificates.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath get guests
  goliath get guests -w                 and every change as it comes
  goliath get guest acme/worker-0 -o yaml > worker-0.yaml
  goliath get images -o wide
  goliath get hosts -o json | jq '.[].available'")]
pub(crate) struct GetArguments {
    /// hosts, guests, networks, images; of an operator clusters, hosts, guests, ...
    kind: String,
    /// Only this one
    name: Option<String>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Go on with every change; of an agent's, guests only
    #[arg(short, long)]
    watch: bool,
    /// Only those whose labels match; of an operator's
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "host")]
    Hosts,
    #[value(alias = "guest")]
    Guests,
    #[value(alias = "network")]
    Networks,
    #[value(alias = "image")]
    Images,
}

pub(super) async fn run(session: &Session, arguments: &GetArguments) -> Result<(), Failure> {
    if session.server()? == Server::Operator {
        let GetArguments { kind, name, output, watch, selector } = arguments;
        let wanted = operator::get::Wanted { kind, name: name.as_deref(), selector, output: *output, watch: *watch };
        return operator::get::run(session, wanted).await;
    }
    let kind = Kind::from_str(&arguments.kind, true).unwrap_or_else(|_| {
        let message = format!("`{}` is not a kind: an agent has hosts, guests, networks and images", arguments.kind);
        wrong_command_line(ErrorKind::InvalidValue, message)
    });
    if arguments.watch && kind != Kind::Guests {
        wrong_command_line(ErrorKind::ArgumentConflict, "only guests can be watched");
    }
    if !arguments.selector.is_empty() {
        wrong_command_line(ErrorKind::ArgumentConflict, "only an operator selects by labels");
    }
    let agent = session.agent().await?;
    let name = arguments.name.as_deref();
    let wide = arguments.output == Format::Wide;
    let now = session.view().now;
    let show = Show { session, arguments };
    match kind {
        Kind::Guests if arguments.watch => watch(session, arguments, &agent).await,
        Kind::Guests => {
            let structured = matches!(arguments.output, Format::Json | Format::Yaml);
            let guests = guests(&agent, name, structured).await?;
            show.table(&guest::table(&guests, wide, now), "no guests on this host", &structured::guests(&guests))
        }
        Kind::Hosts => {
            let host = get_host(&agent, name).await?;
            show.table(&host::table(&host, wide), "", &[structured::host(&host)])
        }
        Kind::Networks => {
            let networks = networks(&agent, name).await?;
            let forms = structured::networks(&networks);
            show.table(&network::table(&networks, wide), "no networks on this host", &forms)
        }
        Kind::Images => {
            let images = images(&agent, name).await?;
            show.table(&image::table(&images, wide, now), "no images on this host", &structured::images(&images))
        }
    }
}

struct Show<'a> {
    session: &'a Session,
    arguments: &'a GetArguments,
}

impl Show<'_> {
    fn table<T: Serialize>(&self, table: &Table, nothing: &str, forms: &[T]) -> Result<(), Failure> {
        let notation = match self.arguments.output {
            Format::Table | Format::Wide if table.is_empty() => {
                eprintln!("{nothing}");
                return Ok(());
            }
            Format::Table | Format::Wide => return print(&table.render(&self.session.view())),
            Format::Json => Notation::Json,
            Format::Yaml => Notation::Yaml,
        };
        match forms {
            [one] if self.arguments.name.is_some() => print(&notation.one(one)),
            several => print(&notation.many(several)),
        }
    }
}

/// What is printed to be applied again must have its seed: without, a guest would lose it.
async fn guests(agent: &Agent, name: Option<&str>, with_seeds: bool) -> Result<Vec<Guest>, Failure> {
    let brief = match name {
        Some(name) => vec![guest_reference::find(agent, name).await?],
        None => guest_reference::list(agent).await?,
    };
    if !with_seeds {
        return Ok(brief);
    }
    let mut guests = Vec::with_capacity(brief.len());
    for guest in brief {
        guests.extend(guest_reference::in_full(agent, &guest).await?);
    }
    Ok(guests)
}

/// The host of this agent; a name, where given, must be its own.
pub(super) async fn get_host(agent: &Agent, name: Option<&str>) -> Result<Host, Failure> {
    let response =
        agent.host().get_host(GetHostRequest {}).await.map_err(|status| Refusal::new("get the host", &status))?;
    let host = response.into_inner().host.unwrap_or_default();
    match name {
        Some(name) if name != host.name => Err(ReferenceError::not_found("host", name, [host.name]).into()),
        _ => Ok(host),
    }
}

/// One network by its name.
pub(super) async fn get_network(agent: &Agent, name: &str) -> Result<Network, Failure> {
    match agent.networks().get_network(GetNetworkRequest { cluster: name.to_owned() }).await {
        Ok(response) => Ok(response.into_inner().network.unwrap_or_default()),
        Err(status) if status.code() == Code::NotFound => {
            let known = networks(agent, None).await?;
            let names = known.into_iter().filter_map(|network| network.spec).map(|spec| spec.cluster);
            Err(ReferenceError::not_found("network", name, names).into())
        }
        Err(status) => Err(Refusal::new(format!("get network {name}"), &status).into()),
    }
}

async fn networks(agent: &Agent, name: Option<&str>) -> Result<Vec<Network>, Failure> {
    if let Some(name) = name {
        return Ok(vec![Box::pin(get_network(agent, name)).await?]);
    }
    let response = agent
        .networks()
        .list_networks(ListNetworksRequest {})
        .await
        .map_err(|status| Refusal::new("list the networks", &status))?;
    let mut networks = response.into_inner().networks;
    networks.sort_by_key(|network| network.spec.as_ref().map(|spec| spec.cluster.clone()));
    Ok(networks)
}

/// All images, or the one of that reference or digest.
async fn images(agent: &Agent, name: Option<&str>) -> Result<Vec<Image>, Failure> {
    let response = agent
        .images()
        .list_images(ListImagesRequest {})
        .await
        .map_err(|status| Refusal::new("list the images", &status))?;
    let mut images = response.into_inner().images;
    images.sort_by(|one, other| (&one.references, &one.digest).cmp(&(&other.references, &other.digest)));
    let Some(name) = name else { return Ok(images) };
    let digest = name.strip_prefix("sha256:").unwrap_or(name);
    // As short as the table shows it.
    let is_digest = |image: &Image| {
        digest.len() >= 8 && image.digest.strip_prefix("sha256:").is_some_and(|hex| hex.starts_with(digest))
    };
    let found: Vec<Image> = images
        .iter()
        .filter(|image| image.references.iter().any(|reference| reference == name) || is_digest(image))
        .cloned()
        .collect();
    if found.is_empty() {
        let names = images.into_iter().flat_map(|image| image.references);
        return Err(ReferenceError::not_found("image", name, names).into());
    }
    Ok(found)
}

/// Prints each guest again when it changes, until it is interrupted.
async fn watch(session: &Session, arguments: &GetArguments, agent: &Agent) -> Result<(), Failure> {
    let chosen = match arguments.name.as_deref() {
        Some(name) => Some(uid(&guest_reference::find(agent, name).await?).to_owned()),
        None => None,
    };
    let mut watch = GuestWatch::start(agent).await?;
    let mut lines = guest::Lines::new(arguments.output == Format::Wide);
    loop {
        let (guest, gone) = match watch.next().await? {
            Change::Present(guest) => (guest, false),
            Change::Gone(guest) => (guest, true),
        };
        if chosen.as_deref().is_some_and(|chosen| chosen != uid(&guest)) {
            continue;
        }
        match arguments.output {
            Format::Table | Format::Wide if gone => print(&format!("{} is gone\n", full_name(&guest)))?,
            Format::Table | Format::Wide => print(&lines.next(&guest, &session.view()))?,
            // What is gone is nothing to print: its last state would look as if it were there.
            Format::Json | Format::Yaml if gone => {}
            format => {
                let notation = if format == Format::Json { Notation::Json } else { Notation::Yaml };
                if let Some(guest) = guest_reference::in_full(agent, &guest).await? {
                    print(&notation.streamed(&GuestForm::from(&guest)))?;
                }
            }
        }
    }
}
