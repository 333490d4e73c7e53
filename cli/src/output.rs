//! What people see: rows and pages made from messages, without asking anybody anything.

pub(crate) mod certificate;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod network;
pub(crate) mod structured;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod tree;
pub(crate) mod words;

use std::io::Write as _;

use clap::ValueEnum;
use jiff::Timestamp;

use crate::{failure::Failure, style::Style};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    /// A table with more columns
    Wide,
    Json,
    /// What `goliath apply` takes
    Yaml,
}

/// What a page depends on beside the messages it shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) style: Style,
    /// None: as wide as it gets.
    pub(crate) width: Option<u16>,
    /// Ages are told from here.
    pub(crate) now: Timestamp,
}

/// Writes to the standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests;
