//! `goliath apply`.

mod generations;
mod ladder;
mod progress;
mod wait;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, error::ErrorKind};
use goliath_proto::agent::v1::{
    ApplyGuestRequest, ApplyGuestResponse, ApplyNetworkRequest, ApplyOutcome, DesiredState, GetNetworkRequest, Guest,
    Network,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Session, wrong_command_line};
use crate::{
    connection::{Agent, Server},
    failure::Failure,
    guest_reference::{self, full_name, uid},
    manifest::{self, Document, GuestManifest, Item, NetworkManifest, derived_uid, parse_duration},
    operator,
    output::print,
    refusal::Refusal,
    style::Tone,
};
use ladder::Goal;
use wait::{GuestTarget, NetworkTarget, Targets};
pub(crate) use wait::{WaitError, until_gone};

/// Makes guests and networks, or with an operator clusters and hosts, as files describe them
///
/// Applying the same again changes nothing. With an operator all manifests are checked before the first is applied.
/// With an agent all files are read and checked before anything is sent; networks go before guests. Where a manifest has no uid, the guest of that cluster and name is meant, and a
/// new one gets a uid derived from the two: use such a manifest on one host only. Where it has no generation,
/// the host's is taken, and grown by one when the specification differs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath apply -f guest.yaml
  goliath apply -f network.yaml -f guest.yaml --wait
  goliath apply -f guest.yaml --wait=running --timeout 30s
  goliath get guest worker-0 -o yaml | sed 's/vcpus: 1/vcpus: 2/' | goliath apply -f -
  goliath --operator https://operator.example apply -f clusters/ --dry-run
  goliath --operator https://operator.example apply -f clusters/ --prune team=a")]
pub(crate) struct ApplyArguments {
    /// A manifest in YAML, of one or more documents; `-` is the standard input; for an operator, a directory of them too
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Let everything be checked and admitted, and change nothing; an operator tells what would change
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Delete what matches this selector and is not among the manifests; with an operator
    #[arg(long, value_name = "SELECTOR")]
    prune: Option<String>,
    /// Wait until guests are booted (or have come as far as said) and networks are ready, or clusters are ready
    #[arg(long, value_enum, value_name = "STAGE", num_args = 0..=1, require_equals = true, default_missing_value = "booted")]
    wait: Option<Stage>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

/// How far a guest has to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// QEMU says that it runs
    Running,
    /// The guest says that it is up
    Booted,
    /// What it is for answers
    Ready,
}

/// Why one document was not applied.
type Applied<T> = Result<T, Failure>;

pub(super) async fn run(session: &Session, arguments: &ApplyArguments) -> Result<(), Failure> {
    if session.server()? == Server::Operator {
        return with_operator(session, arguments).await;
    }
    if arguments.prune.is_some() {
        wrong_command_line(ErrorKind::ArgumentConflict, "only an operator prunes: give --operator");
    }
    let documents = manifest::read(&arguments.files)?;
    let agent = session.agent().await?;
    let guests = guest_reference::list(&agent).await?;
    let mut targets = Targets::default();
    let mut failures = Vec::new();
    for document in &documents {
        let applied = match &document.item {
            Item::Guest(manifest) => {
                apply_guest(session, &agent, arguments, document, manifest, &guests, &mut targets).await
            }
            Item::Network(manifest) => {
                apply_network(session, &agent, arguments, document, manifest, &mut targets).await
            }
        };
        if let Err(failure) = applied {
            failures.push(failure);
        }
    }
    match failures.as_slice() {
        [] if arguments.wait.is_some() => wait::wait(&agent, targets, arguments.timeout, session.terminal).await,
        [] => Ok(()),
        [_] if documents.len() == 1 => Err(failures.swap_remove(0)),
        [first, ..] => {
            let code = first.exit_code();
            for failure in &failures {
                eprint!("{}", failure.report(session.terminal.err));
            }
            Err(Failure::Partly { failed: failures.len(), total: documents.len(), code })
        }
    }
}

async fn with_operator(session: &Session, arguments: &ApplyArguments) -> Result<(), Failure> {
    let ApplyArguments { files, dry_run, prune, wait, timeout } = arguments;
    if matches!(wait, Some(Stage::Running)) {
        wrong_command_line(
            ErrorKind::InvalidValue,
            "clusters are waited for until they are ready: leave the stage out",
        );
    }
    let wanted =
        operator::apply::Wanted { files, dry_run: *dry_run, prune: prune.as_deref(), wait: wait.map(|_| *timeout) };
    operator::apply::run(session, wanted).await
}

