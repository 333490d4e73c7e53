//! The command line for people who run and look into guests, and for those who run clusters of them.

mod arguments;
mod connection;
mod failure;
mod guest_reference;
mod guest_watch;
mod manifest;
mod operator;
mod output;
mod refusal;
mod style;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use failure::Failure;
use style::Terminal;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let terminal = Terminal::detect(arguments.color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(reason) => return finish(&Failure::Terminal("start", reason), terminal),
    };
    let result = runtime.block_on(verbs::run(arguments, terminal));
    // A thread that waits for the terminal's input would hold us up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => finish(&failure, terminal),
    }
}

fn finish(failure: &Failure, terminal: Terminal) -> ExitCode {
    if failure.is_closed_pipe() {
        return ExitCode::SUCCESS;
    }
    eprint!("{}", failure.report(terminal.err));
    ExitCode::from(failure.exit_code() as u8)
}
