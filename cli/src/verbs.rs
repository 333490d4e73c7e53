//! One file per verb.

pub(crate) mod apply;
pub(crate) mod certs;
pub(crate) mod completion;
pub(crate) mod console;
pub(crate) mod cordon;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod get;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod pki;
pub(crate) mod watch;

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    arguments::{Arguments, Verb},
    connection::{self, Agent, ConnectionArguments, Operator, Server},
    failure::Failure,
    operator,
    output::View,
    style::Terminal,
};

/// What every verb has at hand.
pub(crate) struct Session {
    pub(crate) terminal: Terminal,
    connection: ConnectionArguments,
}

impl Session {
    /// Connects; what can be checked without an agent is to be checked before.
    pub(crate) async fn agent(&self) -> Result<Agent, Failure> {
        Agent::connect(&self.connection).await
    }

    /// For a request that may rightly take longer than others.
    pub(crate) async fn patient_agent(&self, patience: Duration) -> Result<Agent, Failure> {
        Agent::connect(&self.connection.with_patience(patience)).await
    }

    /// As [`Self::agent`], of the operator.
    pub(crate) async fn operator(&self) -> Result<Operator, Failure> {
        Operator::connect(&self.connection).await
    }

    /// Which of the two is meant.
    pub(crate) fn server(&self) -> Result<Server, Failure> {
        Ok(connection::server(&self.connection)?)
    }

    pub(crate) fn view(&self) -> View {
        View { style: self.terminal.out, width: self.terminal.width, now: Timestamp::now() }
    }
}

/// Does what was asked.
pub(crate) async fn run(arguments: Arguments, terminal: Terminal) -> Result<(), Failure> {
    let session = Session { terminal, connection: arguments.connection };
    let result = dispatch(&session, arguments.verb).await;
    match result {
        Err(Failure::Refusal(refusal)) if refusal.is_connection_lost() => {
            Err(connection::diagnose(&session.connection).await.map_or(Failure::Refusal(refusal), Failure::Connect))
        }
        result => result,
    }
}

/// Ends the program as it ends when the command line itself is wrong.
fn wrong_command_line(kind: clap::error::ErrorKind, message: impl std::fmt::Display) -> ! {
    <Arguments as clap::CommandFactory>::command().error(kind, message).exit()
}

async fn dispatch(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Apply(arguments) => apply::run(session, &arguments).await,
        Verb::Get(arguments) => get::run(session, &arguments).await,
        Verb::Describe(arguments) => describe::run(session, &arguments).await,
        Verb::Delete(arguments) => delete::run(session, &arguments).await,
        Verb::Logs(arguments) => logs::run(session, &arguments).await,
        Verb::Console(arguments) => console::run(session, &arguments).await,
        Verb::Certs(arguments) => certs::run(session, &arguments).await,
        Verb::Image(arguments) => image::run(session, &arguments).await,
        Verb::Cordon(arguments) => cordon::run(session, &arguments, true).await,
        Verb::Uncordon(arguments) => cordon::run(session, &arguments, false).await,
        Verb::Doctor(arguments) => doctor::run(session, &arguments).await,
        Verb::Watch(arguments) => watch::run(session, &arguments).await,
        Verb::Tree(arguments) => operator::tree::run(session, &arguments).await,
        Verb::Explain(arguments) => operator::explain::run(session, &arguments).await,
        Verb::Scale(arguments) => operator::scale::run(session, &arguments).await,
        Verb::Drain(arguments) => operator::drain::run(session, &arguments).await,
        Verb::Host(arguments) => operator::host::run(session, &arguments).await,
        Verb::Events(arguments) => operator::events::run(session, &arguments).await,
        Verb::Pki(arguments) => pki::run(&arguments),
        Verb::Completion(arguments) => completion::run(&arguments),
    }
}