async fn apply_guest(
    session: &Session,
    agent: &Agent,
    arguments: &ApplyArguments,
    document: &Document,
    manifest: &GuestManifest,
    guests: &[Guest],
    targets: &mut Targets,
) -> Applied<()> {
    let held = held_guest(manifest, guests);
    let uid = match (manifest.uid, held) {
        (Some(uid), _) => uid.to_string(),
        (None, Some(held)) => uid(held).to_owned(),
        (None, None) => derived_uid(manifest.cluster(), manifest.name()).to_string(),
    };
    let held_generation = held.and_then(|guest| guest.spec.as_ref()).map(|spec| spec.generation);
    let mut answer = Err(Status::internal("no generation was offered"));
    for generation in generations::of_guest(manifest.generation, held_generation) {
        let spec = Some(manifest.spec(&uid, generation));
        answer = agent.guests().apply_guest(ApplyGuestRequest { spec, dry_run: arguments.dry_run }).await;
        if !differs(&answer) {
            break;
        }
    }
    let refusal = |status| Refusal::of_document(document, &status).with_hint(generation_hint(&status));
    let response = answer.map_err(refusal)?.into_inner();
    let outcome = match response.outcome() {
        ApplyOutcome::Created => "created",
        ApplyOutcome::Updated => "updated",
        ApplyOutcome::Unchanged => "unchanged",
        ApplyOutcome::Unspecified => "applied",
    };
    report(session, arguments, document, outcome)?;
    restart_note(session, &response, &manifest.full_name());
    let spec = response.guest.and_then(|guest| guest.spec).unwrap_or_else(|| manifest.spec(&uid, 1));
    let lifecycle = spec.lifecycle.unwrap_or_default();
    let goal = match (lifecycle.desired_state(), arguments.wait) {
        (DesiredState::Stopped, _) => Goal::Stopped,
        (DesiredState::Paused, _) => Goal::Paused,
        (_, Some(Stage::Running)) => Goal::Condition("Running"),
        (_, Some(Stage::Ready)) => Goal::Condition("Ready"),
        (_, Some(Stage::Booted) | None) => Goal::Condition("Booted"),
    };
    let restarts = !response.restart_required_by.is_empty() && lifecycle.restart_on_change;
    targets.guests.push(GuestTarget { uid, name: manifest.full_name(), generation: spec.generation, restarts, goal });
    Ok(())
}

/// By uid where the manifest gives one, else by cluster and name.
fn held_guest<'g>(manifest: &GuestManifest, guests: &'g [Guest]) -> Option<&'g Guest> {
    guests.iter().find(|guest| match manifest.uid {
        Some(given) => uid(guest).eq_ignore_ascii_case(&given.to_string()),
        None => full_name(guest) == manifest.full_name(),
    })
}

/// The agent holds something else under that generation.
fn differs<T>(answer: &Result<T, Status>) -> bool {
    matches!(answer, Err(status) if status.code() == Code::FailedPrecondition)
}

/// Where the generation is what the agent refuses: it was written down, or another was faster.
fn generation_hint(status: &Status) -> Option<&'static str> {
    let reason = status.get_details_error_info()?.reason;
    matches!(reason.as_str(), "STALE_GENERATION" | "REUSED_GENERATION")
        .then_some("leave the generation out of metadata and apply again: the right one is chosen then")
}

fn restart_note(session: &Session, response: &ApplyGuestResponse, name: &str) {
    if response.restart_required_by.is_empty() {
        return;
    }
    let restarts = response
        .guest
        .as_ref()
        .and_then(|guest| guest.spec.as_ref()?.lifecycle)
        .is_some_and(|lifecycle| lifecycle.restart_on_change);
    let fields = response.restart_required_by.join(", ");
    let note = if restarts {
        format!("{name} is restarted to take {fields}")
    } else {
        format!("{name} takes {fields} at its next start; lifecycle.restartOnChange: true would restart it now")
    };
    eprintln!("{} {note}", session.terminal.err.paint(Tone::Note, "note:"));
}

async fn apply_network(
    session: &Session,
    agent: &Agent,
    arguments: &ApplyArguments,
    document: &Document,
    manifest: &NetworkManifest,
    targets: &mut Targets,
) -> Applied<()> {
    let held = held_network(agent, document, manifest).await?;
    let held_generations = held.as_ref().map(|network| generations::NetworkGenerations {
        network: network.spec.as_ref().map_or(0, |spec| spec.generation),
        peers: network.peers.as_ref().map_or(0, |peers| peers.generation),
    });
    let given = (manifest.generation, manifest.peers_generation);
    let mut answer = Err(Status::internal("no generation was offered"));
    for offered in generations::of_network(given, held_generations, manifest.has_peers()) {
        let request = ApplyNetworkRequest {
            spec: Some(manifest.spec(offered.network)),
            peers: manifest.peers(offered.peers),
            cluster: String::new(),
            dry_run: arguments.dry_run,
        };
        answer = agent.networks().apply_network(request).await;
        if !differs(&answer) {
            break;
        }
    }
    let refusal = |status| Refusal::of_document(document, &status).with_hint(generation_hint(&status));
    let response = answer.map_err(refusal)?.into_inner();
    let outcome = match (&held, response.changed) {
        (None, _) => "created",
        (Some(_), true) => "updated",
        (Some(_), false) => "unchanged",
    };
    report(session, arguments, document, outcome)?;
    let network = response.network.unwrap_or_default();
    targets.networks.push(NetworkTarget {
        name: manifest.cluster().to_owned(),
        generation: network.spec.map_or(0, |spec| spec.generation),
        peers_generation: network.peers.map_or(0, |peers| peers.generation),
    });
    Ok(())
}

async fn held_network(agent: &Agent, document: &Document, manifest: &NetworkManifest) -> Applied<Option<Network>> {
    match agent.networks().get_network(GetNetworkRequest { cluster: manifest.cluster().to_owned() }).await {
        Ok(response) => Ok(response.into_inner().network),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(Refusal::of_document(document, &status).into()),
    }
}

fn report(session: &Session, arguments: &ApplyArguments, document: &Document, outcome: &str) -> Applied<()> {
    let tone = if outcome == "unchanged" { Tone::Dim } else { Tone::Good };
    let dry = if arguments.dry_run { " (dry run: nothing was changed)" } else { "" };
    print(&format!("{} {}{dry}\n", document.item.title(), session.terminal.out.paint(tone, outcome)))
}
