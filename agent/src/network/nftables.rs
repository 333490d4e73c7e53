//! nftables, by the tool `nft`: whole tables in one transaction, and elements of sets.
//!
//! Attaching a guest only adds elements, so its cost does not grow with the number of guests.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Seek as _, Write as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    time::timeout,
};

/// Even on a busy machine `nft` needs milliseconds.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// nft failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It did not start.
    #[error("cannot run {}: is the package nftables installed?", tool.display())]
    Start {
        /// As configured.
        tool: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("nft refused: {0}")]
    Refused(String),
    /// It did not end.
    #[error("nft did not finish within {} seconds", TIME_LIMIT.as_secs())]
    TimedOut,
    /// It printed something else than a list.
    #[error("nft's list is not understood")]
    Malformed(#[source] serde_json::Error),
}

/// The tool; it works on the namespace of the thread that calls it.
#[derive(Debug, Clone)]
pub(super) struct Nft {
    tool: PathBuf,
}

/// A transaction that was begun.
pub(super) struct Transaction(Child);

impl Nft {
    pub(super) fn new(tool: PathBuf) -> Self {
        Self { tool }
    }

    /// Begins a transaction; all of the script is done, or nothing.
    pub(super) fn begin(&self, script: &str) -> Result<Transaction, NftError> {
        let start = || -> io::Result<Child> {
            // A file, so that nobody has to feed a pipe.
            let mut input = File::from(memfd_create(c"nft", MFdFlags::MFD_CLOEXEC)?);
            input.write_all(script.as_bytes())?;
            input.rewind()?;
            self.command(&["-f", "-"]).stdin(input).spawn()
        };
        start().map(Transaction).map_err(|source| NftError::Start { tool: self.tool.clone(), source })
    }

    /// Does a transaction.
    pub(super) fn run(&self, script: &str) -> Result<(), NftError> {
        self.begin(script)?.finish()
    }

    /// Lists as JSON, without counters: `what` is a table or everything. None: there is no such thing.
    pub(super) fn list(&self, what: &[&str]) -> Result<Option<Vec<Value>>, NftError> {
        let arguments: Vec<&str> = ["-j", "-s", "list"].iter().chain(what).copied().collect();
        let child = self
            .command(&arguments)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|source| NftError::Start { tool: self.tool.clone(), source })?;
        match Transaction(child).output() {
            Ok(output) => {
                let mut list: Value = serde_json::from_slice(&output).map_err(NftError::Malformed)?;
                Ok(Some(match list.get_mut("nftables").map(Value::take) {
                    Some(Value::Array(objects)) => objects,
                    _ => Vec::new(),
                }))
            }
            Err(NftError::Refused(message)) if message.contains("No such file or directory") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.tool);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

impl Transaction {
    /// Waits for its end.
    pub(super) fn finish(self) -> Result<(), NftError> {
        self.output().map(drop)
    }

    fn output(self) -> Result<Vec<u8>, NftError> {
        // The calling thread is a worker's, not one of the runtime's.
        let ended = Handle::current().block_on(async { timeout(TIME_LIMIT, self.0.wait_with_output()).await });
        match ended {
            Err(_) => Err(NftError::TimedOut),
            Ok(Err(reason)) => Err(NftError::Refused(reason.to_string())),
            Ok(Ok(output)) if output.status.success() => Ok(output.stdout),
            Ok(Ok(output)) => Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

/// The rules of a list in a form that is the same as long as they are: chains, rules and the sets' definitions of our
/// tables, without what the kernel numbers.
pub(super) fn fingerprint(objects: &[Value]) -> String {
    let mut lines = Vec::new();
    for object in objects.iter().filter(|object| is_ours(object)) {
        let mut object = object.clone();
        for body in object.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
            if let Some(body) = body.as_object_mut() {
                body.remove("handle");
                body.remove("elem");
            }
        }
        lines.push(object.to_string());
    }
    lines.join("\n")
}

fn is_ours(object: &Value) -> bool {
    let Some(object) = object.as_object() else { return false };
    object.iter().any(|(kind, body)| {
        let table = if kind == "table" { body.get("name") } else { body.get("table") };
        table.and_then(Value::as_str) == Some(TABLE)
    })
}

/// Our tables have this name, in every family and namespace.
pub(super) const TABLE: &str = "goliath";

/// The elements of a set, each as its parts.
pub(super) fn elements(objects: &[Value], set: &str) -> BTreeSet<Vec<String>> {
    let parts = |element: &Value| -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match element.get("concat").and_then(Value::as_array) {
            Some(parts) => parts.iter().map(text).collect(),
            None => vec![text(element)],
        }
    };
    objects
        .iter()
        .filter(|object| is_ours(object))
        .filter_map(|object| object.get("set"))
        .filter(|body| body.get("name").and_then(Value::as_str) == Some(set))
        .filter_map(|body| body.get("elem").and_then(Value::as_array))
        .flatten()
        .map(parts)
        .collect()
}
