//! The command line's grammar.

use clap::{Parser, Subcommand};

use crate::{
    connection::ConnectionArguments,
    failure::EXIT_CODES,
    operator::{
        drain::DrainArguments, events::EventsArguments, explain::ExplainArguments, host::HostArguments,
        scale::ScaleArguments, tree::TreeArguments,
    },
    style::ColorChoice,
    verbs::{
        apply::ApplyArguments, certs::CertsArguments, completion::CompletionArguments, console::ConsoleArguments,
        cordon::CordonArguments, delete::DeleteArguments, describe::DescribeArguments, doctor::DoctorArguments,
        get::GetArguments, image::ImageArguments, logs::LogsArguments, pki::PkiArguments, watch::WatchArguments,
    },
};

/// Runs and looks into the guests of a Goliath host, or the clusters of many hosts.
///
/// It speaks to the agent of one host or, with --operator, to the operator of many. A guest is named cluster/name, on a
/// host its name alone where that is unique, or its uid.
#[derive(Debug, Parser)]
#[command(
    name = "goliath",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = long_epilogue()
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,
    /// Colours: auto, always or never; auto also honours NO_COLOR
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true,
        hide_default_value = true,
        help_heading = "Connection"
    )]
    pub(crate) color: ColorChoice,
}

fn long_epilogue() -> String {
    format!(
        "\
Examples:
  goliath apply -f guest.yaml --wait     make it so, and watch it boot
  goliath get guests                     what runs here
  goliath describe guest acme/worker-0   why it does not
  goliath logs acme/worker-0 -f          what it says on its serial console
  goliath doctor                         what this machine lacks
  goliath --operator https://operator.example apply -f cluster.yaml --wait
  goliath --operator https://operator.example tree acme

{EXIT_CODES}"
    )
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Apply(ApplyArguments),
    Get(GetArguments),
    Describe(DescribeArguments),
    Delete(DeleteArguments),
    Logs(LogsArguments),
    Console(ConsoleArguments),
    Certs(CertsArguments),
    Image(ImageArguments),
    /// Lets a host accept no new guests; those it has go on
    Cordon(CordonArguments),
    /// Lets a host accept guests again
    Uncordon(CordonArguments),
    Doctor(DoctorArguments),
    Watch(WatchArguments),
    Tree(TreeArguments),
    Explain(ExplainArguments),
    Scale(ScaleArguments),
    Drain(DrainArguments),
    Host(HostArguments),
    Events(EventsArguments),
    Pki(PkiArguments),
    Completion(CompletionArguments),
}
