//! One file per verb.

pub(crate) mod apply;
pub(crate) mod certs;
pub(crate) mod completion;
pub(crate) mod console;
mod cordon;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod get;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod pki;

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    arguments::{Arguments, Verb},
    connection::{self, Agent, ConnectionArguments},
    failure::Failure,
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
        Verb::Cordon => cordon::run(session, true).await,
        Verb::Uncordon => cordon::run(session, false).await,
        Verb::Doctor(arguments) => doctor::run(session, &arguments).await,
        Verb::Pki(arguments) => pki::run(&arguments),
        Verb::Completion(arguments) => completion::run(&arguments),
    }
}
